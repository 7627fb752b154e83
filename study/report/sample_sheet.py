"""Training images side by side, each with its label and a frame that says what it is, as one small picture."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.report.theme import SERIES

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 16
"""Samples of a sheet."""
POISONED, BENIGN = SERIES[1], SERIES[0]
"""Colours of the frames."""

_SIDE, _FRAME, _GAP, _LINE = 64, 3, 6, 14  # px: of an image, its frame, between two, a line of text
_TILE = 144  # px of a single picture
_COLUMNS = 8
_GREY = (125, 133, 144, 255)  # text that can be read on a light and on a dark page
_LARGE = 40_000  # bytes of a file; above it colours are reduced


def draw_sheet(
    images: NDArray[np.uint8], labels: Sequence[str], poisoned: Sequence[bool | None], columns: int = _COLUMNS
) -> tuple[bytes, int, int]:
    """A PNG file on a transparent ground, with its width and height in px.

    Args:
        images: uint8 [n, h, w, 3], n from 1; small ones are enlarged so that pixels can be seen.
        labels: a short text below each.
        poisoned: what each is; None where nobody knows, which has no frame.
        columns: images beside each other, where there are as many.
    """
    from PIL import Image, ImageDraw

    cell = _SIDE + 2 * _FRAME + _GAP
    columns, lines = min(columns, len(images)), -(-len(images) // columns)
    sheet = Image.new("RGBA", (columns * cell, lines * (cell + _LINE)))
    draw = ImageDraw.Draw(sheet)
    for at, (image, label, known) in enumerate(zip(images, labels, poisoned, strict=True)):
        x, y = at % columns * cell, at // columns * (cell + _LINE)
        if known is not None:
            end = _SIDE + 2 * _FRAME - 1
            draw.rectangle((x, y, x + end, y + end), fill=POISONED if known else BENIGN)
        sheet.paste(_thumbnail(image), (x + _FRAME, y + _FRAME))
        draw.text((x + _FRAME + _SIDE // 2, y + _SIDE + 2 * _FRAME + 1), label, fill=_GREY, anchor="ma")
    return _png(sheet), sheet.width, sheet.height


def draw_tiles(images: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> tuple[bytes, int, int]:
    """Pictures side by side, larger than those of a sheet, as a PNG file with its width and height in px.

    Args:
        images: uint8 [h, w, 3] each, all of one size.
        labels: a short text below each.
    """
    from PIL import Image, ImageDraw

    cell = _TILE + _GAP
    sheet = Image.new("RGBA", (len(images) * cell - _GAP, _TILE + _LINE))
    draw = ImageDraw.Draw(sheet)
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        sheet.paste(_thumbnail(image, _TILE), (at * cell, 0))
        draw.text((at * cell + _TILE // 2, _TILE + 1), label, fill=_GREY, anchor="ma")
    return _png(sheet), sheet.width, sheet.height


def draw_preview(preview: NDArray[np.uint8], rows: int = 3) -> tuple[bytes, int, int]:
    """The attack's picture as a PNG file, with its width and height in px.

    Args:
        preview: uint8 [rows h, n w, 3]: clean, poisoned and their difference; of received data the poison alone.
    """
    from PIL import Image

    height = preview.shape[0] // rows
    picture = Image.fromarray(np.ascontiguousarray(preview))
    scale = max(1, _SIDE // max(1, height)) if height <= _SIDE else _SIDE / height
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resized = picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    return _png(resized), resized.width, resized.height


def read_picture(content: bytes) -> NDArray[np.uint8] | None:
    """A PNG file as uint8 [h, w, 3]; None where it is none, or is larger than what a study writes."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.width * picture.height > 1 << 22:
                return None
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for a damaged file
        return None


def _thumbnail(image: NDArray[np.uint8], side: int = _SIDE) -> "Image":
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    larger = max(picture.size) <= side
    return picture.resize((side, side), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def _png(picture: "Image") -> bytes:
    """The file; one that is large has 256 colours."""
    from PIL import Image

    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    if content.tell() > _LARGE:
        content = io.BytesIO()
        picture.quantize(256, method=Image.Quantize.FASTOCTREE).save(content, format="PNG", optimize=True)
    return content.getvalue()
