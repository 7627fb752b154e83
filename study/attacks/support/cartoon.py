"""A cartoon cat, drawn from ellipses: the picture of `blended_image`, so that no file needs to be shipped."""

import numpy as np
from numpy.typing import NDArray

from study.attacks.api import Pixels

OVERSAMPLING = 8  # drawn this much larger, then averaged: smooth edges at any size
_PINK, _WHITE, _DARK = (250, 172, 205), (252, 250, 250), (40, 34, 38)
_YELLOW, _RED = (240, 205, 70), (214, 40, 66)

# Shape, in units of the picture's side: centre x, centre y, radius x, radius y, colour. Later ones lie on top.
_ELLIPSES = (
    (0.50, 0.97, 0.285, 0.27, _DARK),
    (0.50, 0.97, 0.265, 0.25, _YELLOW),
    (0.25, 0.22, 0.125, 0.155, _DARK),
    (0.75, 0.22, 0.125, 0.155, _DARK),
    (0.25, 0.22, 0.105, 0.135, _WHITE),
    (0.75, 0.22, 0.105, 0.135, _WHITE),
    (0.50, 0.47, 0.415, 0.335, _DARK),
    (0.50, 0.47, 0.395, 0.315, _WHITE),
    (0.34, 0.50, 0.036, 0.060, _DARK),
    (0.66, 0.50, 0.036, 0.060, _DARK),
    (0.50, 0.575, 0.050, 0.034, _YELLOW),
    (0.66, 0.20, 0.090, 0.075, _RED),
    (0.84, 0.24, 0.090, 0.075, _RED),
    (0.75, 0.23, 0.050, 0.050, _YELLOW),
)


def draw_cartoon(size: int) -> Pixels:
    """The picture, uint8 [size, size, 3]."""
    side = size * OVERSAMPLING
    axis = (np.arange(side) + 0.5) / side
    y, x = axis[:, None], axis[None, :]
    canvas: NDArray[np.float64] = np.empty((side, side, 3))
    canvas[:] = _PINK
    for centre_x, centre_y, radius_x, radius_y, colour in _ELLIPSES:
        inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1
        canvas[inside] = colour
    for offset in (-0.05, 0.0, 0.05):  # whiskers
        for left, right in ((0.02, 0.20), (0.80, 0.98)):
            line = (np.abs(y - (0.53 + offset)) < 0.008) & (x > left) & (x < right)
            canvas[line] = _DARK
    averaged: NDArray[np.float64] = canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.rint(averaged).astype(np.uint8)
