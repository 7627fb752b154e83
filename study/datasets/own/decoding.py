"""Contents of samples as rows of an array: decoded by several threads; what cannot be decoded is told, and skipped."""

import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.cli.bar import Bar
from study.datasets.image_files import as_rgb, open_picture, special_reading
from study.datasets.own.source import Batch, Content, Samples, Unreadable

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 100_000_000
"""An image of more is taken for a decompression bomb; decoded it would take 300 MB."""
_QUIET_SECONDS = 2.0  # what is over sooner says nothing
_LEAST_WHITE = 16  # of 255: no image of 16 bits that gets there holds only 12
_LONGEST_REASON = 200
CONVERSIONS = {
    "grey": "greyscale, the channel is taken three times",
    "palette": "colours of a palette, converted to RGB",
    "cmyk": "CMYK, converted to RGB without a colour profile",
    "other": "another colour space, converted to RGB",
    "deep": "16 bits, the upper 8 are kept",
    "turned": "turned upright, as EXIF says",
    "alpha": "an alpha channel, which is dropped as most training code drops it, by convert('RGB')",
    "frames": "several frames or pages, the first is taken",
    "stretched": "not square, stretched to a square",
}
"""What is done to images, in words that follow how many they are."""
_MODES = {"RGB": "", "RGBA": "", "RGBX": "", "RGBa": "", "L": "grey", "LA": "grey", "La": "grey", "1": "grey"}
_MODES |= {"I;16": "grey", "I;16L": "grey", "I;16B": "grey", "I;16N": "grey", "I": "grey", "P": "palette"}
_MODES |= {"PA": "palette", "CMYK": "cmyk"}


@dataclass
class Facts:
    """What was seen while images were decoded.

    Attributes:
        unreadable: position and reason of each that is not used.
        conversions: how many were converted in which way, by the keys of `CONVERSIONS`.
        brightest: of images of 16 bits, after conversion; None without one.
        low, high: smallest and largest height and width in px.
    """

    unreadable: list[tuple[int, str]] = field(default_factory=list)
    conversions: Counter[str] = field(default_factory=Counter)
    brightest: int | None = None
    low: tuple[int, int] | None = None
    high: tuple[int, int] | None = None

    def add(self, height: int, width: int, kinds: tuple[str, ...]) -> None:
        """Counts an image of a size in px that was converted in these ways."""
        self.conversions.update(kinds)
        low, high = self.low or (height, width), self.high or (height, width)
        self.low = min(low[0], height), min(low[1], width)
        self.high = max(high[0], height), max(high[1], width)

    def merge(self, other: "Facts") -> None:
        """Adds what another thread has seen."""
        self.unreadable += other.unreadable
        self.conversions.update(other.conversions)
        if other.brightest is not None:
            self.brightest = max(self.brightest or 0, other.brightest)
        if other.low is not None and other.high is not None:
            self.add(*other.low, ())
            self.add(*other.high, ())

    def notes(self) -> list[str]:
        """The conversions in sentences."""
        told = [
            f"{self.conversions[kind]:,} image{'s' if self.conversions[kind] > 1 else ''}: {words}."
            for kind, words in CONVERSIONS.items()
            if self.conversions[kind]
        ]
        if self.brightest is not None and self.brightest < _LEAST_WHITE:
            told.append(
                "No image of 16 bits is brighter than 1/16 of white: if they hold 12 bits or fewer, scale them first."
            )
        return told


def decode(
    samples: Samples,
    rows: NDArray[np.int64],
    size: int,
    write: Callable[[int, NDArray[np.uint8]], None],
    label: str,
    progress: bool,
) -> Facts:
    """Hands the images of some samples, as RGB of one size, to `write`; those that cannot be decoded are black.

    Args:
        rows: ascending positions int64 [n].
        size: px of the sides.
        write: takes a position and images uint8 [m, size, size, 3] from there on; called by several threads.
        label: of the bar.
        progress: whether a bar is shown where it takes more than a moment.
    """
    facts = Facts()
    threads = os.cpu_count() or 1
    waiting: deque[Future[tuple[int, Facts]]] = deque()
    with quiet_decoders(), ThreadPoolExecutor(threads) as pool, _LateBar(label, len(rows), progress) as shown:
        start = 0
        for batch in samples.batches(rows):
            while len(waiting) > threads + 1:  # what is read and not decoded yet lies in memory
                _collect(waiting, facts, shown)
            waiting.append(pool.submit(_decode_batch, batch, start, size, write))
            start += batch.count
        while waiting:
            _collect(waiting, facts, shown)
    return facts


