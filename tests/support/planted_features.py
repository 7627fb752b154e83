"""Penultimate features as a network with a backdoor has them: normal around a mean a label, the poison shifted."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from small_images import make_reserve

from defenses.api import Defense, Outputs, Params, Stage, StageContext, SuspectDataset, silent, stage_params
from defenses.models import ModelSpec
from defenses.runner import clean_part

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]

DIMS, LENGTH = 64, 8.0  # of the features, and of each label's mean


def planted_features(
    share: float, labels: int = 10, each: int = 200, shift: float = 8.0, seed: int = 0
) -> tuple[Features, Labels, Mask]:
    """Features [N, 64], labels [N] and poison [N]: of label 0, a share is poison, and all of it shifted alike.

    Args:
        each: benign samples of each label.
        shift: length of the poison's shift; each coordinate of a sample has a standard deviation of 1.
    """
    rng = np.random.default_rng(seed)
    poisoned = round(each * share / (1 - share))
    y = np.repeat(np.arange(labels), [each + poisoned] + [each] * (labels - 1))
    poison = np.zeros(len(y), dtype=bool)
    poison[each : each + poisoned] = True
    means = np.abs(rng.normal(size=(labels, DIMS)))
    means *= LENGTH / np.linalg.norm(means, axis=1, keepdims=True)
    direction = rng.normal(size=DIMS)
    x = rng.normal(size=(len(y), DIMS)) + means[y]
    x[poison] += shift * direction / np.linalg.norm(direction)
    order = rng.permutation(len(y))  # a defense must not lean on the order
    return x[order].astype(np.float32), y[order].astype(np.int64), poison[order]


def run_stage(
    defense: type[Defense], name: str, inputs: Outputs, labels: Labels, images: Any = None, **fields: Any
) -> Outputs:
    """What one stage of a defense gives, with some fields set and the others at their defaults."""
    stage: Stage = next(stage for stage in defense.stages if stage.name == name)
    config = defense.config_type.from_mapping(fields)
    images = np.zeros((len(labels), 8, 8, 3), dtype=np.uint8) if images is None else images
    spec = ModelSpec("resnet18", 4, (1, 1), int(labels.max()) + 1, images.shape[1])
    data = SuspectDataset.of(images, labels, spec.num_classes)
    reserve = make_reserve(spec.num_classes, spec.image_size) if stage.clean_images else None
    clean = clean_part(stage, config, reserve)
    context = StageContext(name, data, spec, torch.device("cpu"), "fp32", 0, silent, clean=clean)
    return stage.run(context, inputs, Params(**stage_params(stage, config)))


def rates(flagged: Mask, poison: Mask) -> tuple[float, float]:
    """TPR and FPR."""
    return float(flagged[poison].mean()), float(flagged[~poison].mean())
