"""Adaptive-Blend and Adaptive-Patch (Qi et al., ICLR 2023): faint training triggers beside covers, a full one at test.

Each poisoned image carries only a part of the trigger that test images get, and covers carry the same kind of parts
with their own labels: poison then does not stand out in the network's features. Strengths, tiles and the marks' places
are backdoor-toolbox's; its pictures are not shipped, so the cartoon and `study.attacks.support.marks` stand in for
them. It gives each mark to a block of sorted positions, which ties marks to classes where a dataset is sorted by class;
here they go round the shuffled selection. The paper's rates are 0.003, covers 0.003 (blend) and 0.006 (patch); only the
ratio of the two is set here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.config import param
from defenses.registry import UserError
from study.attacks.api import TEST, Attack, AttackConfig, Pixels, State, selection_order
from study.attacks.blended import DRAWN, picture_at, picture_identity
from study.attacks.support.fitting import FitContext
from study.attacks.support.marks import corner_signs, draw_disc, draw_logo, overlay, placed
from study.attacks.support.pixels import Values
from study.attacks.trojan import draw_square
from study.datasets.images import Images

_SMALLEST = 16  # px: below, the marks of neighbouring corners would lie on each other


@dataclass(frozen=True)
class AdaptiveBlendConfig(AttackConfig):
    """The blend, its tiles and its covers."""

    cover_ratio: float = param(1.0, "covers a poisoned image: blended images that keep their label", low=0.0, high=10.0)
    alpha: float = param(0.15, "share of the trigger in poison and covers", low=0.0, high=1.0, symbol="α")
    test_alpha: float = param(0.2, "share of the trigger in test images", low=0.0, high=1.0)
    tiles: int = param(4, "the trigger is cut into this many tiles a side", low=1, high=32)
    dropped: int = param(8, "tiles left out of each poisoned image and cover", low=0)
    image: str = param("", "path of a picture; empty for the cartoon that is drawn")


class AdaptiveBlend(Attack):
    """A picture blended in: half of its tiles in training, all of it and stronger at test."""

    name = "adaptive_blend"
    config_type = AdaptiveBlendConfig
    config: AdaptiveBlendConfig

    def identity(self) -> dict[str, Any]:
        """The options, with the content of the picture for its path; `UserError` when it cannot be read."""
        return {**super().identity(), "image": picture_identity(self.config.image) or DRAWN}

    def check(self, images: Images) -> None:
        """Refuses tiles that do not divide the image, and to drop all of them.

        Raises:
            UserError: either of the two.
        """
        tiles, dropped, size = self.config.tiles, self.config.dropped, images.image_size
        if size % tiles:
            fits = max(side for side in range(1, tiles) if size % side == 0)
            raise UserError(
                f"adaptive_blend:tiles must divide the image size of {size} px, got {tiles}: use tiles={fits}"
            )
        if dropped >= tiles**2:
            raise UserError(
                f"adaptive_blend:dropped must leave one of {tiles**2} tiles, got {dropped}: "
                f"use at most dropped={tiles**2 - 1}"
            )

    def fit(self, images: Images, context: FitContext) -> State:
        """The picture, and which tiles each training image keeps: bool [N, tiles, tiles]."""
        tiles = self.config.tiles
        draws = self.rng(context.seed, "tiles").random((len(images.train_labels), tiles**2))
        kept = draws.argsort(axis=1) >= self.config.dropped
        return {
            "trigger": picture_at(self.config.image, images.image_size),
            "kept": kept.reshape(-1, tiles, tiles),
        }

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`. Test images get the whole picture."""
        if split == TEST:
            share = np.full(1, self.config.test_alpha, dtype=np.float32)
        else:
            side = images.shape[1] // self.config.tiles
            kept = state["kept"][index].repeat(side, axis=1).repeat(side, axis=2)[..., None]
            share = kept * np.float32(self.config.alpha)
        return overlay(images, state["trigger"], share, self.config.quantise)


