"""Picture files that somebody gives us: opened by a few plain decoders, and nothing that Pillow would run for them.

Left to itself Pillow also takes formats that need a program of their own, such as EPS, which Ghostscript executes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from defenses.registry import UserError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


@contextmanager
def readable(complaint: str, way_out: str = "") -> Iterator[None]:
    """Whatever goes wrong in the block is the file's fault.

    Args:
        complaint, way_out: of the error; what Pillow or the system says stands between them.

    Raises:
        UserError: it cannot be read, or decoded.
    """
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        raise UserError(f"{complaint}: {error}{way_out}") from error


@contextmanager
def open_picture(path: Path | str, complaint: str, way_out: str = "") -> Iterator["Image.Image"]:
    """An open picture; errors as `readable` raises them."""
    from PIL import Image

    with readable(complaint, way_out), Image.open(path, formats=FORMATS) as picture:
        yield picture
