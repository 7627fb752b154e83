"""PIPD: progressive isolation of poisoned data (Chen, Wu and Zhou, AAAI 2024).

A model is trained so that poison falls to a low loss (pre-isolation); channels that fire on the lowest-loss samples
score every sample, round by round (isolation); the model is then cleaned on what was not flagged (selective training).

Public code consulted: RorschachChen/PIPD, which starts from pre-isolated index files that nothing in it makes. Where we
differ: flags lie strictly above the break (theirs include the largest benign value); statistics are updated, not
recomputed; BatchNorm is not updated by flagged samples. What neither tells (gamma, lambda, learning rates) is a field.

Known failure: whole-image triggers can be invisible to the spatial maximum; see `channel_statistic`.

Stages: `pre_isolation`, `channel_activations`, `isolate` (not cached: about a second), `selective_training`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.config import Config, param
from defenses.cuts import CLUSTERINGS
from defenses.methods.pipd.isolation import isolate
from defenses.models import load_model
from defenses.models.taps import CHANNEL_STATISTICS, TAP_SETS
from defenses.shared_stages import CHANNEL_ACTIVATIONS, PRE_ISOLATION, count_from_share, cpu_weights, lowest_mask
from defenses.storage.state_codec import TrainingState
from defenses.training.images import to_device
from defenses.training.loop import BatchSource, Recipe, fit, frozen_batch_statistics
from defenses.training.schedule import SCHEDULES


@dataclass(frozen=True)
class PIPDConfig(Config):
    """PIPD's hyperparameters; defaults are the paper's, or the published code's where the paper gives none."""

    pre_isolation_epochs: int = param(200, "N1, epochs of LGA (section 5.1)", low=1, symbol="N1")
    read_epoch: int | None = param(
        None, "the epoch after which pre-isolation is read, at most all (ours); none for the end", low=1
    )
    pre_isolation_lr: float = param(0.1, "peak learning rate (B.2)", low=1e-6, high=10.0)
    pre_isolation_schedule: str = param("step", "learning rate over the epochs (B.2)", choices=SCHEDULES)
    pre_isolation_augment: bool = param(
        False, "flip and crop; off, since a random crop removes a corner patch from 40 % of the views"
    )
    gamma: float = param(0.5, "loss at which clean samples are held, Eq. 2 (not given; ABL's)", low=0.0, symbol="γ")
    granularity: str = param("batch", "sign of the batch's mean loss, or of each sample's", choices=("batch", "sample"))
    batch_size: int = param(128, "images a step (B.2)", low=2)
    momentum: float = param(0.9, "SGD momentum (B.2)", low=0.0, high=1.0)
    weight_decay: float = param(5e-4, "SGD weight decay (B.2)", low=0.0, high=1.0)
    isolation_rate: float = param(0.01, "share with the lowest loss: P_p (4.1)", low=1e-6, high=0.5, symbol="p")
    clean_rate: float = param(0.20, "share with the highest loss: P_b (4.1)", low=1e-6, high=0.99, symbol="q")
    taps: str = param("convolutions", "which maps are read (published code)", choices=TAP_SETS)
    channel_statistic: str = param(
        "max", "how a map becomes a number (published code)", choices=tuple(CHANNEL_STATISTICS)
    )
    beta: float = param(3.0, "standard deviations above the benign mean, Eq. 4", low=0.0, symbol="β")
    channels_per_tap: float | int = param(
        0.04,
        "top channels of a tap: a share in (0, 1] or a count (published code)",
        low=1e-6,
        symbol="K",
        share_or_count=True,
    )
    rounds: int = param(8, "T, rounds of isolation (5.1)", low=1, symbol="T")
    clustering: str = param("fisher_jenks", "how scores are split, Eq. 8", choices=tuple(CLUSTERINGS))
    selective_epochs: int = param(20, "N2, epochs of selective training (5.1)", low=1, symbol="N2")
    selective_lr: float = param(0.01, "peak learning rate (not given)", low=1e-6, high=10.0)
    selective_schedule: str = param("cosine", "learning rate over the epochs (not given)", choices=SCHEDULES)
    selective_augment: bool = param(True, "flip and crop (B.3)")
    selective_weight_decay: float = param(5e-4, "its weight decay (not given; B.2's)", low=0.0, high=1.0)
    selective_clip_norm: float | None = param(
        None, "largest norm of a step's gradient; ascent can throw a small network off (not in the paper)", low=1e-6
    )
    ascent_weight: float = param(1.0, "weight of the flagged samples' ascent, Eq. 10 (not given)", low=0.0, symbol="λ")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_read_epoch("read_epoch", "pre_isolation_epochs")


def isolate_by_loss(context: StageContext, inputs: Outputs, params: Params) -> dict[str, Any]:
    """The stage `isolate`: P_p is the lowest losses."""
    losses = inputs["sample_losses"]
    return isolate_from(
        lowest_mask(losses, count_from_share(params.isolation_rate, len(losses))), context, inputs, params
    )


def isolate_from(poisoned: NDArray[np.bool_], context: StageContext, inputs: Outputs, params: Params) -> dict[str, Any]:
    """The stage `isolate` with a given P_p, bool [N]; P_b is drawn by loss as ever."""
    losses = inputs["sample_losses"]
    benign = lowest_mask(-losses, count_from_share(params.clean_rate, len(losses)))
    isolation = isolate(
        inputs["activations"],
        inputs["tap_sizes"],
        poisoned,
        benign,
        beta=params.beta,
        channels_per_tap=params.channels_per_tap,
        rounds=params.rounds,
        clustering=params.clustering,
        seed=context.derive("clustering"),
        on_round=lambda number: context.progress(context.stage, number, params.rounds, {}),
    )
    return {
        "scores": isolation.scores,
        "flagged": isolation.rounds[-1],
        "flagged_series": np.stack(isolation.rounds),
        "series": isolation.series,
    }


