"""Contrastive pre-training: a network learns what its images show without looking at a label."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from defenses.api import Outputs, Params, Stage, StageContext, Trajectory
from defenses.budget import BudgetConfig, scaled_epochs
from defenses.config import param
from defenses.models import Normalised, build_model
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights
from defenses.training.contrastive import nt_xent, projecting, projection_head
from defenses.training.images import device_images
from defenses.training.loop import Recipe, fit
from defenses.training.precision import autocast
from defenses.training.schedule import SCHEDULES
from defenses.training.views import Views


@dataclass(frozen=True)
class ContrastiveConfig(BudgetConfig):
    """The fields of `CONTRASTIVE_PRETRAINING`, with DBD's defaults (Huang et al., ICLR 2022)."""

    contrastive_epochs: int = param(100, "epochs without labels (DBD's code)", low=1)
    contrastive_read_epoch: int | None = param(
        None, "the epoch after which its features are read, of those that are run (ours); none for the end", low=1
    )
    contrastive_lr: float = param(0.4, "their peak learning rate (DBD's code)", low=1e-6, high=10.0)
    contrastive_schedule: str = param(
        "constant", "their learning rate over the epochs (DBD's falls by 2 %: a cosine over 1,000)", choices=SCHEDULES
    )
    contrastive_batch_size: int = param(512, "images a step, each in two views (DBD's code)", low=2)
    contrastive_weight_decay: float = param(1e-4, "weight decay without labels (DBD's code)", low=0.0, high=1.0)
    contrastive_temperature: float = param(
        0.5, "what similarities of views are divided by (DBD's code)", low=1e-3, high=10.0
    )
    smallest_part: float = param(0.2, "the least share of an image that a view shows (DBD's code)", low=1e-3, high=1.0)
    view_flip: bool = param(True, "half of the views are mirrored (DBD's code); a mirrored digit is another one")
    momentum: float = param(0.9, "SGD momentum (DBD's code)", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_read_epoch(
            "contrastive_read_epoch", "contrastive_epochs x budget_fraction", contrastive_epochs(self)
        )


def contrastive_epochs(fields: Any) -> int:
    """How many epochs are run without labels, of the fields of a config or of a stage."""
    return scaled_epochs(fields.contrastive_epochs, fields.budget_fraction)


@dataclass(frozen=True)
class Contrast:
    """What contrastive training shows a network, and how it judges it.

    Attributes:
        recipe: of SGD.
        views: how views are drawn.
        loss: (projections of the first views [n, 128], of the second, positions int64 [n]) -> a scalar to descend.
        batch_norm: the projection head normalises over the batch.
    """

    recipe: Recipe
    views: Views
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    batch_norm: bool


def train_contrastively(context: StageContext, model: Normalised, how: Contrast) -> list[float]:
    """Trains a model in place, all but its last layer, which keeps its weights.

    Both views go through the network together, so that BatchNorm's statistics are over both.

    Args:
        model: on the context's device.

    Returns:
        The mean loss of each epoch.

    Raises:
        UserError: fewer than two images, of which there are no others to tell one from.
    """
    n = len(context.dataset)
    if n < 2:
        raise UserError(f"contrastive learning tells an image from others and needs at least 2, got {n}: give it more")
    images = device_images(context.dataset.images, context.device)
    generator = context.generator("views")
    head = projection_head(model.network.linear.in_features, how.batch_norm, context.seed).to(context.device)

    def loss(index: Tensor) -> Tensor:
        views = how.views.draw(images, index, generator, count=2)
        with autocast(context.device, context.precision):
            projected = model(views)
        first, second = functional.normalize(projected.float()).chunk(2)
        return how.loss(first, second, index)

    with projecting(model, head):
        return fit(context, model, n, how.recipe, loss, kept={"views": generator})


def _contrastive_pretraining(context: StageContext, _inputs: Outputs, params: Params) -> Outputs:
    model = build_model(context.model, context.seed).to(context.device)
    epochs = contrastive_epochs(params)
    views = Views(params.smallest_part, flip=0.5 * params.view_flip, blur=0.5, bicubic=True)
    temperature = params.contrastive_temperature

    def loss(first: Tensor, second: Tensor, _index: Tensor) -> Tensor:
        return nt_xent(first, second, temperature)

    recipe = Recipe.of(params, "contrastive_", epochs=epochs)
    losses = train_contrastively(context, model, Contrast(recipe, views, loss, batch_norm=True))
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


CONTRASTIVE_FIELDS = (
    "contrastive_epochs",
    "contrastive_lr",
    "contrastive_schedule",
    "contrastive_batch_size",
    "contrastive_weight_decay",
    "contrastive_temperature",
    "smallest_part",
    "view_flip",
    "momentum",
    "budget_fraction",
)
"""What a stage that trains contrastively reads."""


def contrastive_cost(params: Params, _n: int) -> float:
    """Epoch-equivalents of contrastive training: every image is shown in two views."""
    return 2.0 * contrastive_epochs(params)


CONTRASTIVE_PRETRAINING = Stage(
    name="contrastive_pretraining",
    run=_contrastive_pretraining,
    reads=(*CONTRASTIVE_FIELDS, "contrastive_read_epoch"),
    outputs=("weights", "series"),
    cost=lambda params, n: (
        2.0 * params.contrastive_read_epoch if params.contrastive_read_epoch else contrastive_cost(params, n)
    ),
    trajectory=Trajectory("contrastive_epochs", "contrastive_read_epoch", "contrastive_schedule", contrastive_epochs),
)
"""SimCLR from a new network, by images alone (DBD); the weights' last layer is as it was initialised."""
