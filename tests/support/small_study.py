"""What several test files share: a study so small that all of it runs in a second, and records written by hand."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search_spaces.space import SearchSpace
from study.config.config import StudyConfig, resolve
from study.config.objectives import Direction
from study.datasets.images import Images
from study.ledger.ledger import Ledger
from study.ledger.records import ScenarioRecord
from study.planning.plan import Plan, make_plan

torch.set_num_threads(1)  # two threads on batches this small wait for one another most of the time

TINY_PIPD = {
    "pre_isolation_epochs": "2",
    "selective_epochs": "1",
    "batch_size": "32",
    "pre_isolation_lr": "0.01",
}
"""Fields that make PIPD run in a blink. None of them is searched, so the space stays whole."""


def save_npz(path: Path, images: Images, **changes: Any) -> str:
    """Saves images and gives the name of the dataset; `changes` replaces arrays, None leaves one out."""
    arrays = {
        "train_images": images.train_images,
        "train_labels": images.train_labels,
        "test_images": images.test_images,
        "test_labels": images.test_labels,
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return f"npz:{path}"


def small_plan(dataset: str, out: Path, **options: Any) -> Plan:
    """A plan on the CPU in float32 with a network of two narrow stages."""
    given = {"dataset": dataset, "out": out, "width": 4, "blocks": (1, 1), "attacks": ("badnets",), **options}
    return make_plan(resolve(StudyConfig, given), "cpu", 0.0, "fp32")


def scenario_record(
    scenario: str, metrics: dict[str, float | None], attack_failed: bool = False, **changes: Any
) -> ScenarioRecord:
    """A judged scenario with one built and one stored stage."""
    stages = [
        {"stage": "poison", "key": "a" * 64, "hit": True, "wall_seconds": 0.1, "built_seconds": 1.5},
        {"stage": "isolate", "key": "b" * 64, "hit": False, "wall_seconds": 0.2, "built_seconds": 0.25},
    ]
    values: dict[str, Any] = {
        "series": {"isolate.tpr": [0.5, 0.75]},
        "stages": stages,
        "meta": {"n_train": 128, "n_poison": 12, "fingerprint": "f" * 64},
        "wall_seconds": 0.5,
        **changes,
    }
    return ScenarioRecord(scenario=scenario, metrics=metrics, attack_failed=attack_failed, **values)


@functools.cache
def empty_ledger(directions: Direction | tuple[Direction, ...], name: str = "toy") -> bytes:
    """A ledger's file before the first trial. Making its tables takes over a second, copying them none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        Ledger(path, name, SearchSpace("toy", "pipd", {}), directions, "tpe", 0, 1, lambda _: "")
        return path.read_bytes()
