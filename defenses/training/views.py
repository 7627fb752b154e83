"""Random views of images for contrastive learning, made on the images' device by whole-tensor operations.

A view is what SimCLR (Chen et al., ICML 2020) shows a network: a random part at full size, flipped, with other colours,
sometimes grey, sometimes blurred. Each image of a batch draws its own. Differences from torchvision's transforms of the
same names: parts lie between pixels and are interpolated where torchvision cuts at whole ones, brightness, contrast,
saturation and hue are changed in this order (torchvision shuffles it), and nothing is rounded to whole levels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from defenses.training.streamed_images import DeviceImages, select

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision
_LOG_RATIO = 0.28768207  # log(4 / 3): parts have ratios of sides from 3:4 to 4:3


@dataclass(frozen=True)
class Views:
    """How views are drawn; the defaults are SimCLR's for small images, which D-ST and DBD use.

    Attributes:
        smallest_part: the least share of an image's area that a view shows, in (0, 1].
        flip: chance of a mirrored view.
        jitter: chance of other colours.
        strength: by how much brightness, contrast and saturation change, as a share; hue changes by a quarter of it.
        grey: chance of a grey view.
        blur: chance of a Gaussian blur of 0.1 to 2 px; DBD has it.
        bicubic: interpolates with cubic pieces (DBD) and not with linear ones.
    """

    smallest_part: float = 0.2
    flip: float = 0.5
    jitter: float = 0.8
    strength: float = 0.4
    grey: float = 0.2
    blur: float = 0.0
    bicubic: bool = False

    def draw(self, images: DeviceImages, index: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """Views of each of the chosen images.

        Args:
            images: uint8 [N, H, W, 3].
            index: int64 [n].
            generator: on the device of the images.
            count: views of each image: one of all, then another of all.

        Returns:
            float32 [count n, 3, H, W], in [0, 255].
        """
        pixels = select(images, index)
        shown = torch.cat([pixels] * count).permute(0, 3, 1, 2)
        views = _parts(shown.float(), self, generator)
        if self.jitter > 0:
            changed = _other_colours(views, self.strength, generator)
            views = torch.where(_chance(views, self.jitter, generator), changed, views)
        if self.grey > 0:
            views = torch.where(_chance(views, self.grey, generator), luminance(views).expand_as(views), views)
        if self.blur > 0:
            sigma = _uniform(views, 0.1, 2.0, generator)
            views = torch.where(_chance(views, self.blur, generator), gaussian_blur(views, sigma), views)
        return views


def _uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """A number an image, float32 [n, 1, 1, 1], uniform in [low, high)."""
    return low + (high - low) * torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device)


def _chance(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Bool [n, 1, 1, 1], each true with the probability."""
    return _uniform(images, 0.0, 1.0, generator) < probability


def _parts(images: Tensor, how: Views, generator: torch.Generator) -> Tensor:
    """A random part of each image [n, 3, H, W], at the size of the whole, mirrored or not."""
    n = len(images)
    area = _uniform(images, how.smallest_part, 1.0, generator).flatten()
    ratio = _uniform(images, -_LOG_RATIO, _LOG_RATIO, generator).flatten().exp()
    # Sides as shares of the image's; torchvision draws again where a side is too long, here it is cut.
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    x, y = (_uniform(images, -1.0, 1.0, generator).flatten() for _ in range(2))
    mirrored = 1.0 - 2.0 * _chance(images, how.flip, generator).flatten().float()
    grid = images.new_zeros((n, 2, 3))
    grid[:, 0, 0], grid[:, 1, 1] = width * mirrored, height
    grid[:, 0, 2], grid[:, 1, 2] = x * (1.0 - width), y * (1.0 - height)
    return resample(images, grid, "bicubic" if how.bicubic else "bilinear", "border")


def resample(images: Tensor, maps: Tensor, mode: str, padding: str) -> Tensor:
    """Each image seen through an affine map.

    Args:
        images: float32 [n, 3, H, W] in [0, 255].
        maps: float32 [n, 2, 3]: from a place in the new image to one in the old, both from -1 to 1.
        mode: ``bilinear``, ``bicubic`` or ``nearest``.
        padding: ``zeros`` or ``border``: what lies outside.

    Returns:
        float32 [n, 3, H, W] in [0, 255].
    """
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    seen = functional.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)
    return seen.clamp(0.0, 255.0)  # cubic pieces overshoot


def luminance(images: Tensor) -> Tensor:
    """Grey values float [n, 1, H, W] of images float [n, 3, H, W]."""
    # Filled on the device: a tensor of a list would be copied to it, which a recorded step cannot do.
    weights = torch.stack([images.new_full((), weight) for weight in _GREY])
    return torch.einsum("nchw,c->nhw", images, weights).unsqueeze(1)


def _other_colours(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Other brightness, contrast, saturation and hue for each image [n, 3, H, W], in [0, 255]."""

    def factor() -> Tensor:
        return _uniform(images, 1.0 - strength, 1.0 + strength, generator)

    images = (images * factor()).clamp(0.0, 255.0)
    mean = luminance(images).mean(dim=(2, 3), keepdim=True)
    images = (mean + factor() * (images - mean)).clamp(0.0, 255.0)
    grey = luminance(images)
    images = (grey + factor() * (images - grey)).clamp(0.0, 255.0)
    return turn_hue(images, _uniform(images, -strength / 4, strength / 4, generator))


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images with their hue turned in HSV space; grey stays grey.

    Args:
        images: float32 [n, 3, H, W].
        turns: float32 [n, 1, 1, 1], shares of a whole turn.
    """
    red, green, blue = images.unbind(dim=1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    divisor = chroma.clamp(min=1e-6)
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    sixth = sixth + 6.0 * turns.flatten(start_dim=1).unsqueeze(2)

    def channel(start: float) -> Tensor:
        place = (start + sixth) % 6.0
        return value - chroma * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0)

    return torch.stack([channel(5.0), channel(3.0), channel(1.0)], dim=1)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Each image float [n, 3, H, W] under a Gaussian of its own width, with weights that sum to 1 at borders as well.

    Args:
        sigma: float32 [n, 1, 1, 1], in px, > 0.
    """
    across, down = (_weights(sigma, side) for side in (images.shape[3], images.shape[2]))
    return down.unsqueeze(1) @ images @ across.unsqueeze(1).transpose(2, 3)


def _weights(sigma: Tensor, side: int) -> Tensor:
    """What each new pixel of a line takes of each old one, float32 [n, side, side]; rows sum to 1."""
    places = torch.arange(side, device=sigma.device, dtype=torch.float32)
    distance = (places.unsqueeze(1) - places).square()
    return torch.softmax(-distance / (2.0 * sigma.view(-1, 1, 1).square()), dim=2)
