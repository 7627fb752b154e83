"""The two encoder-decoders of the input-aware attack: one says where the trigger lies, the other what it shows.

Nguyen and Tran, NeurIPS 2020. At the published widths the pattern generator has 723,273 parameters and the mask
generator 722,691.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses.training.images import to_device
from study.attacks.api import Pixels
from study.attacks.support.networks import in_fixed_batches

_NO_DISTANCE = 1e-14  # its root is the 1e-7 that the paper adds to a distance; inside the root, the gradient is finite


class EncoderDecoder(nn.Sequential):
    """Halves the maps once a level, doubles them again, and has no skip connections.

    Args:
        outputs: channels of the result.
        widths: channels of each level; the sides of the images must be divisible by 2 to their number.
        momentum: of BatchNorm.
    """

    def __init__(self, outputs: int, widths: Sequence[int], momentum: float) -> None:
        super().__init__(*_layers(outputs, widths, momentum))


def _layers(outputs: int, widths: Sequence[int], momentum: float) -> Iterator[nn.Module]:
    inputs = 3
    for width in widths:
        yield from _block(inputs, width, momentum)
        yield from _block(width, width, momentum)
        yield nn.MaxPool2d(2)
        inputs = width
    yield from _block(inputs, inputs, momentum)
    below = (outputs, *widths[:-1])
    for level in reversed(range(len(widths))):
        yield nn.Upsample(scale_factor=2, mode="bilinear")
        yield from _block(widths[level], widths[level], momentum)
        yield from _block(widths[level], below[level], momentum, rectified=level > 0)


def _block(inputs: int, outputs: int, momentum: float, rectified: bool = True) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, 3, padding=1)
    yield nn.BatchNorm2d(outputs, momentum=momentum)
    if rectified:
        yield nn.ReLU(inplace=True)


class TriggerNetworks:
    """What turns images into triggers: both generators, behind the normalisation that they are fed through.

    Images are float32 [n, 3, H, W] in [0, 1].

    Args:
        mask: generator with one output channel.
        pattern: generator with three.
        mean, std: of the images, one value a channel, in [0, 1] units.
        sharpness: of the step that makes the mask nearly binary.
    """

    def __init__(
        self, mask: nn.Module, pattern: nn.Module, mean: Sequence[float], std: Sequence[float], sharpness: float
    ) -> None:
        self.mask, self.pattern, self.sharpness = mask, pattern, sharpness
        device = next(mask.parameters()).device
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=device).view(1, 3, 1, 1)

    def normalised(self, images: Tensor) -> Tensor:
        """Images, or patterns, in the units that the networks see and that distances are taken in.

        Args:
            images: float32 [n, 3, H, W] in [0, 1].
        """
        return (images - self._mean) / self._std

    def masks(self, images: Tensor) -> Tensor:
        """Opacity of each pixel, float32 [n, 1, H, W], above 0 and at most 1.

        The paper's tanh(20 M - 10) / 2 + 0.5 with M = tanh(.) / 2 + 0.5, each written as the logistic function that
        it equals: near 0, where most pixels lie, float32 has room for it and its gradient does not vanish.
        """
        share = torch.sigmoid(2 * self.mask(self.normalised(images)))
        return torch.sigmoid(self.sharpness * (2 * share - 1))

    def patterns(self, images: Tensor) -> Tensor:
        """What is shown where the mask is, float32 [n, 3, H, W] in [0, 1]."""
        return torch.sigmoid(2 * self.pattern(self.normalised(images)))


@torch.inference_mode()
def triggers(networks: TriggerNetworks, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Masks [n, H, W, 1] in (0, 1] and patterns [n, H, W, 3] in 0-255 units, of uint8 images [n, H, W, 3]."""

    def both(batch: Tensor) -> Tensor:
        # One layout for all: a filled batch comes in another, in which a convolution may add up in another order.
        scaled = batch.contiguous(memory_format=torch.channels_last).float() / 255
        return torch.cat([networks.masks(scaled), 255 * networks.patterns(scaled)], dim=1)

    device = next(networks.mask.parameters()).device
    both_images = in_fixed_batches(both, to_device(images, device).permute(0, 3, 1, 2))
    values: NDArray[np.float32] = both_images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return values[..., :1], values[..., 1:]


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of each pair, float32 [n], of tensors float32 [n, C, H, W]; never quite 0."""
    return ((a - b).square().mean(dim=(1, 2, 3)) + _NO_DISTANCE).sqrt()


def alikeness(images: Tensor, others: Tensor, made: Tensor, made_of_others: Tensor) -> Tensor:
    """The paper's diversity loss, a scalar: large where different images were given triggers that are alike.

    Args:
        images, others: pairs of normalised images, float32 [n, 3, H, W].
        made, made_of_others: their masks or normalised patterns, float32 [n, C, H, W].
    """
    return (distances(images, others) / distances(made, made_of_others)).mean()
