"""Shared small data. Everything here is seeded; nothing needs a download or more than a second."""

import os
from collections.abc import Callable
from pathlib import Path

# Before anything imports Ray or MLflow: tests neither report usage nor leave the machine.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np
import pytest
import torch

from defenses.models import ModelSpec
from defenses.runner import RunContext
from defenses.store import Store
from study.datasets.images import Images

CLASSES, SIZE = 4, 16


def make_images(train: int = 128, test: int = 64, classes: int = CLASSES, size: int = SIZE, seed: int = 0) -> Images:
    """Noisy images whose class is the row of a bright band: learned in a few epochs, class-balanced."""
    rng = np.random.default_rng(seed)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (np.arange(count) % classes).astype(np.int64)
        images = rng.integers(0, 80, (count, size, size, 3))
        height = max(1, size // classes)
        for label in range(classes):
            start = min(label * height, size - height)
            images[labels == label, start : start + height] += 120
        return images.astype(np.uint8), labels

    train_images, train_labels = split(train)
    test_images, test_labels = split(test)
    return Images.of(train_images, train_labels, test_images, test_labels, tuple(f"c{i}" for i in range(classes)))


@pytest.fixture(scope="session")
def images() -> Images:
    """128 training and 64 test images of 16 px in 4 classes."""
    return make_images()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., RunContext]:
    """Run contexts for the small images, in float32 on the CPU."""

    def make(seed: int = 0, width: int = 8, name: str = "resnet18", folder: str = "store") -> RunContext:
        spec = ModelSpec(name, width, (1, 1, 1, 1), CLASSES, SIZE)
        return RunContext(Store(tmp_path / folder), spec, seed, torch.device("cpu"), "fp32")

    return make
