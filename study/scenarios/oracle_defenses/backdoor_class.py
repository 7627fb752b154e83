"""QT's Fig. 2: plain training with the poison in a class of its own, to see how soon each class is learned.

The K + 1st output is the backdoor's. The clean test set then shows how many clean images go there
(``clean_quarantined``), and an ASR of 0 that triggered images no longer go to the target.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from defenses.api import Outputs, Params, Stage, StageContext
from defenses.config import Config, param
from defenses.models import build_model
from defenses.shared_stages import cpu_weights
from defenses.storage.state_codec import TrainingState
from defenses.training.images import to_device
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.schedule import SCHEDULES
from study.scenarios.oracle_defenses.api import GROUND_TRUTH, OracleDefense


@dataclass(frozen=True)
class BackdoorClassConfig(Config):
    """Fields of plain training, at QT's values."""

    epochs: int = param(100, "passes over the training set (QT, IV.A.1)", low=1)
    lr: float = param(0.01, "peak learning rate of SGD (QT, IV.A.1)", low=1e-6, high=10.0)
    batch_size: int = param(64, "images a step (QT's code)", low=2)
    schedule: str = param("cosine", "learning rate over the run (QT, IV.A.1)", choices=SCHEDULES)
    momentum: float = param(0.9, "SGD momentum (QT's code)", low=0.0, high=1.0)
    weight_decay: float = param(5e-4, "SGD weight decay (QT's code)", low=0.0, high=1.0)
    augment: bool = param(True, "random flip and crop (QT, IV.A.1)")


class ClassTotals:
    """Loss and accuracy of each class over an epoch, as its batches are trained.

    Args:
        labels: int64 [N], the backdoor's being K.
        classes: K + 1.
    """

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.counts = torch.bincount(labels, minlength=classes)
        self.sums = torch.zeros(classes, 2, device=labels.device)
        self.history: list[Tensor] = []

    def add(self, wanted: Tensor, losses: Tensor, right: Tensor) -> None:
        """A batch: labels int64 [b], losses [b] and whether each was told right, bool [b]."""
        self.sums.index_add_(0, wanted, torch.stack([losses.detach(), right.float()], dim=1))

    def end_epoch(self, _epoch: int) -> None:
        """Turns sums into means."""
        self.history.append((self.sums / self.counts.clamp(min=1).unsqueeze(1)).cpu())
        self.sums.zero_()

    def series(self) -> dict[str, list[float]]:
        """Values by epoch: ``loss/class_0`` ... ``accuracy/backdoor``; a class without samples is left out."""
        backdoor = len(self.counts) - 1
        named = {label: "backdoor" if label == backdoor else f"class_{label}" for label in range(len(self.counts))}
        return {
            f"{what}/{name}": [float(means[label, column]) for means in self.history]
            for column, what in enumerate(("loss", "accuracy"))
            for label, name in named.items()
            if self.counts[label] > 0
        }


def _train(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    classes = context.dataset.num_classes + 1
    model = build_model(context.model.with_outputs(classes), context.seed).to(context.device)
    labels = to_device(context.dataset.labels, context.device)
    labels = labels.masked_fill(to_device(inputs["poison_mask"], context.device), classes - 1)
    batches = BatchSource.of(context, params.augment)
    totals = ClassTotals(labels, classes)

    def loss(index: Tensor) -> Tensor:
        logits, wanted = batches.logits(model, index), labels[index]
        losses = functional.cross_entropy(logits, wanted, reduction="none")
        totals.add(wanted, losses, logits.argmax(dim=1) == wanted)
        return losses.mean()

    changed: TrainingState = {"augment": batches.generator, "history": totals.history, "sums": totals.sums}
    losses = fit(context, model, len(labels), Recipe.of(params), loss, totals.end_epoch, changed)
    return {"weights": cpu_weights(model), "series": {"loss": losses, **totals.series()}}


class BackdoorClass(OracleDefense):
    """Plain training with one class more, which holds the poison."""

    name = "qt_backdoor_class"
    config_type = BackdoorClassConfig
    stages = (
        GROUND_TRUTH,
        Stage(
            name="backdoor_class_training",
            run=_train,
            reads=("epochs", "lr", "batch_size", "schedule", "momentum", "weight_decay", "augment"),
            inputs={"poison_mask": "ground_truth.poison_mask"},
            outputs=("weights", "series"),
            cost=lambda params, _: params.epochs,
        ),
    )
    weights = "backdoor_class_training.weights"

    @classmethod
    def outputs(cls, num_classes: int) -> int:
        """One for each class, and the backdoor's."""
        return num_classes + 1
