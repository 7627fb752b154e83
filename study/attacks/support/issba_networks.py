"""The encoder that hides a message in an image, and the decoder that reads it back.

The layout is that of StegaStamp (Tancik et al., CVPR 2020), on which ISSBA builds. As in BackdoorBench, a dense layer
makes a small picture of the message that is enlarged to the image's size, so the number of weights does not grow with
it; as in backdoor-toolbox, the encoder gives a residual that is added to the image. There is no spatial transformer:
poisoned images are stored as they are, never photographed.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

GRID = 16
"""Side of the message's picture. The encoder halves an image four times: its sides must be multiples of this too."""
DECODER_HALVINGS = 5


class Encoder(nn.Module):
    """A U-Net from an image and a message to the image that carries the message.

    Args:
        bits: length of a message.
        width: channels at full size; 32 in the references.
    """

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        down = (width, width, 2 * width, 4 * width, 8 * width)
        self.message = nn.Linear(bits, 3 * GRID * GRID)
        self.first = _convolution(6, down[0])
        self.down = nn.ModuleList([_convolution(a, b, stride=2) for a, b in itertools.pairwise(down)])
        up = down[::-1]
        self.up = nn.ModuleList([_Enlarge(a, b) for a, b in itertools.pairwise(up)])
        skipped = (*up[1:-1], up[-1] + 6)  # the last one sees the input as well
        self.merge = nn.ModuleList([_convolution(a + b, a) for a, b in zip(up[1:], skipped, strict=True)])
        self.residual = nn.Conv2d(width, 3, 1)
        self.apply(_initialise)

    def forward(self, images: Tensor, messages: Tensor) -> Tensor:
        """float32 [n, 3, H, W] in [0, 1], from such images and messages float32 [n, bits] of zeros and ones."""
        small = functional.relu(self.message(messages - 0.5)).reshape(-1, 3, GRID, GRID)
        picture = functional.interpolate(small, size=images.shape[2:], mode="nearest")
        inputs = torch.cat([picture - 0.5, images - 0.5], dim=1)
        levels = [self.first(inputs)]
        for layer in self.down:
            levels.append(layer(levels[-1]))
        values = levels.pop()
        levels[0] = torch.cat([levels[0], inputs], dim=1)
        for enlarge, merge in zip(self.up, self.merge, strict=True):
            values = merge(torch.cat([levels.pop(), enlarge(values)], dim=1))
        carrying: Tensor = (images + self.residual(values)).clamp(0, 1)
        return carrying


class Decoder(nn.Module):
    """Reads a message.

    Args:
        bits: length of a message.
        width: channels of the first layer; 32 in the references.
        size: side of the images in px.
    """

    def __init__(self, bits: int, width: int, size: int) -> None:
        super().__init__()
        side = -(-size // 2**DECODER_HALVINGS)
        self.layers = nn.Sequential(
            _convolution(3, width, stride=2),
            _convolution(width, width),
            _convolution(width, 2 * width, stride=2),
            _convolution(2 * width, 2 * width),
            _convolution(2 * width, 2 * width, stride=2),
            _convolution(2 * width, 4 * width, stride=2),
            _convolution(4 * width, 4 * width, stride=2),
            nn.Flatten(),
            nn.Linear(4 * width * side * side, 16 * width),
            nn.ReLU(),
            nn.Linear(16 * width, bits),
        )
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 [n, bits], above 0 for a one, from images float32 [n, 3, H, W] in [0, 1]."""
        logits: Tensor = self.layers(images - 0.5)
        return logits


class _Enlarge(nn.Module):
    """Twice the sides, then a 2x2 convolution that keeps them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 2)

    def forward(self, values: Tensor) -> Tensor:
        larger = functional.pad(functional.interpolate(values, scale_factor=2, mode="nearest"), (0, 1, 0, 1))
        return functional.relu(self.convolution(larger))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU())


def _initialise(module: nn.Module) -> None:
    """He initialisation, as in StegaStamp: with torch's own, smaller weights the message is learned much later."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
