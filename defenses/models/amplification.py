"""A network whose last normalisations are scaled up: hooks on their outputs, and no copy of it (IBD-PSC)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from defenses.models import Normalised


def batch_norms(model: Normalised) -> list[nn.BatchNorm2d]:
    """Its BatchNorm layers, in the order in which the network lists them: a shortcut's after its block's second.

    ResNet-18 has 20, PreActResNet-18 17.
    """
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@contextmanager
def amplified(model: Normalised, last: int, factor: float) -> Iterator[None]:
    """Within the block, weight and bias of the last BatchNorm layers count so many times.

    Args:
        model: in eval mode; in training the next layer's statistics would undo the factor.
        last: how many layers, from 1 to all of them.
        factor: what they are multiplied by.
    """

    def scale(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * factor

    handles = [module.register_forward_hook(scale) for module in batch_norms(model)[-last:]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
