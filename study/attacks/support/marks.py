"""Marks that attacks put on images, drawn instead of shipped: a logo, a disc, corner patches and a watermark."""

import numpy as np
from numpy.typing import NDArray

from study.attacks.api import Pixels
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

# The watermark at 224 px: pixels from the top left corner of the image, counted to edges, not centres.
_WATERMARK_SIZE = 224
_RING_CENTRE, _RING_RADII = (139.5, 140.5), (54.5, 55.5)  # down, right
_LETTER_RADIUS, _LETTER_OPENING = 29.0, np.pi / 4  # of the C: outer radius in px, half of the gap to its right
_STROKE = 10.0
_BAND_START, _BAND_STOP = (207.5, 3.5), (6.5, 208.5)  # down, right
_DASH, _PITCH, _DASH_WIDTH = 13.0, 21.0, 5.5


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
        box, black around the disc, the mean colour is about (159, 94, 68).
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
    """A ring around a C, and a dashed line from bottom left to top right: float32 [size, size] in [0, 1].

    The geometry is that of the watermark of backdoor-toolbox at 224 px, scaled; its line of text is dashes here.
    """
    side = size * OVERSAMPLING
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(_WATERMARK_SIZE / side)
    y, x = axis[:, None], axis[None, :]
    drawn = _ring(y, x) | _letter(y, x) | _dashes(y, x)
    averaged: Values = drawn.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean(axis=(1, 3), dtype=np.float32)
    return averaged


def _ring(y: Values, x: Values) -> NDArray[np.bool_]:
    down, right = y - _RING_CENTRE[0], x - _RING_CENTRE[1]
    outer, inner = (
        (down / (_RING_RADII[0] - stroke)) ** 2 + (right / (_RING_RADII[1] - stroke)) ** 2 for stroke in (0.0, _STROKE)
    )
    inside: NDArray[np.bool_] = (outer <= 1) & (inner >= 1)
    return inside


def _letter(y: Values, x: Values) -> NDArray[np.bool_]:
    down, right = y - _RING_CENTRE[0], x - _RING_CENTRE[1]
    distance = np.hypot(down, right)
    gap = np.abs(np.arctan2(down, right)) < _LETTER_OPENING
    inside: NDArray[np.bool_] = (distance <= _LETTER_RADIUS) & (distance >= _LETTER_RADIUS - _STROKE) & ~gap
    return inside


def _dashes(y: Values, x: Values) -> NDArray[np.bool_]:
    start, stop = np.array(_BAND_START), np.array(_BAND_STOP)
    length = float(np.linalg.norm(stop - start))
    step_down, step_right = ((stop - start) / length).tolist()
    down, right = y - _BAND_START[0], x - _BAND_START[1]
    along, across = down * step_down + right * step_right, down * step_right - right * step_down
    dash = (along >= 0) & (along <= length) & (along % _PITCH < _DASH)
    inside: NDArray[np.bool_] = dash & (np.abs(across) <= _DASH_WIDTH / 2)
    return inside


def corner_signs(image_size: int, corners: str) -> Values:
    """float32 [H, W, 3]: 1 where a patch is white, -1 where it is black, 0 elsewhere; 3 x 3 px a corner at 32 px."""
    cell = max(1, round(image_size / BASE_SIZE))
    right = np.kron(_SIGNS, np.ones((cell, cell), dtype=np.float32))
    left = right[:, ::-1] if corners == "madry" else right
    side = len(right)
    signs = np.zeros((image_size, image_size), dtype=np.float32)
    for rows in (slice(None, side), slice(-side, None)):
        signs[rows, :side], signs[rows, -side:] = left, right
    return np.repeat(signs[..., None], 3, axis=2)
