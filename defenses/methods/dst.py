"""D-ST: features that move under transforms, then training that trusts few labels (Chen et al., NeurIPS 2022).

The paper is "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples". A model is trained for a few
epochs, first by labels and then so that the classes' centres part. A sample's score is how far its penultimate features
move when the image is transformed (feature consistency under transforms, FCT): a trigger stops working, and the model
sees another class. The samples that move least are trusted, those that move most are flagged. A new network learns
contrastively, where only trusted samples attract others of their label; its last layer learns the trusted labels and,
weakly, not those of flagged samples.

Public code consulted: SCLBD/Effective_backdoor_defense. Where we differ:

- Scores are means over several draws of the transform, made once. The code draws once for the thresholds and once more
  for who lies beyond them, and adds to the files of earlier runs.
- The first model's learning rate is constant; the code's falls by 4 % meanwhile (12 of 100 epochs of a cosine).
- The last layer learns from features of the images as they are, which are computed once. A batch without flagged
  samples has no term of theirs; in the code the loss is then no number.
- The code's first network has a max-pooling that its second has not; ours is the same network twice.

In the code a trusted sample also attracts those of its label that are not trusted, poison included; `mask_columns`
keeps it from that. Median filter and blur are the alternatives of the paper and of QT's authors, who give no kernel.

Known failures: all depends on the transform. A user of the code saw no movement at all (its issue 1), and QT's authors
replaced the transform. Exactly `poison_share` of the samples are flagged, of clean data as well, so at a poison rate of
r the TPR is at most poison_share / r. A class of which no sample is trusted is never predicted: on digits, classes move
unequally, and one to three of them are left out unless `per_class` is on. There the filters rank a patch's poison first
and the default less surely, since a turned digit is another digit; a blend over the whole image moves less than
what is clean under most transforms (`search_spaces/README.md`).

The first model may be read before its last epoch (`read_epoch`), in either phase, and trials share one training. The
second network is not read early: its pools are those of one trial, so that no two trials would share what it keeps.

Stages: `distinguishing`, `feature_movement`, `dst_pools` and `dst_trusted` (not cached: they sort the scores; the
second is no part of who is flagged), `dst_contrastive`, `dst_head`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import Defense, Outputs, Params, Stage, StageContext, Trajectory
from defenses.budget import BudgetConfig, scaled_epochs
from defenses.config import param
from defenses.contrastive_stage import CONTRASTIVE_FIELDS, Contrast, contrastive_cost, train_contrastively
from defenses.cost import FORWARD
from defenses.models import Normalised, build_model, load_model
from defenses.models.taps import record_features
from defenses.registry import UserError
from defenses.shared_stages import count_from_share, cpu_weights, lowest_mask
from defenses.training.contrastive import attraction, projecting, supervised_contrastive
from defenses.training.image_transforms import DRAWN, TRANSFORMS, transformed
from defenses.training.images import device_images, to_device
from defenses.training.inference import chunks
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.precision import autocast
from defenses.training.schedule import SCHEDULES
from defenses.training.views import Views

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class DSTConfig(BudgetConfig):
    """D-ST's hyperparameters; defaults are those of the authors' code."""

    label_epochs: int = param(2, "epochs of the first model by labels (code)", low=1)
    centre_epochs: int = param(10, "then epochs that part the classes' centres (code); 0 for none", low=0)
    read_epoch: int | None = param(
        None, "the epoch after which the first model is read, of all that are run (ours); none for the end", low=1
    )
    first_lr: float = param(0.01, "the first model's peak learning rate (code)", low=1e-6, high=10.0)
    first_schedule: str = param("constant", "its learning rate over the epochs (code, nearly)", choices=SCHEDULES)
    first_batch_size: int = param(128, "images a step of the first model (code)", low=2)
    first_weight_decay: float = param(5e-4, "its weight decay (code)", low=0.0, high=1.0)
    momentum: float = param(0.9, "SGD momentum, of all phases (code)", low=0.0, high=1.0)
    transform: str = param("rotate_affine", "what images go through (code)", choices=TRANSFORMS)
    kernel_size: int = param(3, "px of the median filter and of the blur (not given)", choices=(3, 5, 7))
    draws: int = param(4, "of a random transform, whose movements are averaged (code: 1)", low=1, high=100)
    clean_share: float = param(
        0.2, "share of the samples that moves least, and is trusted (code)", low=1e-6, high=1.0, symbol="α_c"
    )
    poison_share: float = param(
        0.05, "share of the samples that moves most, and is flagged (code)", low=1e-6, high=0.5, symbol="α_p"
    )
    per_class: bool = param(
        False, "the trusted share is that of each label, so that no class is left out (ours); off: of all (code)"
    )
    contrastive_epochs: int = param(200, "epochs of the second network (code)", low=1)
    contrastive_lr: float = param(0.5, "its peak learning rate (code)", low=1e-6, high=10.0)
    contrastive_schedule: str = param("warm_up_cosine", "its rate over the epochs (code)", choices=SCHEDULES)
    contrastive_batch_size: int = param(512, "images a step, each in two views (code)", low=2)
    contrastive_weight_decay: float = param(1e-4, "its weight decay (code)", low=0.0, high=1.0)
    contrastive_temperature: float = param(
        0.1, "what similarities of views are divided by (code)", low=1e-3, high=10.0, symbol="T"
    )
    smallest_part: float = param(0.2, "the least share of an image that a view shows (code)", low=1e-3, high=1.0)
    view_flip: bool = param(True, "half of the views are mirrored (code); a mirrored digit is another one")
    mask_columns: bool = param(False, "trusted samples attract trusted ones alone; off (code)")
    head_epochs: int = param(10, "epochs of the last layer (code)", low=1)
    head_lr: float = param(5.0, "its peak learning rate (code)", low=1e-6, high=100.0)
    head_schedule: str = param("rise", "its rate over the epochs (code: a warm-up over all of them)", choices=SCHEDULES)
    head_batch_size: int = param(512, "samples a step of the last layer (code)", low=2)
    head_weight_decay: float = param(0.0, "its weight decay (code)", low=0.0, high=1.0)
    repulsion: float = param(
        0.001, "weight of the flagged samples' cross-entropy, which the last layer raises (code)", low=0.0, symbol="λ_p"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_read_epoch(
            "read_epoch", "(label_epochs and centre_epochs) x budget_fraction", sum(first_epochs(self))
        )


def first_epochs(fields: Any) -> tuple[int, int]:
    """Epochs of the first model by labels and by centres, as the budget has them; of a config or a stage's fields."""
    return (
        scaled_epochs(fields.label_epochs, fields.budget_fraction),
        scaled_epochs(fields.centre_epochs, fields.budget_fraction),
    )


