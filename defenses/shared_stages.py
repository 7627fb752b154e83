"""Stages that several defenses share. Their keys do not name a defense, so the work is shared as well."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from defenses.api import Outputs, Params, Stage, StageContext, Weights
from defenses.models import build_model, load_model
from defenses.models.taps import record_features
from defenses.training.images import to_device
from defenses.training.inference import chunks
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.precision import autocast


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
    return _train_on(np.arange(len(context.dataset)), context, params)


def _train_on(chosen: NDArray[np.int64], context: StageContext, params: Params) -> Outputs:
    """Plain training from scratch on some of the samples; `chosen` int64 [n] are their positions."""
    model = build_model(context.model, context.seed).to(context.device)
    if len(chosen) < 2:
        return {"weights": cpu_weights(model), "series": {"loss": []}}
    labels = to_device(context.dataset.labels, context.device)
    positions = to_device(chosen, context.device)
    batches = BatchSource.of(context, params.augment)

    def loss(index: torch.Tensor) -> torch.Tensor:
        samples = positions[index]
        return functional.cross_entropy(batches.logits(model, samples), labels[samples])

    losses = fit(context, model, len(chosen), Recipe.of(params), loss, kept={"augment": batches.generator})
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


STANDARD_TRAINING = Stage(
    name="standard_training",
    run=_standard_training,
    reads=("epochs", "lr", "batch_size", "schedule", "momentum", "weight_decay", "augment"),
    outputs=("weights", "series"),
)
"""Plain training on the data as received: the undefended model."""


@torch.inference_mode()
def _penultimate_features(context: StageContext, inputs: Outputs, _params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device).eval()
    rows = []
    with record_features(model) as features:
        for batch in chunks(to_device(context.dataset.images, context.device)):
            with autocast(context.device, context.precision):
                model(batch)
            rows.append(features.pop().cpu())
    return {"features": torch.cat(rows).numpy()}


PENULTIMATE_FEATURES = Stage(
    name="penultimate_features",
    run=_penultimate_features,
    reads=(),
    inputs={"weights": "standard_training.weights"},
    outputs=("features",),
)
"""What the undefended model's last layer is given for each sample: float32 [N, D], without augmentation, in order."""


def _retraining(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    def progress(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        context.progress(context.stage, step, steps, values)

    # Seeded as standard training: with nothing flagged it is that, and gives the very weights of the undefended model.
    seeded = replace(context, stage=STANDARD_TRAINING.name, progress=progress)
    return _train_on(np.flatnonzero(~inputs["flagged"]), seeded, params)


def retraining(flagged: str) -> Stage:
    """The stage ``retraining``: a new model on what a detector kept, by the recipe of the undefended model.

    It makes a defense of a detector that yields no model. Its key names no defense, so all that flag the same samples
    share one training. With nothing flagged its weights are those of `STANDARD_TRAINING`; where fewer than two samples
    are kept there is nothing to train on, and the network stays as it was initialised.

    Args:
        flagged: ``"stage.output"`` of the flags, bool [N].
    """
    return Stage(
        name="retraining",
        run=_retraining,
        reads=STANDARD_TRAINING.reads,
        inputs={"flagged": flagged},
        outputs=("weights", "series"),
    )