class _Cycle:
    """Endless random batches that go through the indices evenly; where it is can be kept."""

    def __init__(self, indices: Tensor, size: int, generator: torch.Generator) -> None:
        self.indices, self.size, self.generator = indices, size, generator
        self.order, self.start = indices[:0], 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if self.start >= len(self.order):
            shuffled = torch.randperm(len(self.indices), generator=self.generator, device=self.indices.device)
            self.order, self.start = self.indices[shuffled], 0
        self.start += self.size
        return self.order[self.start - self.size : self.start]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "start": self.start, "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.order, self.start = state_dict["order"], state_dict["start"]
        self.generator.set_state(state_dict["generator"])


@dataclass(frozen=True)
class Selective:
    """How selective training is run: SGD, whether images are flipped and cropped, and lambda."""

    recipe: Recipe
    augment: bool
    ascent_weight: float

    @classmethod
    def of(cls, params: Params) -> "Selective":
        """As the fields of a `PIPDConfig` have it."""
        return cls(Recipe.of(params, "selective_"), params.selective_augment, params.ascent_weight)


def selective_cost(params: Params) -> float:
    """Epoch-equivalents of selective training: an epoch goes through the kept and, where it ascends, the flagged."""
    share = 1.0 if params.ascent_weight > 0 else 1 - params.share_flagged
    return float(params.selective_epochs * share)


def selective_training_of(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    """The stage `selective_training`: the model of `weights`, cleaned of what is `flagged`."""
    model = load_model(context.model, inputs["weights"]).to(context.device)
    losses = train_selectively(context, model, inputs["flagged"], Selective.of(params))
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


def train_selectively(
    context: StageContext,
    model: torch.nn.Module,
    flags: NDArray[np.bool_],
    how: Selective,
    on_epoch: Callable[[int], None] | None = None,
    also: TrainingState | None = None,
) -> list[float]:
    """Eq. 10, in place: descent on the kept samples, ascent on flagged ones still obeyed.

    Each step pairs a batch of kept samples with a batch of flagged ones of proportional size, so that an epoch goes
    through both sets once.

    Args:
        flags: bool [N].
        on_epoch, also: what `fit` calls after each epoch, and what that changes.

    Returns:
        The mean loss of each epoch; none where everything is flagged, and the model then stays as it is.
    """
    labels = to_device(context.dataset.labels, context.device)
    flagged = to_device(flags, context.device)
    kept, isolated = (~flagged).nonzero().squeeze(1), flagged.nonzero().squeeze(1)
    if len(kept) < 2:
        return []
    batches = BatchSource.of(context, how.augment)
    size = max(1, round(how.recipe.batch_size * len(isolated) / len(kept)))
    isolated_batches = _Cycle(isolated, size, context.generator("isolated"))
    ascends = how.ascent_weight > 0 and len(isolated) > 0

    def loss(index: Tensor, beside: Tensor | None = None) -> Tensor:
        total = functional.cross_entropy(batches.logits(model, index, kept), labels[kept[index]])
        if beside is not None:
            total = total - how.ascent_weight * _still_obeyed(model, batches, beside, labels)
        return total

    changed: TrainingState = {"augment": batches.generator, "isolated": isolated_batches, **(also or {})}
    beside = isolated_batches if ascends else None
    return fit(context, model, len(kept), how.recipe, loss, on_epoch, changed, beside)


def _still_obeyed(model: torch.nn.Module, batches: BatchSource, index: Tensor, labels: Tensor) -> Tensor:
    """Mean over a batch of flagged samples of 1(f(x) = y) * cross-entropy, the second term of Eq. 10."""
    with frozen_batch_statistics(model):
        logits = batches.logits(model, index)
    losses = functional.cross_entropy(logits, labels[index], reduction="none")
    obeyed = logits.argmax(dim=1) == labels[index]
    return (losses * obeyed).mean()


ISOLATE = Stage(
    name="isolate",
    run=isolate_by_loss,
    reads=("isolation_rate", "clean_rate", "beta", "channels_per_tap", "rounds", "clustering"),
    inputs={
        "sample_losses": "pre_isolation.sample_losses",
        "activations": "channel_activations.activations",
        "tap_sizes": "channel_activations.tap_sizes",
    },
    outputs=("scores", "flagged", "flagged_series", "series"),
    cached=False,
)
SELECTIVE_TRAINING = Stage(
    name="selective_training",
    run=selective_training_of,
    reads=(
        "selective_epochs",
        "selective_lr",
        "selective_schedule",
        "selective_augment",
        "selective_weight_decay",
        "selective_clip_norm",
        "ascent_weight",
        "batch_size",
        "momentum",
    ),
    inputs={"weights": "pre_isolation.weights", "flagged": "isolate.flagged"},
    outputs=("weights", "series"),
    cost=lambda params, _: selective_cost(params),
)


class PIPD(Defense):
    """Progressive isolation of poisoned data."""

    name = "pipd"
    config_type = PIPDConfig
    stages = (PRE_ISOLATION, CHANNEL_ACTIVATIONS, ISOLATE, SELECTIVE_TRAINING)
    scores = "isolate.scores"
    flagged = "isolate.flagged"
    weights = "selective_training.weights"
    losses = "pre_isolation.sample_losses"
