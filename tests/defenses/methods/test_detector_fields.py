"""Every declared field of the detectors that share the undefended model changes a key and, at its ends, the result."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from field_effects import PLAIN_TRAINING, idle_field

from defenses import DEFENSES
from defenses.shared_stages import STANDARD_TRAINING

PLAIN: dict[str, Any] = {"epochs": 3, "lr": 0.05, "batch_size": 24, "augment": False, "schedule": "one_cycle"}
TRAINING: dict[str, tuple[Any, Any]] = {
    "epochs": (2, 3),
    "read_epoch": (2, 3),
    "lr": (0.01, 0.1),
    "batch_size": (24, 32),
    "schedule": ("cosine", "one_cycle"),
    "momentum": (0.8, 0.9),
    "weight_decay": (0.0, 0.01),
    "augment": (False, True),
}
ENDS: dict[str, dict[str, tuple[Any, Any]]] = {
    "ac": {
        **TRAINING,
        "reducer": ("pca", "none"),
        "dims": (1, 10),
        "clusters": (2, 4),
        "rule": ("smaller", "share_and_silhouette"),
        "max_share": (0.0, 0.5),
        "min_silhouette": (-1.0, 1.0),
        "score_mode": ("signed_silhouette", "silhouette"),
    },
    "ss": {
        "budget": (0.0, 0.5),
        "scope": ("all", "top_label"),
        "vectors": (1, 3),
        "score": ("centered", "uncentered_mad"),
        "layer": ("penultimate", "layer3"),
    },
    "scale_up": {
        "scales": ("odd", "all"),
        "largest_scale": (3, 11),
        "input_noise": (0.0, 1.0),
        "threshold": (0.0, 1.0),
        "tie_breaker": ("probability", "none"),
        "clean_images": (0, 32),
    },
}
# A field that acts where another has a certain value.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("ac", "min_silhouette"): {"rule": "share_and_silhouette", "max_share": 0.5},
    ("ac", "rule"): {"max_share": 0.1},
}
CASES = [(name, field) for name, ends in ENDS.items() for field in ends]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("name", ENDS)
def test_every_field_has_ends(name: str) -> None:
    assert set(ENDS[name]) | PLAIN_TRAINING == {field.name for field in dataclasses.fields(DEFENSES[name].config_type)}


def test_the_training_that_detectors_share_is_one_stage() -> None:
    assert set(TRAINING) == PLAIN_TRAINING
    for name in ("ac", "ss", "scale_up", "dbalfa", "ibd_psc", "cd", "flare"):
        assert DEFENSES[name].stages[0] is STANDARD_TRAINING


@pytest.mark.parametrize(("name", "field"), CASES)
def test_every_field_changes_keys_and_outputs(name: str, field: str, store: Path) -> None:
    settings = {**PLAIN, **BESIDE.get((name, field), {})}
    assert idle_field(DEFENSES[name], settings, field, ENDS[name][field], store) == ""
