"""What D-ST puts images through to see whether their features move; whole-tensor operations on the images' device."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from defenses.training.views import gaussian_blur, resample

TRANSFORMS = ("rotate_affine", "blur", "median", "erase", "flip", "identity")
DRAWN = ("rotate_affine", "erase")
"""Those that draw; the others give the same image each time."""
_LARGEST_SHIFT = 0.2  # of a side (D-ST's code)
_ERASED = (0.02, 0.33)  # share of the area
_ERASED_RATIO = math.log(3.3)  # of the sides, either way; both as in torchvision's RandomErasing


def transformed(images: Tensor, transform: str, kernel_size: int, generator: torch.Generator) -> Tensor:
    """Images after one draw of a transform.

    Args:
        images: float32 [n, 3, H, W], in [0, 255].
        transform: one of `TRANSFORMS`. ``rotate_affine`` turns by any angle, then shifts by up to a fifth of each side;
            what comes in is black. ``blur`` is a Gaussian whose standard deviation is a third of the kernel. ``median``
            takes the median of each square of pixels. ``erase`` blackens a rectangle. ``flip`` mirrors left and right.
        kernel_size: px of the filters, odd.
        generator: on the device of the images.

    Returns:
        float32 [n, 3, H, W].
    """
    if transform == "rotate_affine":
        return _shift(_rotate(images, generator), generator)
    if transform == "blur":
        return gaussian_blur(images, images.new_full((len(images), 1, 1, 1), kernel_size / 3))
    if transform == "median":
        return median_filter(images, kernel_size)
    if transform == "erase":
        return _erase(images, generator)
    return images.flip(3) if transform == "flip" else images


def _uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """A number an image, float32 [n]."""
    return low + (high - low) * torch.rand(len(images), generator=generator, device=images.device)


def _rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    angle = _uniform(images, -math.pi, math.pi, generator)
    maps = images.new_zeros((len(images), 2, 3))
    maps[:, 0, 0], maps[:, 0, 1] = angle.cos(), -angle.sin()
    maps[:, 1, 0], maps[:, 1, 1] = angle.sin(), angle.cos()
    return resample(images, maps, "nearest", "zeros")


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    maps = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for axis in (0, 1):
        # Places run from -1 to 1, so that a share of the side is twice as much.
        maps[:, axis, 2] = 2 * _uniform(images, -_LARGEST_SHIFT, _LARGEST_SHIFT, generator)
    return resample(images, maps, "nearest", "zeros")


def median_filter(images: Tensor, size: int) -> Tensor:
    """The median of the square of pixels around each pixel; edge pixels are repeated outwards.

    Args:
        images: float32 [n, 3, H, W].
        size: px of the square, odd.
    """
    padded = functional.pad(images, (size // 2,) * 4, mode="replicate")
    squares = padded.unfold(2, size, 1).unfold(3, size, 1)
    return squares.flatten(start_dim=4).median(dim=4).values


def _erase(images: Tensor, generator: torch.Generator) -> Tensor:
    n, _, rows, columns = images.shape
    area = _uniform(images, *_ERASED, generator) * rows * columns
    ratio = _uniform(images, -_ERASED_RATIO, _ERASED_RATIO, generator).exp()
    inside = torch.ones((n, 1, 1, 1), dtype=torch.bool, device=images.device)
    for axis, side, length in ((2, rows, (area * ratio).sqrt()), (3, columns, (area / ratio).sqrt())):
        length = length.round().clamp(1, side)
        start = (_uniform(images, 0.0, 1.0, generator) * (side - length + 1)).floor()
        places = torch.arange(side, device=images.device)
        within = (places >= start.unsqueeze(1)) & (places < (start + length).unsqueeze(1))
        shape = (n, 1, side, 1) if axis == 2 else (n, 1, 1, side)
        inside = inside & within.view(shape)
    return images.masked_fill(inside, 0.0)
