"""Declared costs where a field chooses what a stage does; the defaults are held by the contract's tests."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted_passes import counted
from small_images import CLASSES, SIZE, make_images

from defenses import DEFENSES
from defenses.api import Params, Stage, SuspectDataset
from defenses.cost import FORWARD, stage_cost
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense
from defenses.storage.store import Store

torch.set_num_threads(1)

N = 96
QUICK_PIPD = {"pre_isolation_epochs": 1, "pre_isolation_lr": 0.01, "batch_size": 16, "isolation_rate": 0.1}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "no ascent": ("pipd", {**QUICK_PIPD, "selective_epochs": 2, "ascent_weight": 0.0}),
    "selective": ("pipd_cleaning", {**QUICK_PIPD, "selective_epochs": 2}),
    "a pass after each epoch": (
        "qt",
        {"pre_epochs": 1, "quarantine_epochs": 2, "backdoor_free_epochs": 1, "quarantine_pass": "epoch_end"},
    ),
    "all scales": ("scale_up", {"epochs": 1, "scales": "all", "largest_scale": 4}),
    "two rounds": (
        "none",
        {"epochs": 3, "lr": 0.05, "batch_size": 16, "strong_probability": 0.26, "weak_probability": 0.24, "rounds": 2}
        | {"finetuning_epochs": 1, "minimum_gap": 100.0},  # nothing is flagged: what later rounds flag costs less
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_choice_costs_what_it_declares(row: str, tmp_path: Path) -> None:
    name, settings = ROWS[row]
    images = make_images(N, 8)
    suspect = SuspectDataset.of(images.train_images, images.train_labels, CLASSES)
    spec = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE)
    context = RunContext(Store(tmp_path), spec, 0, torch.device("cpu"), "fp32")
    passes: Counter[str] = Counter()
    defense = counted(DEFENSES[name](DEFENSES[name].config_type(**settings)), passes)
    for stage in run_defense(defense, suspect, context).stages:
        measured = passes[stage.stage] / N
        assert stage.epoch_equivalents is not None
        assert stage.epoch_equivalents == pytest.approx(measured, rel=0.1, abs=0.05), stage.stage


def test_a_cost_is_told_the_fields_and_the_share_that_is_flagged() -> None:
    def cost(params: Params, n: int) -> float:
        return float(params.epochs * (1 - params.share_flagged) + FORWARD * n / 4)

    stage = Stage("own", lambda *_: {}, ("epochs",), (), cost=cost)
    assert stage_cost(stage, {"epochs": 8}, 4, np.array([True, False, False, False])) == pytest.approx(6 + FORWARD)
    assert stage_cost(stage, {"epochs": 8}, 4) == pytest.approx(8 + FORWARD)
    assert stage_cost(Stage("other", lambda *_: {}, (), ()), {}, 4) == 0.0
