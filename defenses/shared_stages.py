"""Stages that several defenses share. Their keys do not name a defense, so the work is shared as well."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import Outputs, Params, Stage, StageContext, Weights
from defenses.models import build_model
from defenses.training.images import to_device
from defenses.training.inference import sample_losses
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.losses import local_gradient_ascent


def cpu_weights(model: nn.Module) -> Weights:
    """A model's state, copied to main memory."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def lowest_mask(losses: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """The samples with the lowest losses; of equal losses the earlier sample counts as lower.

    Args:
        losses: float64 [N].
        count: how many of them.

    Returns:
        bool [N].
    """
    mask = np.zeros(len(losses), dtype=bool)
    mask[np.argsort(losses, kind="stable")[:count]] = True
    return mask


def count_from_share(rate: float, n: int) -> int:
    """How many samples a rate of n is: rounded, at least one."""
    return max(1, round(rate * n))


def _standard_training(context: StageContext, _inputs: Outputs, params: Params) -> Outputs:
    model = build_model(context.model, context.seed).to(context.device)
    labels = to_device(context.dataset.labels, context.device)
    batches = BatchSource.of(context, params.augment)
    losses = fit(
        context,
        model,
        len(labels),
        Recipe.of(params),
        lambda index: functional.cross_entropy(batches.logits(model, index), labels[index]),
        kept={"augment": batches.generator},
    )
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


STANDARD_TRAINING = Stage(
    name="standard_training",
    run=_standard_training,
    reads=("epochs", "lr", "batch_size", "schedule", "momentum", "weight_decay", "augment"),
    outputs=("weights", "series"),
)
"""Plain training on the data as received: the undefended model."""


def _pre_isolation(context: StageContext, _inputs: Outputs, params: Params) -> Outputs:
    model = build_model(context.model, context.seed).to(context.device)
    labels = to_device(context.dataset.labels, context.device)
    batches = BatchSource.of(context, params.pre_isolation_augment)

    def loss(index: Tensor) -> Tensor:
        return local_gradient_ascent(batches.logits(model, index), labels[index], params.gamma, params.granularity)

    recipe = Recipe.of(params, "pre_isolation_")
    losses = fit(context, model, len(labels), recipe, loss, kept={"augment": batches.generator})
    return {
        "weights": cpu_weights(model),
        "sample_losses": sample_losses(model, batches.images, labels, context.precision),
        "series": {"loss": losses},
    }


PRE_ISOLATION = Stage(
    name="pre_isolation",
    run=_pre_isolation,
    reads=(
        "pre_isolation_epochs",
        "pre_isolation_lr",
        "pre_isolation_schedule",
        "pre_isolation_augment",
        "gamma",
        "granularity",
        "batch_size",
        "momentum",
        "weight_decay",
    ),
    outputs=("weights", "sample_losses", "series"),
)
"""Local gradient ascent from a new network: poison falls to a low loss, and clean samples are held at gamma (ABL)."""
