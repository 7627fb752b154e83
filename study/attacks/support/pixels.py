"""Arithmetic on pixels that cannot wrap, and placing patches."""

import numpy as np
from numpy.typing import NDArray

from study.attacks.api import Pixels

Values = NDArray[np.float32]


def to_uint8(values: Values, quantise: str) -> Pixels:
    """Values in 0-255 units as uint8: clipped first, then cast.

    Args:
        values: float32 [...], of any shape, which the result has too.
        quantise: ``round`` rounds half up; ``truncate`` drops the fraction.
    """
    if quantise == "round":
        values = np.floor(values + np.float32(0.5))
    return np.clip(values, 0, 255).astype(np.uint8)


def blend(images: Pixels, trigger: Values, alpha: float, quantise: str) -> Pixels:
    """(1 - alpha) x + alpha T for a whole batch.

    Args:
        images: uint8 [n, H, W, 3].
        trigger: float32 [H, W, 3] in 0-255 units.
        alpha: strength in [0, 1].
    """
    values = images.astype(np.float32)
    values *= np.float32(1 - alpha)
    values += np.float32(alpha) * trigger
    return to_uint8(values, quantise)


def paste(images: Pixels, patch: Pixels, row: int, column: int) -> Pixels:
    """Copies with a patch in place of what was at (row, column).

    Args:
        images: uint8 [n, H, W, 3].
        patch: uint8 [h, w, 3].

    Raises:
        ValueError: the patch does not lie within the images.
    """
    height, width = patch.shape[:2]
    if row < 0 or column < 0 or row + height > images.shape[1] or column + width > images.shape[2]:
        raise ValueError(f"a {height}x{width} patch at ({row}, {column}) does not fit {images.shape[1:3]}")
    out = images.copy()
    out[:, row : row + height, column : column + width] = patch
    return out


def cells(pattern: list[list[int]], size: int) -> Pixels:
    """A grey patch, uint8 [rows * size, columns * size, 3]: every entry of a pattern is a square of size x size px."""
    grey = np.array(pattern, dtype=np.uint8).repeat(size, axis=0).repeat(size, axis=1)
    return np.repeat(grey[..., None], 3, axis=2)
