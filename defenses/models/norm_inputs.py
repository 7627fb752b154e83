"""How unlikely each BatchNorm layer finds what it is given for an image, by its running statistics (FLARE)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NORM_STATISTICS = ("log_density", "z")


def least_likely(maps: Tensor, mean: Tensor, variance: Tensor, statistic: str) -> Tensor:
    """One number an image: its least likely value over all channels and pixels.

    Args:
        maps: float [n, C, h, w].
        mean, variance: float [C], of the normal distribution of a channel; the variance with epsilon.
        statistic: ``log_density`` is the lowest log-density, ``z`` the largest distance in standard deviations.

    Returns:
        float32 [n].
    """
    flat = maps.flatten(start_dim=2).float()
    # What lies farthest from a channel's mean is its lowest or its highest value.
    farthest = torch.maximum((flat.amax(dim=2) - mean).square(), (flat.amin(dim=2) - mean).square()) / variance
    if statistic == "z":
        return farthest.amax(dim=1).sqrt()
    return -0.5 * ((farthest + variance.log()).amax(dim=1) + math.log(2 * math.pi))


@contextmanager
def record_norm_inputs(model: nn.Module, statistic: str) -> Iterator[list[Tensor]]:
    """Within the block, each forward pass adds one float32 [n] a BatchNorm layer to the list it gives.

    The layers come in the order of the forward pass, which in our networks is that of `named_modules`.
    """
    rows: list[Tensor] = []

    def record(layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        rows.append(least_likely(inputs[0].detach(), layer.running_mean, layer.running_var + layer.eps, statistic))

    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
