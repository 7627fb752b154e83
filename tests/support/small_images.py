"""Images that a small network learns in a few epochs."""

import numpy as np
from numpy.typing import NDArray

from defenses.api import CleanReserve
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


def make_reserve(classes: int = CLASSES, size: int = SIZE) -> CleanReserve:
    """32 clean images like those of `make_images`, and none of them."""
    beside = make_images(8, 32, classes, size, seed=1000)
    return CleanReserve.of(beside.test_images, beside.test_labels, classes)


def stripes(n: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey images whose class is the slope of stripes of any width and place, in any light: views keep only that."""
    labels = (np.arange(n) % CLASSES).astype(np.int64)
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, phase = labels[:, None, None] * np.pi / CLASSES, rng.uniform(0, 2 * np.pi, (n, 1, 1))
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.7, 1.7, (n, 1, 1)) + phase)
    light, contrast = rng.uniform(48, 208, (n, 1, 1)), rng.uniform(30, 60, (n, 1, 1))
    images = (light + contrast * waves)[..., None] + rng.normal(0, 20, (n, SIZE, SIZE, 3))
    return images.clip(0, 255).astype(np.uint8), labels
