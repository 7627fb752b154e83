"""Images on their device: batches, flips and crops are whole-tensor operations, and nothing is copied twice."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from defenses.training import streamed_images
from defenses.training.streamed_images import DeviceImages, StreamedImages, select


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array of any dtype and shape [N, ...] as a tensor on the device; on a CPU nothing is copied."""
    with warnings.catch_warnings():
        # torch warns that a read-only array (a memory map, Ray's shared memory) could be written through the tensor.
        # Nothing here writes to images or labels, and a copy would double the memory of every worker.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def device_images(
    images: NDArray[np.uint8], device: torch.device, beside: NDArray[np.uint8] | None = None
) -> DeviceImages:
    """Images on the device; streamed to it where they would take too much of its memory.

    Args:
        images: uint8 [N, H, W, 3].
        beside: uint8 [M, H, W, 3], what streamed images find behind their own; see `StreamedImages`.
    """
    if streamed_images.fits(images.nbytes, device):
        return to_device(images, device)
    return StreamedImages(images, device, beside)


def take(images: DeviceImages, index: Tensor, among: Tensor | None = None) -> Tensor:
    """The chosen images as a batch [n, 3, H, W].

    Args:
        images: uint8 [N, H, W, 3]: the layout in which torch's channels_last tensors lie in memory.
        index: int64 [n].
        among: int64 [m], the positions that the index counts; by default all.
    """
    return select(images, index, among).permute(0, 3, 1, 2)


def take_augmented(
    images: DeviceImages, index: Tensor, padding: int, generator: torch.Generator, among: Tensor | None = None
) -> Tensor:
    """As `take`, each image flipped with probability 1/2 and cropped at random after zero padding.

    One gather does the choice, the flip and the crop.

    Args:
        images: uint8 [N, H, W, 3].
        index: int64 [n].
        padding: px on each side; the papers use 4 at 32 px and 16 at 224 px.
        generator: on the device of the images.
        among: int64 [m], the positions that the index counts; by default all.
    """
    n, (_, height, width, _) = len(index), images.shape
    device = images.device
    padded = functional.pad(select(images, index, among), (0, 0) + (padding,) * 4)
    offsets = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator, device=device)
    flip = torch.randint(0, 2, (n, 1), generator=generator, device=device).bool()
    rows = offsets[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    columns = offsets[1] + torch.where(flip, width - 1 - columns, columns)
    sample = torch.arange(n, device=device).view(n, 1, 1)
    return padded[sample, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def crop_padding(image_size: int) -> int:
    """Padding of the random crop: an eighth of the side at 32 px, a fourteenth at 224 px (PIPD, appendix B.3)."""
    return 4 if image_size < 96 else round(image_size / 14)


def epoch_batches(n: int, batch_size: int, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """One epoch in random order; a last batch of one image is joined to the one before it.

    A single image would break BatchNorm's variance; dropping it would skip a sample that a defense must score.

    Yields:
        int64 [batch], positions of the images.
    """
    order = torch.randperm(n, generator=generator, device=device)
    start = 0
    while start < n:
        stop = n if n - (start + batch_size) <= 1 else start + batch_size
        yield order[start:stop]
        start = stop
