"""ABL's two steps of cleaning a model (Li et al., NeurIPS 2021): training on what is kept, ascent on what is isolated.

BatchNorm's statistics are not updated by isolated samples, as in backdoor-toolbox, and batches are shuffled, as they
are not in ABL's code.
"""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import StageContext
from defenses.storage.state_codec import TrainingState
from defenses.training.images import to_device
from defenses.training.loop import BatchSource, Recipe, fit, frozen_batch_statistics


def finetune(
    context: StageContext,
    model: nn.Module,
    flags: NDArray[np.bool_],
    recipe: Recipe,
    augment: bool,
    frozen_statistics: bool = False,
) -> list[float]:
    """Plain training on the samples kept, in place.

    Args:
        flags: bool [N]; what is flagged is left out.
        frozen_statistics: BatchNorm normalises with the statistics that it has, and keeps them (NONE).

    Returns:
        The mean loss of each epoch; none where the recipe has no epoch, or where fewer than two samples are kept.
    """
    kept = to_device(~flags, context.device).nonzero().squeeze(1)
    if recipe.epochs == 0 or len(kept) < 2:
        return []
    labels = to_device(context.dataset.labels, context.device)
    batches = BatchSource.of(context, augment)

    def loss(index: Tensor) -> Tensor:
        with frozen_batch_statistics(model) if frozen_statistics else nullcontext():
            logits = batches.logits(model, index, kept)
        return functional.cross_entropy(logits, labels[kept[index]])

    return fit(context, model, len(kept), recipe, loss, kept={"augment": batches.generator})


def unlearn(
    context: StageContext,
    model: nn.Module,
    flags: NDArray[np.bool_],
    recipe: Recipe,
    on_epoch: Callable[[int], None] | None = None,
    also: TrainingState | None = None,
) -> list[float]:
    """Ascent on the isolated samples alone, as they are, in place.

    Args:
        flags: bool [N], the isolated samples.
        on_epoch, also: what `fit` calls after each epoch, and what that changes.

    Returns:
        The mean loss of each epoch, which is the cross-entropy with its sign turned; none where nothing is isolated.
    """
    isolated = to_device(flags, context.device).nonzero().squeeze(1)
    if len(isolated) == 0:
        return []
    labels = to_device(context.dataset.labels, context.device)
    batches = BatchSource.of(context, augment=False)

    def loss(index: Tensor) -> Tensor:
        with frozen_batch_statistics(model):
            logits = batches.logits(model, index, isolated)
        return -functional.cross_entropy(logits, labels[isolated[index]])

    return fit(context, model, len(isolated), recipe, loss, on_epoch, also)
