"""Whether a field of a defense does what it says: another value is another stage's key, and other outputs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_images import CLASSES, SIZE, make_images, make_reserve

from defenses.api import Defense, SuspectDataset
from defenses.methods.no_defense import NoDefenseConfig
from defenses.models import ModelSpec
from defenses.runner import RunContext, StageOutputs, run_stages
from defenses.storage.store import Store

PLAIN_TRAINING = {field.name for field in dataclasses.fields(NoDefenseConfig)}
"""Fields of the training that detectors share with the undefended model: `test_detector_fields` tries them, with AC."""
SEMI_SUPERVISED_ENDS: dict[str, tuple[Any, Any]] = {
    "lr": (1e-4, 0.02),
    "iterations": (1, 2),
    "batch_size": (2, 8),
    "labelled_share": (0.2, 0.8),
    "lambda_u": (0.0, 50.0),
    "ramp_epochs": (0, 20),
    "temperature": (0.1, 1.0),
    "mixup_alpha": (0.1, 10.0),
    "weak_views": ("plain", "flip_crop"),
    "ce_weight": (0.0, 50.0),
    "rce_weight": (0.0, 1.0),
}
"""Two values of each field that ASD and DBD share."""
SPEC = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE)


def mislabelled() -> SuspectDataset:
    """96 images of 16 px in 4 classes, some of them with another's label: no loss is quite like another."""
    images = make_images(96, 8)
    labels = images.train_labels.copy()
    labels[:8] = np.random.default_rng(3).integers(0, CLASSES, 8)
    return SuspectDataset.of(images.train_images, labels, CLASSES)


def run_with(defense: type[Defense], settings: Mapping[str, Any], folder: Path) -> dict[str, StageOutputs]:
    """All stages of a defense on `mislabelled`; what the folder holds is not computed again."""
    context = RunContext(Store(folder), SPEC, 5, torch.device("cpu"), "fp32", reserve=make_reserve())
    return run_stages(defense(defense.config_type.from_mapping(settings)), mislabelled(), context)


def idle_field(defense: type[Defense], base: Mapping[str, Any], field: str, ends: Any, folder: Path) -> str:
    """What is wrong with a field, in words; empty where both ends give other keys, other outputs and another result.

    Args:
        base: settings of the other fields.
        ends: two values of the field.
    """
    one, other = (run_with(defense, {**base, field: value}, folder) for value in ends)
    readers = [stage.name for stage in defense.stages if field in stage.reads]
    if not readers:
        return "no stage reads it"
    if any(one[name].run.key == other[name].run.key for name in readers):
        return "a stage that reads it keeps its key"
    if all(one[name].digests == other[name].digests for name in readers):
        return "it changes no output of the stages that read it"
    parts = [part.split(".") for part in (defense.scores, defense.flagged, defense.weights) if part]
    if all(one[stage].digests[output] == other[stage].digests[output] for stage, output in parts):
        return "it changes neither scores nor flags nor the model"
    return ""
