"""What DBD and ASD share: fields, and a training by MixMatch whose labelled pool is chosen anew before each epoch.

A stage hands the network and the state of its optimiser on to the next one, so that a training of several stages is the
same as one of a single stage, and configurations that differ in a late one share the early ones.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses.api import Outputs, Params, StageContext, Weights
from defenses.budget import BudgetConfig, scaled_epochs
from defenses.config import param
from defenses.cost import FORWARD
from defenses.models import Normalised, build_model, load_model
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights, lowest_mask
from defenses.storage.state_codec import TrainingState
from defenses.training.images import to_device
from defenses.training.inference import predict_logits
from defenses.training.losses import symmetric_cross_entropy
from defenses.training.mixmatch import PASSES, WEAK_VIEWS, MixMatch, MixMatchTraining, Samples

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SemiSupervisedConfig(BudgetConfig):
    """Fields of the training; defaults are those of both codes, which agree but for the ramp."""

    lr: float = param(0.002, "learning rate of Adam (code)", low=1e-7, high=1.0)
    iterations: int = param(1024, "steps of a semi-supervised epoch, whatever the number of samples (code)", low=1)
    batch_size: int = param(64, "labelled images a step, and unlabelled ones (code)", low=2)
    labelled_share: float = param(
        0.5, "share of the samples that keep their labels in the end (code)", low=0.01, high=0.99, symbol="ε"
    )
    lambda_u: float = param(
        15.0, "weight of the unlabelled loss (code; 75 * epochs / 1024 for others)", low=0.0, symbol="λ_u"
    )
    ramp_epochs: int = param(190, "epochs in which it rises from 0 (code)", low=0)
    temperature: float = param(0.5, "sharpens guesses by the power of its inverse (code)", low=0.05, high=1.0)
    mixup_alpha: float = param(0.75, "of the Beta distribution of mixes (code)", low=0.01, high=100.0)
    weak_views: str = param(
        "flip_crop", "how images are shown in training (code), a digit must not be flipped", choices=WEAK_VIEWS
    )
    ce_weight: float = param(0.1, "of cross-entropy in the loss that splits (code)", low=0.0, high=100.0)
    rce_weight: float = param(1.0, "of reverse cross-entropy in it (code)", low=0.0, high=100.0)


SCE = ("ce_weight", "rce_weight")
"""What a stage reads as well that splits."""
TRAINING = (
    *("lr", "iterations", "batch_size", "lambda_u", "ramp_epochs", "temperature", "mixup_alpha", "weak_views"),
    "budget_fraction",
)
"""What every stage reads that trains in this way."""
OUTPUTS = ("weights", "optimiser", "flagged_series", "series")
"""What it gives; see `Trainee.outputs`."""


def epoch_cost(params: Params, n: int) -> float:
    """Epoch-equivalents of an epoch on n samples: its steps, and the pass that splits."""
    return float(params.iterations * params.batch_size * PASSES / n + FORWARD)


def lowest_share(losses: Scores, share: float) -> Mask:
    """The lowest share of float64 [N], rounded up, but never all of them; bool [N]."""
    rest = int((1 - share) * len(losses) + 1e-9)
    return lowest_mask(losses, len(losses) - max(1, rest))


def check_size(context: StageContext, method: str) -> None:
    """Refuses a set without a sample for each pool.

    Raises:
        UserError: there are fewer than two.
    """
    if len(context.dataset) < 2:
        raise UserError(
            f"{method} splits the samples into two pools and needs 2 of them, got {len(context.dataset)}: give it more",
            about="dataset",
        )


@dataclass(frozen=True)
class Pools:
    """What an epoch is trained on.

    Attributes:
        labelled: bool [N], the suspect samples that keep their labels.
        clean: how many of the clean images are in the labelled pool as well.
    """

    labelled: Mask
    clean: int = 0


class Trainee:
    """A network in semi-supervised training.

    Args:
        params: those of `TRAINING`, and those of `SCE` where samples are split.
        inputs: ``weights`` and ``optimiser`` of the stage before; without ``weights`` the network is a new one.

    Attributes:
        model, optimiser: on the context's device.
        samples: what the stage was handed.
    """

    def __init__(self, context: StageContext, params: Params, inputs: Outputs) -> None:
        self.context = context
        # Drawn from whatever the stage is called: where a training is cut into stages then changes nothing.
        self.drawn_from = replace(context, stage="semi_supervised")
        self.params = params
        self.sce = [float(getattr(params, name)) for name in SCE if name in vars(params)]
        model = (
            load_model(context.model, inputs["weights"])
            if "weights" in inputs
            else build_model(context.model, context.seed)
        )
        self.model: Normalised = model.to(context.device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), params.lr)
        restore_moments(self.optimiser, inputs.get("optimiser", {}))
        self.samples = Samples.of(context)
        self.how = MixMatch(
            params.iterations,
            params.batch_size,
            params.temperature,
            params.mixup_alpha,
            params.lambda_u,
            scaled_epochs(params.ramp_epochs, params.budget_fraction),
            params.weak_views,
        )
        self.flags: list[Tensor] = []
        self.series: dict[str, list[float]] = {}

    def losses(self, model: nn.Module | None = None) -> Scores:
        """SCE of each suspect sample, float64 [N], without augmentation; of the network, or of another one."""
        logits = predict_logits(model or self.model, self.samples.images, self.context.precision).double()
        labels = self.samples.labels[: len(logits)]
        losses: Scores = symmetric_cross_entropy(logits, labels, *self.sce).cpu().numpy()
        return losses

    def train(self, first: int, count: int, choose: Callable[[int], Pools]) -> None:
        """Some epochs, each on pools that are chosen before it.

        Args:
            first: number of the first one, counted over all phases.
            choose: number of an epoch -> its pools.
        """
        parts: TrainingState = {
            "model": self.model,
            "optimiser": self.optimiser,
            "flags": self.flags,
            "series": self.series,
        }
        training = MixMatchTraining(self.drawn_from, self.model, self.optimiser, self.samples, self.how, count)
        for done in self.context.checkpoint.epochs(count, parts):
            self.epoch(training, first + done, choose(first + done))
            self.context.progress(self.context.stage, done + 1, count, {"loss": self.series["loss"][-1]})

    def epoch(self, training: MixMatchTraining, number: int, pools: Pools) -> None:
        """One epoch on given pools."""
        device, suspects = self.context.device, len(pools.labelled)
        labelled = to_device(np.flatnonzero(pools.labelled), device)
        unlabelled = to_device(np.flatnonzero(~pools.labelled), device)
        if pools.clean:
            labelled = torch.cat([torch.arange(suspects, suspects + pools.clean, device=device), labelled])
        on_labels, on_guesses = training.epoch(labelled, unlabelled, number)
        each = torch.bincount(self.samples.labels[labelled], minlength=self.context.dataset.num_classes)
        weight = self.how.unlabelled_weight(number + 0.5)
        self.flags.append(to_device(~pools.labelled, device))
        self.note(
            {
                "loss": on_labels + weight * on_guesses,
                "labelled_loss": on_labels,
                "unlabelled_loss": on_guesses,
                "labelled": float(len(labelled)),
                "labelled_smallest_class": float(each.min()),
                "labelled_largest_class": float(each.max()),
            }
        )

    def note(self, values: dict[str, float]) -> None:
        """One more value of each series."""
        for name, value in values.items():
            self.series.setdefault(name, []).append(value)

    def outputs(self, flags: Iterable[Mask] = ()) -> Outputs:
        """What the next stage goes on from, and what was seen on the way.

        Args:
            flags: bool [N] each, of splits that no epoch was trained on.
        """
        rows = [row.cpu().numpy() for row in self.flags] + list(flags)
        empty = np.zeros((0, len(self.context.dataset)), dtype=bool)
        return {
            "weights": cpu_weights(self.model),
            "optimiser": moments(self.optimiser),
            "flagged_series": np.stack(rows) if rows else empty,
            "series": self.series,
        }


def moments(optimiser: torch.optim.Optimizer) -> Weights:
    """The state of Adam as a dictionary of tensors in main memory."""
    states = optimiser.state_dict()["state"].items()
    return {
        f"{number}.{name}": value.detach().cpu().clone() for number, state in states for name, value in state.items()
    }


def restore_moments(optimiser: torch.optim.Optimizer, stored: Weights) -> None:
    """Gives Adam the state that `moments` took; parameters that it had not moved yet have none."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name, tensor in stored.items():
        number, _, part = name.partition(".")
        parameter = parameters[int(number)]
        # Laid out in memory as the parameter is, which is how Adam would have made it.
        value = tensor.clone() if tensor.dim() == 0 else torch.empty_like(parameter).copy_(tensor)
        optimiser.state[parameter][part] = value.detach()
