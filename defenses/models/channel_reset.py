"""Setting channels of a trained network back to nothing, so that what they fired for is forgotten (NONE, section 4).

A channel is reset with its own filter, its BatchNorm and the slice of the next convolution that reads it; the last
block's channels with the column of the linear layer. A projection shortcut loses its own filter and BatchNorm alone:
what it is added to stays.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from defenses.models import Normalised
from defenses.models.resnet import BasicBlock, PreActBlock


@torch.no_grad()
def reset_channels(model: Normalised, taps: Sequence[str], chosen: Sequence[Sequence[int]]) -> None:
    """Resets channels in place; each tap's own list, and no other.

    Args:
        model: the network.
        taps: names of convolutions or projection shortcuts, see `defenses.models.taps.tap_names`.
        chosen: for each tap, positions of its channels.
    """
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | PreActBlock)]
    for tap, channels in zip(taps, chosen, strict=True):
        name, _, part = tap.rpartition(".")
        block = model.get_submodule(name)
        assert isinstance(block, BasicBlock | PreActBlock)
        following = next((later.conv1 for this, later in itertools.pairwise(blocks) if this is block), None)
        reader = model.network.linear if following is None else following
        index = torch.tensor(list(channels), dtype=torch.int64, device=reader.weight.device)
        for tensor in _own(block, part):
            tensor[index] = 0
        if part != "shortcut":
            (block.conv2 if part == "conv1" else reader).weight[:, index] = 0


def _own(block: BasicBlock | PreActBlock, part: str) -> Iterator[Tensor]:
    """The filters of a convolution, and the weight and bias of the BatchNorm that normalises it alone, if one does."""
    modules: list[nn.Module] = [block.get_submodule(part)]
    if isinstance(block, BasicBlock) and part != "shortcut":
        modules.append(block.bn1 if part == "conv1" else block.bn2)
    elif part == "conv1":
        modules.append(block.bn2)  # of a PreActBlock; what follows its other branches normalises the sum
    for module in modules:
        yield from module.parameters()
