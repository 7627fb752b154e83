"""Picture files that somebody gives us: opened by a few plain decoders, turned upright, and made RGB of 8 bits.

Left to itself Pillow also takes formats that need a program of their own, such as EPS, which Ghostscript executes; it
leaves a photograph as the camera lay; and it cuts every level above 255 off, so that a picture of 16 bits turns white.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from defenses.registry import UserError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_ORIENTATION = 0x0112  # EXIF's tag
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags, and what the second one says of a negative
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


@contextmanager
def readable(complaint: str, way_out: str = "") -> Iterator[None]:
    """Whatever goes wrong in the block is the file's fault: decoders raise what they please on what they never met.

    Args:
        complaint, way_out: of the error; what Pillow or the system says stands between them.

    Raises:
        UserError: it cannot be read, or decoded.
    """
    try:
        yield
    except Exception as error:
        raise UserError(f"{complaint}: {str(error) or type(error).__name__}{way_out}") from error


@contextmanager
def open_picture(path: Path | str | IO[bytes], complaint: str, way_out: str = "") -> Iterator["Image.Image"]:
    """An open picture; errors as `readable` raises them."""
    from PIL import Image

    with readable(complaint, way_out), Image.open(path, formats=FORMATS) as picture:
        yield picture


def as_rgb(picture: "Image.Image") -> "Image.Image":
    """An open picture's first frame upright, as RGB of 8 bits.

    Of 16 bits the upper 8 are kept, as Pillow itself keeps them of colour. Larger whole numbers and floats name no
    white, so no scale of theirs is right.

    Raises:
        UserError: its levels have no known range.
    """
    sixteen = _sixteen_bits(picture)
    if picture.mode in ("I", "F") and not sixteen:
        bits = "whole numbers of 32 bits" if picture.mode == "I" else "floats"
        raise UserError(f"its pixels are {bits} (mode {picture.mode}), which name no white: save it with 8 or 16 bits")
    picture.load()
    turn = _turn(picture)  # now: a PNG may tell it behind the pixels, and a TIFF was turned as it was loaded
    plain = (_upper_bits(picture) if sixteen else picture).convert("RGB")
    return plain if turn is None else plain.transpose(turn)


def special_reading(picture: "Image.Image") -> str:
    """What is done to an open picture beyond plain decoding; empty for a usual one. Reads the header alone.

    It is part of the identity of what is made of a picture: before, such files were read to other pixels.
    """
    in_header = picture.format != "PNG" or not {"exif", "Raw profile type exif"}.isdisjoint(picture.info)
    turn = _turn(picture) if in_header and picture.format != "TIFF" else None
    parts = ["16 bits"] if _sixteen_bits(picture) else []
    return ", ".join([*parts, *([f"turned {turn.name}"] if turn is not None else [])])


def _sixteen_bits(picture: "Image.Image") -> bool:
    """Whether its levels are whole numbers up to 65,535; some formats are opened as wider ones."""
    return picture.mode in _SIXTEEN_BITS or (picture.mode == "I" and picture.format in ("PNG", "PPM"))


def _upper_bits(picture: "Image.Image") -> "Image.Image":
    import numpy as np
    from PIL import Image

    tags = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    bits = tags.get(_BITS, (16,))[0]  # a TIFF may have 12
    levels = (np.asarray(picture).astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels)


def _turn(picture: "Image.Image") -> "Image.Transpose | None":
    """How it is turned upright, by EXIF; None where it is, or where its EXIF cannot be read."""
    from PIL.Image import Transpose

    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF: the pixels may be whole
        return None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None
