"""ResNet (He et al., CVPR 2016) and pre-activation ResNet (He et al., ECCV 2016), 18 layers by default.

The layer order and the 1x1 projection shortcuts follow the papers. Two stems: a 3x3 convolution for small images
(both papers' CIFAR models), and the 7x7 stride-2 convolution with max-pooling for images of 96 px and more.
Convolutions carry plain names (``layer2.0.conv1``), which `defenses.models.taps` refers to.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGE_IMAGE = 96  # px: from this side on, the ImageNet stem keeps the maps at the sizes of the paper


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution, padded to keep the size, without bias (a BatchNorm follows)."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class Projection(nn.Conv2d):
    """The 1x1 convolution of a shortcut, without bias.

    It takes every stride-th pixel first and then convolves with stride 1: the same result. Asked for the stride itself,
    torch 2.15 writes past its buffers in the float32 backward pass on CPUs with AVX512 when channels come last in
    memory and are few (4 or 8): a network of width 8 that trains on 32 px ends the process.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        rows, columns = self.stride
        return functional.conv2d(x[:, :, ::rows, ::columns], self.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, BatchNorm after each, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Projection(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each 3x3 convolution; the shortcut projects the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut: nn.Module = nn.Identity()
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.shortcut = Projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [n, inputs, h, w] to [n, outputs, h / stride, w / stride], not yet activated."""
        activated = torch.relu(self.bn1(x))
        out = self.conv1(activated)
        out = self.conv2(torch.relu(self.bn2(out)))
        # The shortcut comes last, as in a BasicBlock: `defenses.models.taps` lists convolutions in this order.
        total: Tensor = out + (self.shortcut(activated) if self.projects else x)
        return total


class ResNet(nn.Module):
    """A residual network of four stages (or fewer), global average pooling and one linear layer.

    Args:
        block: `BasicBlock` or `PreActBlock`.
        blocks: how many blocks each stage has; 18 layers are ``(2, 2, 2, 2)``.
        width: channels of the first stage; each later stage doubles them.
        num_outputs: outputs of the linear layer.
        image_size: side of the (square) images in px; chooses the stem.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[PreActBlock],
        blocks: Sequence[int],
        width: int,
        num_outputs: int,
        image_size: int,
    ) -> None:
        super().__init__()
        self.pre_activation = block is PreActBlock
        if image_size >= LARGE_IMAGE:
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = conv3x3(3, width)
            self.pool = nn.Identity()
        # A pre-activation network normalises inside its blocks, so its stem has no BatchNorm of its own.
        self.bn1: nn.Module = nn.Identity() if self.pre_activation else nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            layer = nn.Sequential()
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layer.append(block(channels, outputs, stride))
                channels = outputs
            self.add_module(f"layer{stage + 1}", layer)
        self.stages = len(blocks)
        self.bn_last: nn.Module = nn.BatchNorm2d(channels) if self.pre_activation else nn.Identity()
        self.linear = nn.Linear(channels, num_outputs)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, num_outputs] of normalised float images [n, 3, H, W]."""
        x = self.conv1(x)
        if not self.pre_activation:
            x = torch.relu(self.bn1(x))
        x = self.pool(x)
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        if self.pre_activation:
            x = torch.relu(self.bn_last(x))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
