"""WaNet (Nguyen and Tran, ICLR 2021): a smooth warp of the whole image, the target's label, beside warped covers.

The warp is that of the paper and its code. Covers carry the same warp with a random shift of every pixel on top and
keep their labels: without them a network learns that any warp means the target. They differ from backdoor-toolbox,
whose covers share one field of shifts, which can be learned by heart; here every cover has its own, as in the paper.
Where the warp grows with the image, covers' shifts grow as much: half a pixel beside it would leave them near copies of
poison.
The paper trains the victim itself and warps anew in every batch; a poisoned set holds each image once, as PIPD's does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from defenses.config import param
from study.attacks.api import COVER, Attack, AttackConfig, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.pixels import to_uint8
from study.datasets.images import Images

Field = NDArray[np.float32]
"""[..., H, W, 2]: a position or shift (x, y) a pixel, in units in which the image spans [-1, 1] centre to centre."""

_PAPER_SIZE = 32  # px of the images for which the paper chose its strength


@dataclass(frozen=True)
class WaNetConfig(AttackConfig):
    """The warp, and the covers."""

    cover_ratio: float = param(
        2.0, "covers a poisoned image: warped images that keep their label (the paper's 2)", low=0.0, high=10.0
    )
    grid_size: int = param(
        4, "the warp is drawn on this many points a side, then interpolated", low=2, high=64, symbol="k"
    )
    strength: float = param(
        0.5, "mean shift of the points an axis, in units of half a pixel", low=0.0, high=16.0, symbol="s"
    )
    scale_with_size: bool = param(
        True,
        "above 32 px, strength and jitter grow with the image (3.5, 7 at 224 px), where the paper's warp hardly shows",
    )
    jitter: float = param(
        1.0, "largest shift of a cover's pixel beside the warp, in units of half a pixel", low=0.0, high=16.0
    )


class WaNet(Attack):
    """Bends the image. One warp a dataset, the same for training and test."""

    name = "wanet"
    config_type = WaNetConfig
    config: WaNetConfig

    def version_for(self, images: Images) -> int:
        """Above 32 px covers' shifts have grown with the warp since version 2."""
        return 2 if self._scale(images.image_size) > 1 else 1

    def fit(self, images: Images, context: FitContext) -> State:
        """Where each pixel of a warped image is read from, float32 [H, W, 2], and the seed of the covers' shifts."""
        side, size = self.config.grid_size, images.image_size
        points = self.rng(context.seed, "warp").uniform(-1, 1, (side, side, 2)).astype(np.float32)
        points /= np.abs(points).mean()
        shifts = np.float32(self.config.strength * self._scale(size) / size) * _interpolate(points, size)
        return {"grid": np.clip(_identity(size) + shifts, -1, 1), "seed": np.array(context.seed)}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        grid = torch.tensor(state["grid"])
        if split != COVER:
            return self._warp(images, grid.expand(len(images), *grid.shape))
        jitter = torch.from_numpy(self._jitter(index, images.shape[1], int(state["seed"])))
        return self._warp(images, jitter.add_(grid).clamp_(-1, 1))

    def _jitter(self, index: NDArray[np.int64], size: int, seed: int) -> Field:
        """A uniform shift for every pixel of every image, float32 [n, H, W, 2]."""
        shifts = np.empty((len(index), size, size, 2), dtype=np.float32)
        for row, rng in zip(shifts, self.image_rngs(seed, "jitter", index), strict=True):
            rng.random(out=row, dtype=np.float32)
        shifts -= np.float32(0.5)
        shifts *= np.float32(2 * self.config.jitter * self._scale(size) / size)
        return shifts

    def _scale(self, size: int) -> float:
        """By how much shifts are larger than the paper's, for images of a size."""
        return max(1.0, size / _PAPER_SIZE) if self.config.scale_with_size else 1.0

    def _warp(self, images: Pixels, grids: Tensor) -> Pixels:
        """Images [n, H, W, 3] read bilinearly at grids float32 [n, H, W, 2].

        Corners are pixel centres (``align_corners``): otherwise a warp of strength 0 would blur the image.
        """
        planes = torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2).copy())
        warped = functional.grid_sample(planes, grids, mode="bilinear", padding_mode="zeros", align_corners=True)
        return to_uint8(warped.permute(0, 2, 3, 1).contiguous().numpy(), self.config.quantise)


def _identity(size: int) -> Field:
    """The grid that leaves an image as it is, [H, W, 2]."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, indexing="xy"), axis=-1)


def _interpolate(points: Field, size: int) -> Field:
    """Points [k, k, 2] on the corners of an image as a smooth field [H, W, 2]: bicubic."""
    planes = torch.from_numpy(points.transpose(2, 0, 1).copy())[None]
    field = functional.interpolate(planes, size=(size, size), mode="bicubic", align_corners=True)[0]
    return np.ascontiguousarray(field.numpy().transpose(1, 2, 0))
