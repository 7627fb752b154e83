"""A cartoon of a striped cat before checks, drawn from ellipses: the picture of attacks that blend one in.

All of its parts, and so each of the 4 x 4 tiles of Adaptive-Blend, have contrast and texture: a flat part would change
an image's brightness alone, which a network hardly learns from a faint blend.
"""

import numpy as np
from numpy.typing import NDArray

from study.attacks.api import Pixels

CARTOON_VERSION = 2  # raise it when the picture would be another one
OVERSAMPLING = 8  # drawn this much larger, then averaged: smooth edges at any size
_CELLS = 16  # checks and stripes a side: 2 px wide at 32 px
_PINK, _WHITE, _DARK, _TEAL = (250, 172, 205), (252, 250, 250), (40, 34, 38), (40, 70, 90)
_YELLOW, _RED = (240, 205, 70), (214, 40, 66)

_Colour = tuple[int, int, int]
_Cloth = tuple[_Colour, _Colour, str]
"""Two colours, and how they take turns: ``checks``, ``upright`` stripes, or ``level`` ones."""

_WALL: _Cloth = (_PINK, _TEAL, "checks")
_FUR: _Cloth = (_WHITE, _DARK, "upright")
_EAR: _Cloth = (_WHITE, _DARK, "level")
_SHIRT: _Cloth = (_YELLOW, _RED, "level")
_BOW: _Cloth = (_RED, _WHITE, "checks")

# Shape, in units of the picture's side: centre x, centre y, radius x, radius y, colour. Later ones lie on top.
_ELLIPSES: tuple[tuple[float, float, float, float, _Colour | _Cloth], ...] = (
    (0.50, 0.97, 0.285, 0.27, _DARK),
    (0.50, 0.97, 0.265, 0.25, _SHIRT),
    (0.25, 0.22, 0.125, 0.155, _DARK),
    (0.75, 0.22, 0.125, 0.155, _DARK),
    (0.25, 0.22, 0.105, 0.135, _EAR),
    (0.75, 0.22, 0.105, 0.135, _EAR),
    (0.50, 0.47, 0.415, 0.335, _DARK),
    (0.50, 0.47, 0.395, 0.315, _FUR),
    (0.34, 0.50, 0.036, 0.060, _DARK),
    (0.66, 0.50, 0.036, 0.060, _DARK),
    (0.50, 0.575, 0.050, 0.034, _YELLOW),
    (0.66, 0.20, 0.090, 0.075, _BOW),
    (0.84, 0.24, 0.090, 0.075, _BOW),
    (0.75, 0.23, 0.050, 0.050, _YELLOW),
)


def draw_cartoon(size: int) -> Pixels:
    """The picture, uint8 [size, size, 3]."""
    side = size * OVERSAMPLING
    axis = (np.arange(side) + 0.5) / side
    y, x = axis[:, None], axis[None, :]
    odd_y, odd_x = (np.floor(values * _CELLS) % 2 == 1 for values in (y, x))
    turns = {"checks": odd_y ^ odd_x, "upright": odd_x | np.zeros_like(odd_y), "level": odd_y | np.zeros_like(odd_x)}
    canvas: NDArray[np.float64] = np.empty((side, side, 3))

    def paint(inside: NDArray[np.bool_], colour: _Colour | _Cloth) -> None:
        if isinstance(colour[0], int):
            canvas[inside] = colour
        else:
            first, second, turn = colour
            canvas[inside & ~turns[turn]], canvas[inside & turns[turn]] = first, second

    paint(np.ones((side, side), dtype=bool), _WALL)
    for centre_x, centre_y, radius_x, radius_y, colour in _ELLIPSES:
        paint(((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1, colour)
    averaged: NDArray[np.float64] = canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.rint(averaged).astype(np.uint8)