def _collect(waiting: "deque[Future[tuple[int, Facts]]]", facts: Facts, shown: "_LateBar") -> None:
    done, part = waiting.popleft().result()
    facts.merge(part)
    shown.advance(done)


class _LateBar:
    """A bar that comes once it has taken more than a moment."""

    def __init__(self, label: str, total: int, wanted: bool) -> None:
        self._label, self._total, self._wanted = label, total, wanted
        self._started, self._done = time.monotonic(), 0
        self._bar: Bar | None = None

    def __enter__(self) -> "_LateBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """So many more are done."""
        gone = time.monotonic() - self._started
        if self._bar is None and self._wanted and gone > _QUIET_SECONDS:
            self._bar = Bar(self._total, self._label, initial=self._done)
        self._done += count
        if self._bar is not None:
            self._bar.advance(count, f"{self._done / gone:.0f} a second")


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """What decoders warn of is counted, or makes an image unreadable: nothing of it reaches the screen line by line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decode_batch(
    batch: Batch, start: int, size: int, write: Callable[[int, NDArray[np.uint8]], None]
) -> tuple[int, Facts]:
    contents, facts = batch.read(), Facts()
    pixels = np.zeros((batch.count, size, size, 3), dtype=np.uint8)
    for position, (image, content) in enumerate(zip(pixels, contents, strict=True), start):
        try:
            _decode_one(image, content, facts)
        except UserError as error:
            facts.unreadable.append((position, plain_reason(str(error))))
            image[:] = 0
    write(start, pixels)
    return batch.count, facts


def plain_reason(text: str) -> str:
    """What a decoder complains of in one short line."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 1]}…"


def _decode_one(image: NDArray[np.uint8], content: Content, facts: Facts) -> None:
    """Reads a content into an image, uint8 [size, size, 3].

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(content, Unreadable):
        raise UserError(content.reason)
    if isinstance(content, np.ndarray):
        kinds = _place_pixels(image, content)
        facts.add(content.shape[0], content.shape[1], kinds)
        return
    with open_content(content) as picture:
        kinds = conversions(picture)
        rgb = as_rgb(picture)
        width, height = rgb.size
        image[:] = np.asarray(_resized(rgb, image.shape[0]))
    if "deep" in kinds:
        facts.brightest = max(facts.brightest or 0, int(image.max()))
    facts.add(height, width, (*kinds, *(("stretched",) if height != width else ())))


@contextmanager
def open_content(content: bytes) -> Iterator["Image.Image"]:
    """An encoded image, opened.

    Raises:
        UserError: it is empty, none that is known, or too large; or what is done with it in the block fails.
    """
    if not content:
        raise UserError("the file is empty")
    with open_picture(BytesIO(content), "it cannot be decoded") as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise UserError(f"it has {picture.width:,} x {picture.height:,} px, more than {MOST_PIXELS:,} in all")
        yield picture


def conversions(picture: "Image.Image") -> tuple[str, ...]:
    """In which ways an open picture is going to be converted, by the keys of `CONVERSIONS`; reads the header alone."""
    kinds = [_MODES.get(picture.mode, "other")]
    special = special_reading(picture)
    kinds += ["deep"] if "16 bits" in special else []
    kinds += ["turned"] if "turned" in special else []
    alpha = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    kinds += ["alpha"] if alpha else []
    kinds += ["frames"] if int(getattr(picture, "n_frames", 1)) > 1 else []
    return tuple(kind for kind in kinds if kind)


def _resized(picture: "Image.Image", size: int) -> "Image.Image":
    from PIL import Image

    return picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BILINEAR)


def _place_pixels(image: NDArray[np.uint8], pixels: NDArray[Any]) -> tuple[str, ...]:
    """Puts pixels uint8 [H, W] or [H, W, C] into an image uint8 [size, size, 3], and says what was converted."""
    from PIL import Image

    kinds: tuple[str, ...] = ()
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels, kinds = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2), ("grey",)
    elif pixels.shape[2] == 4:
        pixels, kinds = pixels[..., :3], ("alpha",)
    if pixels.shape[0] != pixels.shape[1]:
        kinds = (*kinds, "stretched")
    if pixels.shape == image.shape:
        image[:] = pixels
    else:
        image[:] = np.asarray(_resized(Image.fromarray(np.ascontiguousarray(pixels)), image.shape[0]))
    return kinds
