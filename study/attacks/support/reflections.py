"""The pictures that are reflected in images by `refool`: painted ones, or photographs from a folder.

The paper reflects photographs of PASCAL VOC, which are not shipped. Painted pictures have what matters of them:
noise whose brightness falls off with spatial frequency, some colour, and sharp edges. On 2,000 images of CIFAR-10 they
give a mean PSNR of 22.0 dB (1st to 99th percentile 13.2 to 35.6); other images of CIFAR-10 in their place 21.8 dB.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from defenses.registry import UserError
from study.attacks.api import Pixels
from study.datasets import listed
from study.datasets.image_files import as_rgb, open_picture, readable, special_reading

log = logging.getLogger(__name__)
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FALL_OFF = 1.5  # the noise's amplitude falls with frequency f as 1/f^1.5
_CHROMA = 0.35  # noise of each colour channel beside 1 of all three
_SHAPES = (3, 7)  # rectangles and ellipses a picture, inclusive
_SHAPE_SIDES = (0.1, 0.5)  # of the picture's side
_OPACITY = 0.7  # of the shapes


def paint(rng: np.random.Generator, count: int, size: int) -> Pixels:
    """Pictures of coloured noise under a few flat rectangles and ellipses, uint8 [count, size, size, 3]."""
    pictures = np.empty((count, size, size, 3), dtype=np.uint8)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    amplitude = np.maximum(frequency, 1) ** -_FALL_OFF
    for picture in pictures:
        canvas = _noise(rng, amplitude, size)
        for _ in range(rng.integers(_SHAPES[0], _SHAPES[1], endpoint=True)):
            _add_shape(rng, canvas)
        picture[:] = np.rint(canvas * 255)
    return pictures


def _noise(rng: np.random.Generator, amplitude: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Noise [size, size, 3] with a given spectrum, stretched to [0, 1]."""
    spectrum = np.fft.rfft2(rng.normal(size=(4, size, size))) * amplitude
    grey, *colours = np.fft.irfft2(spectrum, s=(size, size))
    canvas = np.stack([grey + _CHROMA * colour for colour in colours], axis=-1)
    stretched: NDArray[np.float64] = (canvas - canvas.min()) / np.ptp(canvas)
    return stretched


def _add_shape(rng: np.random.Generator, canvas: NDArray[np.float64]) -> None:
    """Lays a translucent rectangle or ellipse of one colour on a picture, in place."""
    axis = (np.arange(len(canvas)) + 0.5) / len(canvas)
    (y, x), (height, width) = rng.random(2), rng.uniform(*_SHAPE_SIDES, 2)
    down, right = np.abs(axis[:, None] - y) * 2 / height, np.abs(axis[None, :] - x) * 2 / width
    inside = np.maximum(down, right) <= 1 if rng.random() < 0.5 else np.hypot(down, right) <= 1
    canvas[inside] += _OPACITY * (rng.random(3) - canvas[inside])


def find_photographs(folder: str, most: int) -> list[Path]:
    """The first picture files of a folder by name; hidden ones, folders below it and other files are passed over.

    Raises:
        UserError: it is no folder, holds no picture, or one of the pictures cannot be opened.
    """
    files = [file for file in _entries(folder) if _is_photograph(file)]
    if not files:
        raise UserError(
            f"refool:trigger_dir must hold photographs ({', '.join(_SUFFIXES)}), got {folder!r}, which has none: "
            "name another folder, or leave the option out to use painted pictures"
        )
    for file in files[:most]:
        with open_picture(file, _complaint(str(file))):
            pass  # reads the header alone
    return files[:most]


def tell_passed_over(folder: str) -> None:
    """Warns of what lies in the folder and is no photograph by its name."""
    entries = _entries(folder)
    rest = [file.name for file in entries if not _is_photograph(file)]
    if rest:
        log.warning(
            "refool:trigger_dir %s: %d of %d entries are passed over: %s; photographs are files that end in %s",
            folder,
            len(rest),
            len(entries),
            listed(rest),
            ", ".join(_SUFFIXES),
        )


def _entries(folder: str) -> list[Path]:
    """What lies in the folder, by name, hidden entries apart."""
    if not Path(folder).is_dir():
        raise UserError(f"refool:trigger_dir must be a folder of photographs, got {folder!r}: there is no such folder")
    with readable(_complaint(folder)):
        entries = [file for file in Path(folder).iterdir() if not file.name.startswith(".")]
    return sorted(entries, key=lambda file: file.name)


def _is_photograph(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES and file.is_file()


def read_photographs(files: list[Path], size: int) -> Pixels:
    """Photographs as RGB, uint8 [n, size, size, 3]: cut to their central square, then averaged down."""
    pictures = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for picture, file in zip(pictures, files, strict=True):
        with open_picture(file, _complaint(str(file))) as opened:
            picture[:] = np.asarray(ImageOps.fit(as_rgb(opened), (size, size), Image.Resampling.BOX))
    return pictures


def content_hash(files: list[Path]) -> str:
    """sha256 over the files' contents in order, and what is done to them beyond decoding; their names do not count."""
    digest = hashlib.sha256()
    for file in files:
        with open_picture(file, _complaint(str(file))) as picture:
            special = special_reading(picture)
        with readable(_complaint(str(file))):
            digest.update(hashlib.sha256(file.read_bytes()).digest() + special.encode())
    return digest.hexdigest()


def _complaint(path: str) -> str:
    return f"refool:trigger_dir must hold readable photographs, got {path!r}"
