"""Counts the passes that a stage really makes over its data, by what goes through a network's first convolution."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from defenses.api import Defense, Stage

FORWARD, TO_IMAGES, WHOLE = 1 / 3, 2 / 3, 1.0
"""Without gradients; back to the images but to no weight; forward and backward."""


@contextmanager
def counting(passes: "Counter[str]", stage: str) -> Iterator[None]:
    """Adds the images that networks are shown within the block to those of a stage, in samples."""

    def hook(module: nn.Module, given: Any, _: Any) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            to_images = given[0].requires_grad and not module.weight.requires_grad
            share = FORWARD if not torch.is_grad_enabled() else TO_IMAGES if to_images else WHOLE
            passes[stage] += len(given[0]) * share  # type: ignore[assignment]

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def counted(defense: Defense, passes: "Counter[str]") -> Defense:
    """The same defense, whose stages count what they do."""

    def watched(stage: Stage) -> Stage:
        def run(*arguments: Any) -> Any:
            with counting(passes, stage.name):
                return stage.run(*arguments)

        return dataclasses.replace(stage, run=run)

    kind = type(defense)
    return type(kind.__name__, (kind,), {"stages": tuple(map(watched, kind.stages))})(defense.config)
