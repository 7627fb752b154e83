"""What attacks with networks share: seeded construction, and inference that no chunk size can change."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from defenses.seeds import SeedPart, derive_seed

BATCH_PIXELS = 64 * 32 * 32
"""Pixels a batch. Large images come in smaller batches; every batch of one image size has one shape."""

M = TypeVar("M", bound=nn.Module)


def seeded(build: Callable[[], M], *seed: SeedPart) -> M:
    """A network whose initial weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*seed))
        return build()


def frozen(network: M, device: torch.device) -> M:
    """The network on a device in eval mode, with no gradients for its weights."""
    return network.to(device).eval().requires_grad_(False)


def in_fixed_batches(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function of batches, applied to any number of images in batches of one shape.

    A convolution may add up in another order when the batch has another shape. So the last batch is filled up with
    copies of its first image: an image's result then depends on the image, whatever chunk it came in.

    Args:
        function: from tensors [b, ...] to one tensor [b, ...], of any dtype; must treat images independently.
        inputs: tensors [n, ...]; the first is images, uint8 or float [n, C, H, W], whose size sets b.
    """
    size = max(1, BATCH_PIXELS // (inputs[0].shape[2] * inputs[0].shape[3]))
    if len(inputs[0]) == 0:
        return function(*inputs)
    parts = []
    for batch in zip(*(torch.split(tensor, size) for tensor in inputs), strict=True):
        count = len(batch[0])
        filled = [torch.cat([t, t[:1].expand(size - count, *t.shape[1:])]) if count < size else t for t in batch]
        parts.append(function(*filled)[:count])
    return torch.cat(parts)


def shuffled(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index tensors int64 [b] of one epoch in random order; a rest smaller than half a batch is left for the next.

    Batches of nearly one size: BatchNorm in a generator must not meet a batch of one or two images.
    """
    order = torch.randperm(n, generator=generator, device=generator.device)
    for start in range(0, n, batch_size):
        part = order[start : start + batch_size]
        if start == 0 or len(part) * 2 >= batch_size:
            yield part
