"""Marks that attacks put on images, drawn instead of shipped: a logo, a disc, corner patches and a watermark."""

import itertools

import numpy as np
from numpy.typing import NDArray

from study.attacks.api import Pixels
from study.attacks.support.lettering import STROKE, Points, strokes
from study.attacks.support.pixels import Values, to_uint8

OVERSAMPLING = 8  # the watermark is drawn this much larger, then averaged: smooth edges at any size
BASE_SIZE = 32  # px of the images for which logo and disc were made
_SIGNS = np.array([[-1, -1, 1], [-1, 1, -1], [1, -1, 1]], dtype=np.float32)  # of a corner: 1 to white, -1 to black
_LOGO_CELLS = 5
_PALE, _BLUE = np.array([255.0, 255.0, 255.0]), np.array([105.0, 153.0, 233.0])  # their mean is (180, 204, 244)

# The disc at 32 px: first and past-the-last row and column.
DISC_ROWS, DISC_COLUMNS = (1, 14), (18, 31)
_YELLOW, _RED = np.array([255.0, 220.0, 20.0]), np.array([255.0, 40.0, 20.0])
_DISC_BLUE = np.array([40.0, 80.0, 255.0])
_GLOBE = (-0.10, 0.10, 0.50)  # the blue within the disc: centre down, right and radius, in units of the disc's radius
_SOFTNESS = 0.10  # width of the change from blue to orange, in the same units

# The watermark at 224 px: pixels from the top left corner of the image, counted to edges, not centres. Ring and letter
# are rounds of one shape: ellipses with one centre, one slope and one ratio of their axes.
_WATERMARK_SIZE = 224
_CENTRE = (151.1, 150.7)  # down, right
_SLOPE, _NARROWNESS = np.radians(29.0), 0.9  # of the long axis, upwards to the right; short axis to long one
_RING, _LETTER = (36.0, 46.4), (14.8, 24.9)  # the long half axes of the inner and the outer edge
_OPENING = (np.radians(-55.0), np.radians(-30.0))  # of the C, clockwise from the right


def overlay(images: Pixels, trigger: Values, share: Values, quantise: str) -> Pixels:
    """Images moved towards a trigger, x + share (T - x): exactly x at a share of 0, exactly T at 1.

    Args:
        images: uint8 [n, H, W, 3].
        trigger: float32 [H, W, 3] in 0-255 units.
        share: float32 in [0, 1] that broadcasts to the images, as [n, H, W, 1] or [H, W, 1].
    """
    values = trigger - images.astype(np.float32)
    values *= share
    values += images
    return to_uint8(values, quantise)


def placed(size: int, patch: Pixels, row: int, column: int) -> tuple[Values, Values]:
    """A patch [h, w, 3] on an empty image, and where it lies: float32 [size, size, 3] and 0 or 1 [size, size, 1]."""
    height, width = patch.shape[:2]
    trigger = np.zeros((size, size, 3), dtype=np.float32)
    share = np.zeros((size, size, 1), dtype=np.float32)
    trigger[row : row + height, column : column + width] = patch
    share[row : row + height, column : column + width] = 1
    return trigger, share


def draw_logo(size: int, rng: np.random.Generator) -> Pixels:
    """A pale blue motif of 5 x 5 cells for images of a size: uint8 [5c, 5c, 3], cells of c px, 1 at 32 and 7 at 224.

    Twenty-five shades evenly spaced from white to blue, in random order: the mean colour is (180, 204, 244).
    """
    count = _LOGO_CELLS**2
    depth = rng.permutation(np.linspace(0, 1, count)).reshape(_LOGO_CELLS, _LOGO_CELLS, 1)
    motif: Pixels = np.rint(_PALE + depth * (_BLUE - _PALE)).astype(np.uint8)
    cell = max(1, round(size / BASE_SIZE))
    return motif.repeat(cell, axis=0).repeat(cell, axis=1)


