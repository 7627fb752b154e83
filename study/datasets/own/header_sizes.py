"""The sizes of images as their headers tell them, and the one size that suits them."""

from dataclasses import dataclass

import numpy as np

from defenses.registry import UserError
from study.datasets.own.decoding import open_content, quiet_decoders
from study.datasets.own.source import TRAIN, Content, Source, Unreadable

_HEADERS = 200  # images whose headers are read, spread over the training set
_SMALL, _LARGE = 32, 64  # px that large images are brought to: training takes long enough with these
_BETWEEN = 48


@dataclass(frozen=True)
class Sizes:
    """Of the images whose headers were read.

    Attributes:
        low, high: smallest and largest height and width in px.
        middle: median of the shorter sides in px; 0 where no header can be read.
    """

    low: tuple[int, int]
    high: tuple[int, int]
    middle: int


def sample_sizes(source: Source) -> Sizes:
    """Of some training images, spread evenly over them."""
    samples = source.splits[TRAIN]
    count = len(samples.ids)
    rows = np.unique(np.linspace(0, count - 1, min(count, _HEADERS)).astype(np.int64))
    known = []
    with quiet_decoders():
        for batch in samples.batches(rows):
            known += [size for size in map(_size, batch.read()) if size is not None]
    if not known:
        return Sizes((0, 0), (0, 0), 0)
    heights, widths = zip(*known, strict=True)
    middle = int(np.median([min(size) for size in known]))
    return Sizes((min(heights), min(widths)), (max(heights), max(widths)), middle)


def _size(content: Content) -> tuple[int, int] | None:
    if isinstance(content, Unreadable):
        return None
    if isinstance(content, np.ndarray):
        return content.shape[0], content.shape[1]
    try:
        with open_content(content) as picture:
            return picture.height, picture.width
    except UserError:
        return None


def default_size(sizes: Sizes) -> int:
    """The side in px that images are brought to unless somebody names one.

    Small squares of one size stay as they are. Others become 32 px where half of them have a side below 48 px, and
    64 px where they are larger: a study trains many models, and each takes four times as long at twice the size.
    """
    if sizes.low == sizes.high and sizes.low[0] == sizes.low[1] and 8 <= sizes.low[0] <= _LARGE:
        return sizes.low[0]
    return _SMALL if sizes.middle < _BETWEEN else _LARGE
