"""Masks of images: how much of each can be hidden while a network answers as before (cognitive distillation)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ADAM_BETAS = (0.1, 0.1)
"""Of the published code: hardly any memory, since what is hidden shows other colours in each step."""


@dataclass(frozen=True)
class MaskRecipe:
    """How masks are searched.

    Attributes:
        alpha: weight of a mask's sum.
        beta: weight of its total variation.
        lr, steps: of Adam.
    """

    alpha: float
    beta: float
    lr: float
    steps: int


def total_variation(masks: Tensor) -> Tensor:
    """Squared differences of neighbouring pixels, summed and divided by the pixels: float32 [n] of [n, 1, H, W]."""
    rows = (masks[:, :, 1:] - masks[:, :, :-1]).square().sum(dim=(1, 2, 3))
    columns = (masks[:, :, :, 1:] - masks[:, :, :, :-1]).square().sum(dim=(1, 2, 3))
    return (rows + columns) / (masks.shape[2] * masks.shape[3])


def find_masks(
    answers: Callable[[Tensor], Tensor],
    wanted: Tensor,
    pixels: Tensor,
    recipe: MaskRecipe,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The mask of each image: Adam descends the change of its answers, the mask's sum and its total variation.

    What a mask hides shows one random colour an image, drawn anew in each step. The images do not influence each other.

    Args:
        answers: images float [n, 3, H, W] in [0, 255] -> float [n, ...]; no gradients of weights are asked for.
        wanted: its answers for the images as they are.
        pixels: float [n, 3, H, W] in [0, 255].
        generator: of the colours, on the images' device.

    Returns:
        float32 [n, 1, H, W] in (0, 1), and the masks' mean sum before each step, float32 [steps].
    """
    n, channels, height, width = pixels.shape
    device = pixels.device
    free = torch.ones((n, 1, height, width), device=device, requires_grad=True)  # a mask is (1 + tanh of it) / 2
    adam = torch.optim.Adam([free], recipe.lr, betas=ADAM_BETAS)
    sums = torch.zeros(recipe.steps, device=device)
    for step in range(recipe.steps):
        colours = torch.rand((n, channels, 1, 1), generator=generator, device=device) * 255
        masks = (free.tanh() + 1) / 2
        change = (answers(torch.lerp(colours, pixels, masks)) - wanted).abs().flatten(start_dim=1).mean(dim=1)
        kept = masks.sum(dim=(1, 2, 3))
        loss = (change + recipe.alpha * kept + recipe.beta * total_variation(masks)).sum()
        (free.grad,) = torch.autograd.grad(loss, free)
        adam.step()
        sums[step] = kept.detach().mean()
    return (free.detach().tanh() + 1) / 2, sums
