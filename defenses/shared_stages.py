"""Stages that several defenses share. Their keys do not name a defense, so the work is shared as well."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import Outputs, Params, Stage, StageContext, Trajectory, Weights
from defenses.cost import FORWARD
from defenses.models import Normalised, build_model, load_model
from defenses.models.taps import record_features, record_taps, tap_names
from defenses.training.images import device_images, to_device
from defenses.training.inference import chunks, label_losses, predict_logits, sample_losses
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.losses import local_gradient_ascent
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
        return functional.cross_entropy(batches.logits(model, index, positions), labels[positions[index]])

    losses = fit(context, model, len(chosen), Recipe.of(params), loss, kept={"augment": batches.generator})
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


_SGD = ("lr", "batch_size", "schedule", "momentum", "weight_decay", "augment")

STANDARD_TRAINING = Stage(
    name="standard_training",
    run=_standard_training,
    reads=("epochs", "read_epoch", *_SGD),
    outputs=("weights", "series"),
    cost=lambda params, _: params.read_epoch or params.epochs,
    trajectory=Trajectory("epochs", "read_epoch", "schedule"),
)
"""Plain training on the data as received: the undefended model."""


@torch.inference_mode()
def _penultimate_features(context: StageContext, inputs: Outputs, _params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device).eval()
    rows = []
    with record_features(model) as features:
        for batch in chunks(device_images(context.dataset.images, context.device)):
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
    cost=lambda *_: FORWARD,
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
        reads=("epochs", *_SGD),
        inputs={"flagged": flagged},
        outputs=("weights", "series"),
        cost=lambda params, _: params.epochs * (1 - params.share_flagged),
    )


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
        "read_epoch",
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
    cost=lambda params, _: (params.read_epoch or params.pre_isolation_epochs) + FORWARD,
    trajectory=Trajectory("pre_isolation_epochs", "read_epoch", "pre_isolation_schedule"),
)
"""Local gradient ascent from a new network: poison falls to a low loss, and clean samples are held at gamma (ABL)."""


@torch.inference_mode()
def read_channels(
    context: StageContext, model: Normalised, taps: str, statistic: str
) -> tuple[NDArray[np.float32], list[int]]:
    """What each channel of a model's taps gives for each image, in eval mode.

    Args:
        model: on the context's device.
        taps, statistic: see `defenses.models.taps`.

    Returns:
        float32 [N, channels], tap after tap, and the number of channels of each tap.
    """
    model.eval()
    images = device_images(context.dataset.images, context.device)
    names = tap_names(model, taps)
    activations: NDArray[np.float32] | None = None
    tap_sizes: list[int] = []
    start = 0
    with record_taps(model, names, statistic) as seen:
        for batch in chunks(images):
            with autocast(context.device, context.precision):
                model(batch)
            rows = torch.cat([seen[name] for name in names], dim=1)
            if activations is None:
                tap_sizes = [seen[name].shape[1] for name in names]
                activations = np.empty((len(images), rows.shape[1]), dtype=np.float32)
            activations[start : start + len(rows)] = rows.cpu().numpy()
            start += len(rows)
    assert activations is not None
    return activations, tap_sizes


def _channel_activations(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    activations, tap_sizes = read_channels(context, model, params.taps, params.channel_statistic)
    return {"activations": activations, "tap_sizes": tap_sizes}


CHANNEL_ACTIVATIONS = Stage(
    name="channel_activations",
    run=_channel_activations,
    reads=("taps", "channel_statistic"),
    inputs={"weights": "pre_isolation.weights"},
    outputs=("activations", "tap_sizes"),
    version=2,
    cost=lambda *_: FORWARD,
)
"""One number a channel and image, of the pre-isolation model; of another one with other `inputs`."""


def _predictions(context: StageContext, inputs: Outputs, _params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    images = device_images(context.dataset.images, context.device)
    labels = to_device(context.dataset.labels, context.device)
    logits = predict_logits(model, images, context.precision)
    return {"logits": logits.cpu().numpy(), "sample_losses": label_losses(logits, labels)}


PREDICTIONS = Stage(
    name="predictions",
    run=_predictions,
    reads=(),
    inputs={"weights": "standard_training.weights"},
    outputs=("logits", "sample_losses"),
    cost=lambda *_: FORWARD,
)
"""The undefended model's logits float32 [N, K] and losses float64 [N] on the training set, without augmentation."""
