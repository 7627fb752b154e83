"""The networks a defense trains: a specification, a builder, and the named channel taps of each network."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses.models.resnet import BasicBlock, PreActBlock, ResNet
from defenses.registry import UserError, nearest
from defenses.seeds import SeedPart, derive_seed

BLOCKS: dict[str, type[BasicBlock] | type[PreActBlock]] = {
    "resnet18": BasicBlock,
    "preact_resnet18": PreActBlock,
}
SMALLEST_IMAGE = 8
"""Side in px: what the networks' strides leave something of."""


@dataclass(frozen=True)
class ModelSpec:
    """Which network to build. All of it is part of every stage's key that trains or runs a network.

    Attributes:
        name: a key of `BLOCKS`.
        width: channels of the first stage, >= 1; 64 in both papers.
        blocks: blocks of each stage; (2, 2, 2, 2) makes 18 layers.
        num_classes: outputs, >= 2.
        image_size: side of the images in px, >= 8.
        mean, std: what the input layer normalises with, one value a channel, in [0, 255] units.
    """

    name: str = "resnet18"
    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    num_classes: int = 10
    image_size: int = 32
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (63.75, 63.75, 63.75)

    def __post_init__(self) -> None:
        if self.name not in BLOCKS:
            hint = nearest(self.name, BLOCKS)
            raise UserError(f"unknown model {self.name!r}: {hint}(known: {', '.join(BLOCKS)})")
        if self.width < 1:
            raise UserError(f"a model needs a width of at least 1, got {self.width}: give it one", about="width")
        if not self.blocks or min(self.blocks) < 1:
            raise UserError(
                f"each stage of a model needs a block, got {self.blocks}: give it, say, 2,2,2,2", about="blocks"
            )

    def with_outputs(self, num_classes: int) -> "ModelSpec":
        """The same network with another number of outputs."""
        return replace(self, num_classes=num_classes)


def spec_for_images(
    name: str, width: int, blocks: tuple[int, ...], num_classes: int, images: NDArray[np.uint8]
) -> ModelSpec:
    """The network for images as they were received: it normalises with their mean and spread.

    Args:
        images: uint8 [N, H, W, 3]; about 5000 of them, evenly spaced, are measured.

    Raises:
        UserError: an unknown name, or a width or blocks that make no network.
    """
    counts, values = _level_counts(images[:: max(1, len(images) // 5000)]), np.arange(256.0)
    pixels = counts[0].sum()
    means = counts @ values / pixels
    spreads = np.sqrt((counts * (values - means[:, None]) ** 2).sum(axis=1) / pixels)
    mean = [round(float(v), 3) for v in means]
    std = [round(max(float(v), 1.0), 3) for v in spreads]
    return ModelSpec(
        name,
        width,
        blocks,
        num_classes,
        int(images.shape[1]),
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
    )


def _level_counts(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each channel has each level, int64 [3, 256]; a few images at a time, which are counted as wide ints."""
    counts = np.zeros((3, 256), dtype=np.int64)
    step = max(1, (1 << 20) // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        levels = images[start : start + step].reshape(-1, 3)
        for channel in range(3):
            counts[channel] += np.bincount(levels[:, channel], minlength=256)
    return counts


class Normalised(nn.Module):
    """A network that takes uint8 images: it normalises them on the device, channel by channel, in float32."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, network: ResNet, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("inverse_std", 1.0 / torch.tensor(spec.std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, num_classes] of images [n, 3, H, W], uint8 or float in [0, 255]."""
        logits: Tensor = self.network((images.float() - self.mean) * self.inverse_std)
        return logits


def build_model(spec: ModelSpec, *seed: SeedPart) -> Normalised:
    """A freshly initialised network, the same for the same spec and seed, without touching torch's global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("initialise", *seed))
        network = ResNet(BLOCKS[spec.name], spec.blocks, spec.width, spec.num_classes, spec.image_size)
    return Normalised(network, spec).to(memory_format=torch.channels_last)


def load_model(spec: ModelSpec, weights: dict[str, Tensor]) -> Normalised:
    """The network of a spec with stored weights."""
    model = build_model(spec, 0)
    model.load_state_dict(weights)
    return model
