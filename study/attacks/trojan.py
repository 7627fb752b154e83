"""Trojan (Liu et al., NDSS 2018) with a static square, as both papers use it.

The square of backdoor-toolbox is the result of inverting a network that is not shipped. Here its cells are drawn at
random with the same mean and spread a channel, at the place that scales to rows and columns 21-28 at 32 px.
"""

import numpy as np
from numpy.typing import NDArray

from study.attacks.api import Attack, Pixels, State
from study.attacks.pixels import paste
from study.datasets.images import Images

CELLS = 8
_MEAN = np.array([125.0, 125.0, 132.0])
_STD = np.array([87.0, 54.0, 46.0])
_FIRST, _PAST, _OF = 145, 204, 224  # rows and columns of the original square at 224 px


class TrojanSquare(Attack):
    """Replaces a coloured square near the bottom right."""

    name = "trojan_square"

    def fit(self, images: Images, seed: int) -> State:
        """The square and its place."""
        start, stop = (round(images.image_size * edge / _OF) for edge in (_FIRST, _PAST))
        pattern = _pattern(self.rng(seed, "trigger"))
        nearest = np.arange(stop - start) * CELLS // (stop - start)
        return {"patch": pattern[nearest][:, nearest], "start": np.array([start, start])}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        row, column = state["start"].tolist()
        return paste(images, state["patch"], row, column)


def _pattern(rng: np.random.Generator) -> Pixels:
    """uint8 [8, 8, 3] from a beta distribution a channel: bounded, so its mean and spread survive uint8."""
    mean, variance = _MEAN / 255, (_STD / 255) ** 2
    total = mean * (1 - mean) / variance - 1
    values = rng.beta(mean * total, (1 - mean) * total, (CELLS, CELLS, 3))
    return np.rint(values * 255).astype(np.uint8)
