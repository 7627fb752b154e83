"""The line of text of the watermark, as strokes: letters of our own on the places of backdoor-toolbox's.

Numbers are pixels of an image of 224 px. A letter stands on its baseline at v = 0, with v growing downwards, and u = 0
is the middle of its width.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""[n, 2]: the corners of a stroke, (down, right) in pixels from the top left corner of the image."""

STROKE = 2.4  # width of a stroke
_HEIGHT = 12.8  # of a letter without ascender, from the middle of its uppermost stroke to that of its lowest
_ASCENDER, _DESCENDER = -17.0, 5.5
_SLOPE = np.radians(44.2)  # of the line of text, upwards
_BASELINE = 157.0  # its distance from the top left corner
_ARC_STEP = 10.0  # degrees between two corners of an arc

# (letter, place along the line of text): 0 is where the perpendicular through the top left corner meets it.
_TEXT = (
    *(("c", -130.0), ("o", -114.4), ("p", -98.2), ("y", -81.7), ("r", -66.8), ("i", -59.4), ("g", -48.0)),
    *(("h", -29.6), ("t", -15.5), ("@", 12.2)),
    *(("a", 40.6), ("b", 58.3), ("c", 75.0), (".", 86.8), ("x", 98.9), ("y", 115.3), ("z", 130.6)),
)


def _arc(u: float, v: float, radius_u: float, radius_v: float, start: float, stop: float) -> Points:
    """An arc of an ellipse; degrees go clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, int(abs(stop - start) / _ARC_STEP) + 2))
    return np.stack([u + radius_u * np.cos(angles), v + radius_v * np.sin(angles)], axis=1)


def _bowl(u: float, radius: float = 5.4, start: float = 0, stop: float = 360) -> Points:
    """A round of a small letter's whole height."""
    return _arc(u, -_HEIGHT / 2, radius, _HEIGHT / 2, start, stop)


def _line(*corners: tuple[float, float]) -> Points:
    return np.array(corners)


_GLYPHS: dict[str, tuple[Points, ...]] = {
    "c": (_bowl(1.2, 6.2, 50, 310),),
    "o": (_bowl(0),),
    "p": (_line((-5.2, -_HEIGHT), (-5.2, _DESCENDER + 1)), _bowl(0.2)),
    "y": (
        _line((-5.4, -_HEIGHT), (0.2, 0.5)),
        _line((5.6, -_HEIGHT), (-0.9, 3.2), (-2.5, 5.5), (-5.0, 5.8)),
    ),
    "r": (_line((-3.1, -_HEIGHT), (-3.1, 0.4)), _arc(2.5, -6.5, 5.6, 5.8, 180, 275)),
    "i": (_line((0, -_HEIGHT), (0, 0.4)), _line((0, _ASCENDER), (0, _ASCENDER + 1.8))),
    "g": (
        _bowl(-0.2, 5.2),
        _line((5.0, -_HEIGHT), (5.0, 0)),
        _arc(-0.4, 0, 5.4, 5.8, 0, 125),
    ),
    "h": (_line((-5.2, _ASCENDER), (-5.2, 0.4)), _arc(0, -7.0, 5.2, 5.4, 180, 360), _line((5.2, -7.0), (5.2, 0.4))),
    "t": (
        _line((-1.0, _ASCENDER), (-1.0, -3)),
        _arc(2.3, -3, 3.3, 3, 180, 90),
        _line((-3.4, -_HEIGHT), (3.2, -_HEIGHT)),
    ),
    "@": (
        _arc(0, -5.4, 10.3, 10.3, 50, 360),
        _arc(6.4, -5.4, 3.9, 5.0, 0, 90),
        _arc(-1.3, -5.0, 4.6, 5.0, 0, 360),
        _line((3.4, -9.8), (3.4, -0.2)),
    ),
    "a": (
        _arc(0, -7.2, 5.1, 5.1, 205, 360),
        _line((5.1, -7.2), (5.1, 0.4)),
        _arc(0, -3.3, 5.1, 3.4, 0, 360),
    ),
    "b": (_line((-5.1, _ASCENDER), (-5.1, 0.4)), _bowl(-0.2)),
    ".": (_line((0, -0.2), (0, 0.3)),),
    "x": (_line((-4.9, -_HEIGHT), (4.9, 0)), _line((4.9, -_HEIGHT), (-4.9, 0))),
    "z": (_line((-4.7, -_HEIGHT), (4.7, -_HEIGHT), (-4.7, 0), (4.9, 0)),),
}


def strokes() -> Iterator[Points]:
    """Every stroke of the line of text, where it lies in the image: float64 [n, 2], (down, right) in px at 224 px."""
    along = np.array([-np.sin(_SLOPE), np.cos(_SLOPE)])  # (down, right) of a step to the right in the text
    across = np.array([np.cos(_SLOPE), np.sin(_SLOPE)])  # of a step down in the text
    for letter, place in _TEXT:
        for points in _GLYPHS[letter]:
            yield (points[:, :1] + place) * along + (points[:, 1:] + _BASELINE) * across
