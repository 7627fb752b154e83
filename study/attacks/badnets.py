"""BadNets (Gu, Dolan-Gavitt and Garg, 2017): a small patch, the target's label.

Patches are those of the public toolboxes: ``grid3`` (backdoor-toolbox, ABL, Trap-and-Replace), ``checker2`` (the QT
code), ``white3`` (BackdoorBench) and ``grid30`` (Trap-and-Replace's for large images, PIPD's ImageNet runs).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.config import param
from defenses.registry import UserError
from study.attacks.api import Attack, AttackConfig, Labels, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.pixels import cells, paste
from study.datasets.images import Images

_GRID3 = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
_GRID30 = [[255, 0, 255], [0, 255, 0], [255, 0, 0]]
_GRID30_START = 32  # px from the top left


@dataclass(frozen=True)
class BadNetsConfig(AttackConfig):
    """Which patch."""

    variant: str = param("grid3", "the patch", choices=("grid3", "checker2", "white3", "grid30"))


def _patch(variant: str, size: int) -> tuple[Pixels, int]:
    """The patch and its row (and column) for images of a size."""
    if variant == "grid30":
        if size < _GRID30_START + 30:
            raise UserError(f"badnets:variant=grid30 needs images of at least 62 px, got {size}: use variant=grid3")
        return cells(_GRID30, 10), _GRID30_START
    if variant == "checker2":
        return cells([[255, 0], [0, 255]], 1), size - 3
    return cells([[255] * 3] * 3 if variant == "white3" else _GRID3, 1), size - 3


class BadNets(Attack):
    """Replaces a few pixels."""

    name = "badnets"
    config_type = BadNetsConfig
    config: BadNetsConfig

    def fit(self, images: Images, context: FitContext) -> State:
        """The patch and its place."""
        patch, start = _patch(self.config.variant, images.image_size)
        return {"patch": patch, "start": np.array([start, start])}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        row, column = state["start"].tolist()
        return paste(images, state["patch"], row, column)


class BadNetsAllToAll(BadNets):
    """The same patch on images of every class, each of which is to be called the next one."""

    name = "badnets_all_to_all"

    def attacker_labels(self, labels: Labels, target_label: int, num_classes: int) -> Labels:
        """(y + 1) mod K, int64 [n]; there is no one target."""
        return (labels + 1) % num_classes

    def victims(self, labels: Labels, target_label: int) -> NDArray[np.int64]:
        """All test images, of labels int64 [N]: none has the label that its trigger asks for."""
        return np.arange(len(labels))