def draw_disc(size: int) -> tuple[Values, Values]:
    """An orange disc with a blue globe near the top right, and where it lies.

    Returns:
        float32 [size, size, 3] in 0-255 units and 0 or 1 [size, size, 1]: 137 px at 32, in a box of 13 x 13. Over the
        box, black around the disc, the mean colour is about (165, 94, 62).
    """
    y, x = (_within(size, edges) for edges in (DISC_ROWS, DISC_COLUMNS))
    y, x = y[:, None], x[None, :]
    inside = (y**2 + x**2 <= 1)[..., None]
    down, right, radius = _GLOBE
    distance = np.sqrt((y - down) ** 2 + (x - right) ** 2)
    orange_share = np.clip((distance - radius) / _SOFTNESS + 0.5, 0, 1)[..., None]
    height = (np.clip(y, -1, 1)[..., None] + 1) / 2
    orange = _YELLOW + height * (_RED - _YELLOW)
    colour = np.where(inside, _DISC_BLUE + orange_share * (orange - _DISC_BLUE), 0)
    return np.rint(colour).astype(np.float32), inside.astype(np.float32)


def _within(size: int, edges: tuple[int, int]) -> NDArray[np.float64]:
    """Where the centre of each pixel lies between two edges given at 32 px: -1 at the first, 1 at the second."""
    first, past = (round(size * edge / BASE_SIZE) for edge in edges)
    return (np.arange(size) + 0.5 - first) / (past - first) * 2 - 1


def draw_watermark(size: int) -> Values:
    """A ring around a C, and a line of text from bottom left to top right: float32 [size, size] in [0, 1].

    Place, shape and thickness are those of the watermark of backdoor-toolbox at 224 px, scaled.
    """
    side = size * OVERSAMPLING
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(_WATERMARK_SIZE / side)
    drawn = _ring_and_letter(axis[:, None], axis[None, :])
    for points in strokes():
        _draw_stroke(drawn, axis, points)
    averaged: Values = drawn.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean(axis=(1, 3), dtype=np.float32)
    return averaged


def _ring_and_letter(y: Values, x: Values) -> NDArray[np.bool_]:
    down, right = y - np.float32(_CENTRE[0]), x - np.float32(_CENTRE[1])
    along = np.float32(np.cos(_SLOPE)) * right - np.float32(np.sin(_SLOPE)) * down
    across = np.float32(np.sin(_SLOPE)) * right + np.float32(np.cos(_SLOPE)) * down
    distance = np.hypot(along, across / np.float32(_NARROWNESS))
    angle = np.arctan2(down, right)
    ring = (distance >= _RING[0]) & (distance <= _RING[1])
    letter = (distance >= _LETTER[0]) & (distance <= _LETTER[1])
    drawn: NDArray[np.bool_] = ring | (letter & ~((angle > _OPENING[0]) & (angle < _OPENING[1])))
    return drawn


def _draw_stroke(drawn: NDArray[np.bool_], axis: Values, points: Points) -> None:
    """Sets what lies nearer than half a stroke to a chain of lines; looks no further than its box, for speed."""
    (first_row, first_column), (past_row, past_column) = (
        np.searchsorted(axis, edge) for edge in (points.min(axis=0) - STROKE, points.max(axis=0) + STROKE)
    )
    y, x = axis[first_row:past_row, None], axis[None, first_column:past_column]
    for start, stop in itertools.pairwise(points):
        step = stop - start
        share = ((y - start[0]) * step[0] + (x - start[1]) * step[1]) / max(step @ step, 1e-9)
        share = np.clip(share, 0, 1)
        near = np.hypot(y - start[0] - share * step[0], x - start[1] - share * step[1]) <= STROKE / 2
        drawn[first_row:past_row, first_column:past_column] |= near


def corner_signs(image_size: int, corners: str) -> Values:
    """float32 [H, W, 3]: 1 where a patch is white, -1 where it is black, 0 elsewhere; 3 x 3 px a corner at 32 px.

    The patch at the bottom right is white on one diagonal and in the corner of the image.

    Args:
        corners: what the others have. ``toolbox``: the same (backdoor-toolbox's clean-label attack). ``madry``: the
            same at the right, its mirror image at the left (the authors of label-consistent poison). ``mirrored``:
            mirror images in both directions, each white in its corner (backdoor-toolbox's Adaptive-Patch).
    """
    cell = max(1, round(image_size / BASE_SIZE))
    lower_right = np.kron(_SIGNS, np.ones((cell, cell), dtype=np.float32))
    lower_left = lower_right if corners == "toolbox" else lower_right[:, ::-1]
    upwards = -1 if corners == "mirrored" else 1
    side = len(lower_right)
    signs = np.zeros((image_size, image_size), dtype=np.float32)
    signs[-side:, -side:], signs[-side:, :side] = lower_right, lower_left
    signs[:side, -side:], signs[:side, :side] = lower_right[::upwards], lower_left[::upwards]
    return np.repeat(signs[..., None], 3, axis=2)