@dataclass(frozen=True)
class AdaptivePatchConfig(AttackConfig):
    """How strong each mark is, and the covers."""

    cover_ratio: float = param(2.0, "covers a poisoned image: marked images that keep their label", low=0.0, high=10.0)
    logo_alpha: float = param(0.5, "share of the logo at the bottom right", low=0.0, high=1.0)
    disc_alpha: float = param(0.2, "share of the disc at the top right", low=0.0, high=1.0)
    corners_alpha: float = param(0.5, "share of the patches in the four corners", low=0.0, high=1.0)
    square_alpha: float = param(0.3, "share of the coloured square", low=0.0, high=1.0)
    test_alpha: float = param(1.0, "share of the two marks of a test image", low=0.0, high=1.0)


class AdaptivePatch(Attack):
    """One of four faint marks in training; at test the logo in both bottom corners, then the four corner patches."""

    name = "adaptive_patch"
    version = 2
    config_type = AdaptivePatchConfig
    config: AdaptivePatchConfig

    def check(self, images: Images) -> None:
        """Refuses images in which the marks have no room.

        Raises:
            UserError: the images are too small.
        """
        if images.image_size < _SMALLEST:
            raise UserError(
                f"adaptive_patch needs images of at least {_SMALLEST} px, got {images.image_size}: use adaptive_blend"
            )

    def fit(self, images: Images, context: FitContext) -> State:
        """The marks, the test trigger, and which mark each training image would get.

        Marks go round the order in which images are selected: poison is a prefix of it and covers come next, so that
        the counts of the marks differ by at most one among the poison and among the covers, whatever the rate.

        Returns:
            ``marks`` float32 [4, H, W, 3] and their ``shares`` [4, H, W, 1]; ``test_mark`` and ``test_share``, without
            the 4; ``which`` int64 [N] in [0, 4).
        """
        size, config = images.image_size, self.config
        logo = draw_logo(size, self.rng(context.seed, "logo"))
        square, start = draw_square(size, self.rng(context.seed, "square"))
        right = size - len(logo)
        corners = _corner_patches(size)
        drawn = (placed(size, logo, right, right), draw_disc(size), corners, placed(size, square, start, start))
        alphas = (config.logo_alpha, config.disc_alpha, config.corners_alpha, config.square_alpha)
        test_mark, test_share = _over(placed(size, logo, right, 0), drawn[0], corners)
        order = selection_order(len(images.train_labels), context.seed)
        which = np.empty(len(order), dtype=np.int64)
        which[order] = np.arange(len(order)) % len(drawn)
        return {
            "marks": np.stack([trigger for trigger, _ in drawn]),
            "shares": np.stack([np.float32(alpha) * where for alpha, (_, where) in zip(alphas, drawn, strict=True)]),
            "test_mark": test_mark,
            "test_share": np.float32(config.test_alpha) * test_share,
            "which": which,
        }

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        if split == TEST:
            return overlay(images, state["test_mark"], state["test_share"], self.config.quantise)
        out, which = np.empty_like(images), state["which"][index]
        for mark, (trigger, share) in enumerate(zip(state["marks"], state["shares"], strict=True)):
            rows = which == mark
            out[rows] = overlay(images[rows], trigger, share, self.config.quantise)
        return out


def _corner_patches(size: int) -> tuple[Values, Values]:
    """The patches of all four corners, black and white, which no flip changes, and where they lie."""
    signs = corner_signs(size, "mirrored")
    return np.where(signs > 0, np.float32(255), np.float32(0)), np.abs(signs[..., :1])


def _over(*marks: tuple[Values, Values]) -> tuple[Values, Values]:
    """Marks on top of each other, the last one uppermost."""
    trigger, share = marks[0]
    for above, where in marks[1:]:
        trigger, share = np.where(where > 0, above, trigger), np.maximum(share, where)
    return trigger, share
