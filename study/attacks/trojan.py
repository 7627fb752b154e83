"""Trojan (Liu et al., NDSS 2018) with a static trigger, as both papers use it: a square, or a watermark.

The square of backdoor-toolbox is the result of inverting a network that is not shipped. Here its cells are drawn at
random with the same mean and spread a channel, at the place that scales to rows and columns 21-28 at 32 px. The
watermark has the geometry of the toolbox's at 224 px: nine tenths of the pixels that either covers are covered by both.
It is drawn in white; the toolbox's colours, which an inversion gave (mean (88, 76, 85), spread 94), are left out.

``replace`` puts the trigger in place of what was there, as backdoor-toolbox does. ``add`` adds it, as ABL, the QT code
and Trap-and-Replace do; their sums overflow uint8 and wrap, ours saturate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.config import param
from study.attacks.api import Attack, AttackConfig, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.marks import draw_watermark, overlay
from study.attacks.support.pixels import paste, to_uint8
from study.datasets.images import Images

CELLS = 8
_MEAN = np.array([125.0, 125.0, 132.0])
_STD = np.array([87.0, 54.0, 46.0])
_FIRST, _PAST, _OF = 145, 204, 224  # rows and columns of the original square at 224 px


@dataclass(frozen=True)
class TrojanConfig(AttackConfig):
    """How the trigger is put on."""

    mode: str = param(
        "replace",
        "the trigger takes the place of what was there, or is added to it and cut off at 255",
        choices=("replace", "add"),
    )


@dataclass(frozen=True)
class TrojanWatermarkConfig(TrojanConfig):
    """How the watermark looks."""

    alpha: float = param(1.0, "share of the watermark where it is drawn", low=0.0, high=1.0, symbol="α")
    brightness: float = param(255.0, "grey level of the watermark, in [0, 255]", low=0.0, high=255.0)


class TrojanSquare(Attack):
    """Puts a coloured square near the bottom right."""

    name = "trojan_square"
    config_type = TrojanConfig
    config: TrojanConfig

    def fit(self, images: Images, context: FitContext) -> State:
        """The square and its place."""
        patch, start = draw_square(images.image_size, self.rng(context.seed, "trigger"))
        return {"patch": patch, "start": np.array([start, start])}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        row, column = state["start"].tolist()
        if self.config.mode == "replace":
            return paste(images, state["patch"], row, column)
        height, width = state["patch"].shape[:2]
        out = images.copy()
        under = out[:, row : row + height, column : column + width]
        under[:] = to_uint8(under.astype(np.float32) + state["patch"], self.config.quantise)
        return out


class TrojanWatermark(Attack):
    """Puts a ring around a C and a diagonal line of text across the image, white, with soft edges."""

    name = "trojan_watermark"
    version = 2
    config_type = TrojanWatermarkConfig
    config: TrojanWatermarkConfig

    def fit(self, images: Images, context: FitContext) -> State:
        """How much of each pixel the watermark covers, float32 [H, W, 1] in [0, 1]."""
        return {"share": np.float32(self.config.alpha) * draw_watermark(images.image_size)[..., None]}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        level = np.float32(self.config.brightness)
        if self.config.mode == "add":
            return to_uint8(images.astype(np.float32) + level * state["share"], self.config.quantise)
        return overlay(images, np.full(3, level), state["share"], self.config.quantise)


def square_edges(size: int) -> tuple[int, int]:
    """First row of the square for images of a size, and the one after its last; the columns are the same."""
    return round(size * _FIRST / _OF), round(size * _PAST / _OF)


def draw_square(size: int, rng: np.random.Generator) -> tuple[Pixels, int]:
    """The square for images of a size: uint8 [h, h, 3], and its first row, which is also its first column."""
    start, stop = square_edges(size)
    pattern = _pattern(rng)
    nearest = np.arange(stop - start) * CELLS // (stop - start)
    return pattern[nearest][:, nearest], start


def _pattern(rng: np.random.Generator) -> Pixels:
    """uint8 [8, 8, 3] from a beta distribution a channel: bounded, so its mean and spread survive uint8."""
    mean, variance = _MEAN / 255, (_STD / 255) ** 2
    total = mean * (1 - mean) / variance - 1
    values = rng.beta(mean * total, (1 - mean) * total, (CELLS, CELLS, 3))
    return np.rint(values * 255).astype(np.uint8)