def centre_similarity(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How alike the classes' centres are in a batch: the mean of their cosines, with 0 for each with itself.

    Classes that the batch does not show count for nothing.

    The code calls it a loss within classes; going down, it parts them from each other.

    Args:
        features: float [n, D].
        labels: int64 [n].
    """
    members = (labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)).to(features.dtype)
    counts = members.sum(dim=0)
    centres = functional.normalize((members.T @ features) / counts.clamp(min=1).unsqueeze(1))
    shown = (counts > 0).sum()
    return (centres @ centres.T).fill_diagonal_(0.0).sum() / (shown * shown)


def _distinguishing(context: StageContext, _inputs: Outputs, params: Params) -> Outputs:
    model = build_model(context.model, context.seed).to(context.device)
    labels = to_device(context.dataset.labels, context.device)
    batches = BatchSource.of(context, augment=False)
    by_label, by_centres = first_epochs(params)
    done: list[int] = []

    def loss(index: Tensor) -> Tensor:
        if len(done) < by_label:
            return functional.cross_entropy(batches.logits(model, index), labels[index])
        with projecting(model, nn.Identity()):
            features = batches.logits(model, index)
        return centre_similarity(features, labels[index], context.dataset.num_classes)

    recipe = Recipe.of(params, "first_", epochs=by_label + by_centres)
    losses = fit(context, model, len(labels), recipe, loss, done.append, {"epochs": done})
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


@torch.inference_mode()
def _feature_movement(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device).eval()
    generator = context.generator("transform")
    transform, kernel, draws = params.transform, params.kernel_size, params.draws
    if transform not in DRAWN:
        draws = 1  # all others would be the same
    parts = []
    for batch in chunks(device_images(context.dataset.images, context.device)):
        images = batch.float()
        before = _features(model, images, context)
        moved = torch.zeros(len(images), dtype=torch.float64, device=context.device)
        for _ in range(draws):
            after = _features(model, transformed(images, transform, kernel, generator), context)
            moved += (after - before).square().mean(dim=1)
        parts.append((moved / draws).cpu().numpy())
    return {"movement": np.concatenate(parts)}


def _features(model: Normalised, images: Tensor, context: StageContext) -> Tensor:
    """Penultimate features float64 [n, D] of images [n, 3, H, W]."""
    with record_features(model) as features, autocast(context.device, context.precision):
        model(images)
    last: Tensor = features.pop()
    return last.double()


def _pools(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    movement = np.asarray(inputs["movement"], dtype=np.float64)
    return {"flagged": lowest_mask(-movement, count_from_share(params.poison_share, len(movement)))}


def _trusted(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    movement, moved_most = np.asarray(inputs["movement"], dtype=np.float64), np.asarray(inputs["flagged"])
    n, flagged, labels = len(movement), int(moved_most.sum()), context.dataset.labels
    trusted = count_from_share(params.clean_share, n)
    if trusted + flagged > n:
        raise UserError(
            f"D-ST's trusted and flagged samples must be at most all {n}, but clean_share = {params.clean_share:g} "
            f"makes {trusted} of the first, and poison_share {flagged} of the others: lower one of them",
            about="field clean_share",
        )
    mask = lowest_mask(np.where(moved_most, np.inf, movement), trusted)  # of ties none is both
    if params.per_class:
        mask = lowest_of_each(movement, labels, params.clean_share) & ~moved_most
    classes = np.unique(labels[mask])
    return {"trusted": mask, "series": {"classes_trusted": [float(len(classes))]}}


def lowest_of_each(values: NDArray[np.float64], labels: NDArray[np.int64], share: float) -> Mask:
    """Of each label the share with the lowest values.

    Args:
        values: float64 [N].
        labels: int64 [N].
        share: in (0, 1]; of each label at least one.

    Returns:
        bool [N].
    """
    mask = np.zeros(len(values), dtype=bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        mask[own] = lowest_mask(values[own], count_from_share(share, len(own)))
    return mask


def _contrastive(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = build_model(context.model, context.seed).to(context.device)
    labels = to_device(context.dataset.labels, context.device)
    trusted = to_device(inputs["trusted"], context.device)
    temperature, mask_columns = params.contrastive_temperature, params.mask_columns

    def loss(first: Tensor, second: Tensor, index: Tensor) -> Tensor:
        attracts = attraction(labels[index], trusted[index], mask_columns)
        return supervised_contrastive(first, second, attracts, temperature)

    epochs = scaled_epochs(params.contrastive_epochs, params.budget_fraction)
    recipe = Recipe.of(params, "contrastive_", epochs=epochs)
    views = Views(params.smallest_part, flip=0.5 * params.view_flip)
    losses = train_contrastively(context, model, Contrast(recipe, views, loss, batch_norm=False))
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


def _head(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    chosen = np.flatnonzero(inputs["trusted"] | inputs["flagged"])
    labels = to_device(context.dataset.labels[chosen], context.device)
    flagged = to_device(np.asarray(inputs["flagged"])[chosen], context.device)
    features = _of_chosen(model.eval(), chosen, context)
    head, repulsion = model.network.linear, params.repulsion

    def loss(index: Tensor) -> Tensor:
        losses = functional.cross_entropy(head(features[index]), labels[index], reduction="none")
        repelled = flagged[index].float()
        # A pool that a batch has nothing of has no term: the mean of none would be no number.
        own, other = ((losses * pool).sum() / pool.sum().clamp(min=1) for pool in (1 - repelled, repelled))
        total: Tensor = own - repulsion * other
        return total

    epochs = scaled_epochs(params.head_epochs, params.budget_fraction)
    losses = fit(context, head, len(chosen), Recipe.of(params, "head_", epochs=epochs), loss)
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


def _of_chosen(model: Normalised, chosen: NDArray[np.int64], context: StageContext) -> Tensor:
    """Penultimate features float32 [n, D] of the chosen images, which gradients may be taken through."""
    images, among = device_images(context.dataset.images, context.device), to_device(chosen, context.device)
    with torch.no_grad():
        return torch.cat([_features(model, batch, context).float() for batch in chunks(images, among)])


DISTINGUISHING = Stage(
    name="distinguishing",
    run=_distinguishing,
    reads=(
        "label_epochs",
        "centre_epochs",
        "read_epoch",
        "first_lr",
        "first_schedule",
        "first_batch_size",
        "first_weight_decay",
        "momentum",
        "budget_fraction",
    ),
    outputs=("weights", "series"),
    cost=lambda params, _n: float(params.read_epoch or sum(first_epochs(params))),
    trajectory=Trajectory("centre_epochs", "read_epoch", "first_schedule", lambda fields: sum(first_epochs(fields))),
)
FEATURE_MOVEMENT = Stage(
    name="feature_movement",
    run=_feature_movement,
    reads=("transform", "kernel_size", "draws"),
    inputs={"weights": "distinguishing.weights"},
    outputs=("movement",),
    cost=lambda params, _n: FORWARD * (1 + (params.draws if params.transform in DRAWN else 1)),
)
DST_POOLS = Stage(
    name="dst_pools",
    run=_pools,
    reads=("poison_share",),
    inputs={"movement": "feature_movement.movement"},
    outputs=("flagged",),
    cached=False,
)
DST_TRUSTED = Stage(
    name="dst_trusted",
    run=_trusted,
    reads=("clean_share", "per_class"),
    inputs={"movement": "feature_movement.movement", "flagged": "dst_pools.flagged"},
    outputs=("trusted", "series"),
    cached=False,
)
DST_CONTRASTIVE = Stage(
    name="dst_contrastive",
    run=_contrastive,
    reads=(*CONTRASTIVE_FIELDS, "mask_columns"),
    inputs={"trusted": "dst_trusted.trusted"},
    outputs=("weights", "series"),
    cost=contrastive_cost,
)
DST_HEAD = Stage(
    name="dst_head",
    run=_head,
    reads=(
        "head_epochs",
        "head_lr",
        "head_schedule",
        "head_batch_size",
        "head_weight_decay",
        "repulsion",
        "momentum",
        "budget_fraction",
    ),
    inputs={
        "weights": "dst_contrastive.weights",
        "trusted": "dst_trusted.trusted",
        "flagged": "dst_pools.flagged",
    },
    outputs=("weights", "series"),
    cost=lambda *_: FORWARD,
)


class DST(Defense):
    """Distinguishment by transforms, and secure training."""

    name = "dst"
    config_type = DSTConfig
    stages = (DISTINGUISHING, FEATURE_MOVEMENT, DST_POOLS, DST_TRUSTED, DST_CONTRASTIVE, DST_HEAD)
    scores = "feature_movement.movement"
    flagged = "dst_pools.flagged"
    weights = "dst_head.weights"
