"""What the input-aware attack can be told, and which of it each of its two trained parts depends on."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from defenses.config import param
from defenses.models import BLOCKS
from defenses.registry import UserError
from study.attacks.api import AttackConfig

MASK_OPTIONS = (
    "widths",
    "norm_momentum",
    "mean",
    "std",
    "betas",
    "batch_size",
    "diversity_weight",
    "sharpness",
    "mask_density",
    "density_weight",
    "mask_epochs",
    "mask_lr",
    "mask_milestones",
)
"""What the mask generator depends on."""


@dataclass(frozen=True)
class DynamicConfig(AttackConfig):
    """How the generators are built and trained; the defaults are those of the official code for CIFAR-10."""

    widths: tuple[int, ...] = param(
        (32, 64, 128), "channels of the generators' levels; sides of images are divisible by 2 to their number", low=1
    )
    norm_momentum: float = param(0.05, "momentum of the generators' BatchNorm", low=0.0, high=1.0)
    mean: tuple[float, ...] = param(
        (0.4914, 0.4822, 0.4465), "what the networks' inputs are centred on, a channel, of 1", low=0.0, high=1.0
    )
    std: tuple[float, ...] = param(
        (0.247, 0.243, 0.261), "what the networks' inputs are divided by, a channel, of 1", low=0.001, high=1.0
    )
    betas: tuple[float, ...] = param((0.5, 0.9), "Adam's averaging rates for both generators", low=0.0, high=0.9999)
    batch_size: int = param(128, "images a step, in both stages", low=8)
    diversity_weight: float = param(
        1.0, "weight of the loss that makes triggers differ, in both stages", low=0.0, symbol="lambda_div"
    )
    sharpness: float = param(20.0, "slope of the step that makes the mask nearly binary", low=0.0)
    mask_density: float = param(
        0.032, "opacity that a pixel may have at no cost: a hinge a pixel, not on the mean", low=0.0, high=1.0
    )
    density_weight: float = param(100.0, "weight of that hinge", low=0.0, symbol="lambda_norm")
    mask_epochs: int = param(25, "epochs of the mask generator", low=1)
    mask_lr: float = param(0.01, "Adam's learning rate for the mask generator", low=0.0)
    mask_milestones: tuple[int, ...] = param((10, 20), "epochs after which that rate falls to a tenth", low=1)
    joint_epochs: int = param(575, "epochs of pattern generator and classifier: 600 with the mask's", low=1)
    pattern_lr: float = param(0.01, "Adam's learning rate for the pattern generator", low=0.0)
    pattern_milestones: tuple[int, ...] = param(
        (200, 300, 400, 500), "joint epochs after which that rate falls to a tenth", low=1
    )
    backdoor_share: float = param(
        0.1, "share of a joint batch with its own trigger and the target label", low=0.001, high=0.3
    )
    cross_share: float = param(
        0.1, "share of a joint batch with the trigger of another image and its own label", low=0.001, high=0.3
    )
    classifier: str = param("preact_resnet18", "network of the joint stage", choices=tuple(BLOCKS))
    classifier_width: int = param(64, "channels of its first stage", low=1)
    classifier_blocks: tuple[int, ...] = param((2, 2, 2, 2), "blocks of each of its stages", low=1)
    classifier_lr: float = param(0.01, "its learning rate, with SGD", low=0.0)
    classifier_milestones: tuple[int, ...] = param(
        (100, 200, 300, 400), "joint epochs after which that rate falls to a tenth", low=1
    )
    momentum: float = param(0.9, "of its SGD", low=0.0, high=0.999)
    weight_decay: float = param(5e-4, "of its SGD", low=0.0)


ALL_OPTIONS = tuple(inspect.get_annotations(DynamicConfig))
"""What the pattern generator depends on: all that the mask generator does, and its own."""

SHORT_JOINT_STAGE: Mapping[str, Any] = {
    "joint_epochs": 15,
    "pattern_lr": 0.003,
    "pattern_milestones": (10, 13),
    "backdoor_share": 0.2,
    "cross_share": 0.2,
    "classifier_width": 16,
    "classifier_blocks": (1, 1, 1, 1),
    "classifier_lr": 0.05,
    "classifier_milestones": (10, 13),
}
"""Larger shares with a trigger, and a slower pattern: what the classifier can learn within these epochs."""


def check_lengths(config: DynamicConfig) -> None:
    """Refuses an option that has not as many values as the networks need.

    Raises:
        UserError: which, and how many it needs.
    """
    needed = {"mean": 3, "std": 3, "betas": 2}
    for name, count in needed.items():
        values = getattr(config, name)
        if len(values) != count:
            raise UserError(
                f"dynamic:{name} must have {count} values, got {len(values)}: "
                f"write {name}={','.join(map(str, (values or (0.5,))[:1] * count))}"
            )
    if not config.widths:
        raise UserError("dynamic:widths must have a value for each level, at least one, got none: write widths=32,64")
