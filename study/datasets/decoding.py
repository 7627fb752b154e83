"""Picture files as rows of an array: decoded and resized by several threads, with a bar where that takes a while."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.cli.bar import Bar
from study.datasets.image_files import as_rgb, open_picture, special_reading

_LEAST_WHITE = 16  # of 255: no picture of 16 bits that gets there holds only 12
_BLOCK = 16  # pictures that a thread decodes before it takes the next ones
_QUIET_SECONDS = 2.0  # what is over sooner says nothing
Write = Callable[[int, NDArray[np.uint8]], None]
"""Takes rows uint8 [n, size, size, 3] and the position of the first of them; called by several threads."""


@dataclass(frozen=True)
class _Read:
    """What a picture is beside its pixels: the brightest level where it has 16 bits, and how many frames it holds."""

    brightest: int | None
    frames: int


def decode(name: str, files: Sequence[str], size: int, write: Write) -> list[str]:
    """Hands all pictures, resized to size x size RGB, to `write`.

    Args:
        name: of what they are, for messages.

    Returns:
        What is to be said of pictures that hold more, or less, than is taken.

    Raises:
        UserError: a picture cannot be read.
    """
    blocks = [range(start, min(start + _BLOCK, len(files))) for start in range(0, len(files), _BLOCK)]
    read: list[_Read] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        waiting = [pool.submit(_decode_block, files, block, size, write) for block in blocks]
        try:
            _collect(f"decoding {name}", waiting, len(files), read)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return _remarks(name, read)


def _collect(label: str, waiting: list["Future[list[_Read]]"], total: int, read: list[_Read]) -> None:
    """Waits for the blocks in order, with a bar once that has taken more than a moment."""
    started, bar = time.monotonic(), None
    try:
        for block in waiting:
            done = block.result()
            read += done
            if bar is None and time.monotonic() - started > _QUIET_SECONDS:
                bar = Bar(total, label, initial=len(read) - len(done))
            if bar is not None:
                bar.advance(len(done), f"{len(read) / (time.monotonic() - started):.0f} a second")
    finally:
        if bar is not None:
            bar.close()


def _decode_block(files: Sequence[str], block: range, size: int, write: Write) -> list[_Read]:
    pixels = np.empty((len(block), size, size, 3), dtype=np.uint8)
    read = [_decode_one(image, files[position]) for image, position in zip(pixels, block, strict=True)]
    write(block.start, pixels)
    return read


def _decode_one(image: NDArray[np.uint8], path: str) -> _Read:
    """Reads a picture into an image, uint8 [size, size, 3]."""
    from PIL import Image

    with open_picture(path, f"{path} must be a readable image", "; remove or mend it") as picture:
        special, frames = special_reading(picture), int(getattr(picture, "n_frames", 1))
        image[:] = np.asarray(as_rgb(picture).resize(image.shape[:2], Image.Resampling.BILINEAR))
    return _Read(int(image.max()) if "16 bits" in special else None, frames)


def _remarks(name: str, read: Sequence[_Read]) -> list[str]:
    remarks = []
    deep = [one.brightest for one in read if one.brightest is not None]
    if deep and max(deep) < _LEAST_WHITE:
        remarks.append(
            f"{name}: no picture of 16 bits is brighter than 1/16 of white: if they hold 12 bits or fewer, scale them "
            "first"
        )
    several = sum(one.frames > 1 for one in read)
    if several:
        remarks.append(f"{name}: {several} pictures hold several frames or pages: the first of each is taken")
    return remarks
