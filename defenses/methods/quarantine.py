"""Quarantine Training (Yu and Zhang, IEEE Access 2024).

Each class gets a quarantine class. Samples are labelled partly with both; those that the model puts into quarantine
drift there further, epoch by epoch, starting from the few that a briefly trained model fits best.

Public code consulted: Chengx-Yu/Quarantine-Training. Where paper [P] and code [C] differ, a field chooses.
Theirs reads the ground truth of samples while training and keeps the checkpoint of the best test accuracy; ours does
neither. Its cosine schedule swings every 200 steps; ours runs over the phase.

Known failure: a class whose quarantine passes the release threshold is released whole, poison included; on small sets
the target class gets there in a few epochs. That holds for the paper's labels of pre-quarantine samples; the code's
(`pre_quarantine_label`) move fewer samples into quarantine, and the class gets there less often.

Stages: `pre_quarantine`, `quarantine_training`, `backdoor_free_training`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import Defense, Outputs, Params, Stage, StageContext, Trajectory
from defenses.config import Config, param
from defenses.cost import FORWARD
from defenses.methods.quarantine_labels import QuarantineLabels
from defenses.models import Normalised, build_model, load_model
from defenses.seeds import derive_seed
from defenses.shared_stages import cpu_weights, lowest_mask
from defenses.storage.state_codec import TrainingState
from defenses.training.images import to_device
from defenses.training.inference import predict_logits, sample_losses
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.losses import soft_cross_entropy
from defenses.training.schedule import SCHEDULES


@dataclass(frozen=True)
class QTConfig(Config):
    """Quarantine Training's hyperparameters; defaults are the paper's, or the code's where the paper is silent."""

    pre_epochs: int = param(4, "epochs of the pre-quarantine model (IV.A.2)", low=1)
    pre_read_epoch: int | None = param(
        None, "the epoch after which that model is read, at most all (ours); none for the end", low=1
    )
    pre_lr: float = param(0.01, "its peak learning rate (IV.A.1)", low=1e-6, high=10.0)
    pre_schedule: str = param("cosine", "its learning rate over the epochs (IV.A.1)", choices=SCHEDULES)
    pre_quarantine_ratio: float = param(
        0.10,
        "pre-quarantine samples, as a share of the largest class's count (IV.A.2; [C] takes 500)",
        low=0.0,
        high=1.0,
    )
    pre_quarantine_label: str = param(
        "maximum",
        "their label in the first phase: the largest share, (0.1, 0.9) on class and quarantine, always [P]; or that "
        "multiplied by the label that they would have without, (0.06, 0.36) at first and (0.01, 0.81) at most [C]",
        choices=("maximum", "multiplied"),
    )
    pre_quarantine_model: bool = param(True, "start from the pre-quarantine model's backbone (Fig. 3)")
    epsilon_init: float = param(0.4, "first share of the quarantine class in a label", low=0.0, high=1.0, symbol="ε")
    epsilon_step: float = param(0.1, "growth for quarantined samples, Alg. 1", low=0.0, high=1.0, symbol="β")
    epsilon_min: float = param(0.1, "smallest share (III.C.2)", low=0.0, high=1.0)
    epsilon_max: float = param(0.9, "largest share (III.C.2)", low=0.0, high=1.0)
    epsilon_schedule: str = param(
        "linear",
        "linear: init + step * epoch for those quarantined in the last epoch [C]; cumulative: Alg. 1 as printed; "
        "fixed: the maximum at once (Fig. 4)",
        choices=("linear", "cumulative", "fixed"),
    )
    quarantine_epochs: int = param(20, "epochs of quarantine training (IV.A.2)", low=1)
    quarantine_read_epoch: int | None = param(
        None, "the epoch after which quarantine training is read, at most all (ours); none for the end", low=1
    )
    dynamic_epochs: int = param(6, "epochs before samples outside quarantine fall to the minimum (IV.A.2)", low=0)
    lr: float = param(0.01, "peak learning rate of quarantine training (IV.A.1)", low=1e-6, high=10.0)
    schedule: str = param("cosine", "its learning rate over the epochs (IV.A.1)", choices=SCHEDULES)
    frozen_epochs: int = param(0, "first epochs in which only the new head is trained (not in the paper)", low=0)
    keep_pre_quarantine: bool = param(
        True, "pre-quarantine samples keep the maximum in the second phase [P]; not so [C]"
    )
    release_threshold: float = param(0.9, "quarantined share of a class above which it is released", low=0.0, high=1.0)
    release_at: str = param(
        "above",
        "a class is released when its share is above the threshold (III.C.2), or when it has reached it [C]",
        choices=("above", "reached"),
    )
    release_lasts: str = param(
        "epoch",
        "a released class is at the minimum for one epoch, and after that where it is not in quarantine again [C]; or "
        "to the end (in neither)",
        choices=("epoch", "end"),
    )
    release_epochs: tuple[int, ...] = param((5, 9, 14, 19), "epochs, from 0, after which this is checked [C]", low=0)
    quarantine_pass: str = param(
        "running",
        "who is in quarantine: predictions as each batch is trained (Alg. 1 and [C]), or a pass after the epoch",
        choices=("running", "epoch_end"),
    )
    backdoor_free_epochs: int = param(100, "epochs of the final model, labels frozen (IV.A.2)", low=1)
    backdoor_free_lr: float = param(0.01, "its peak learning rate (IV.A.1)", low=1e-6, high=10.0)
    backdoor_free_schedule: str = param("cosine", "its learning rate over the epochs (IV.A.1)", choices=SCHEDULES)
    backdoor_free_augment: bool = param(True, "flip and crop for the final model (IV.A.1)")
    batch_size: int = param(64, "images a step [C]", low=2)
    momentum: float = param(0.9, "SGD momentum [C]", low=0.0, high=1.0)
    weight_decay: float = param(5e-4, "SGD weight decay [C]", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_read_epoch("pre_read_epoch", "pre_epochs")
        self.check_read_epoch("quarantine_read_epoch", "quarantine_epochs")


def _pre_quarantine(context: StageContext, _inputs: Outputs, params: Params) -> Outputs:
    model = build_model(context.model, context.seed).to(context.device)
    labels = to_device(context.dataset.labels, context.device)
    batches = BatchSource.of(context, augment=False)
    losses = fit(
        context,
        model,
        len(labels),
        Recipe.of(params, "pre_"),
        lambda index: functional.cross_entropy(batches.logits(model, index), labels[index]),
    )
    return {
        "weights": cpu_weights(model),
        "sample_losses": sample_losses(model, batches.images, labels, context.precision),
        "series": {"loss": losses},
    }


def _two_heads(context: StageContext, weights: dict[str, Tensor] | None) -> Normalised:
    """A network with 2K outputs: a new linear layer, on the given backbone or a new one."""
    spec = context.model.with_outputs(2 * context.dataset.num_classes)
    model = build_model(spec, derive_seed(context.seed, "quarantine"))
    if weights is not None:
        backbone = {name: tensor for name, tensor in weights.items() if not name.startswith("network.linear.")}
        model.load_state_dict(backbone, strict=False)
    return model.to(context.device)


def _quarantine_training(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = _two_heads(context, inputs["weights"] if params.pre_quarantine_model else None)
    labels = to_device(context.dataset.labels, context.device)
    num_classes = context.dataset.num_classes
    largest = int(np.bincount(context.dataset.labels).max())
    count = round(params.pre_quarantine_ratio * largest)
    pre = to_device(lowest_mask(inputs["sample_losses"], count), context.device)
    state = QuarantineLabels(labels, num_classes, pre, params)
    batches = BatchSource.of(context, augment=False)
    quarantined = torch.zeros(len(labels), dtype=torch.bool, device=context.device)
    history: list[Tensor] = []
    released: list[float] = []
    still_released: list[float] = []

    def loss(index: Tensor) -> Tensor:
        logits = batches.logits(model, index)
        quarantined[index] = logits.argmax(dim=1) == labels[index] + num_classes
        on_class, on_quarantine = state.shares(index)
        return soft_cross_entropy(logits, labels[index], on_quarantine, num_classes, on_class)

    def on_epoch(epoch: int) -> None:
        if params.quarantine_pass == "epoch_end":
            logits = predict_logits(model, batches.images, context.precision)
            quarantined.copy_(logits.argmax(dim=1) == labels + num_classes)
        history.append(quarantined.clone())
        released.append(float(state.after_epoch(epoch, quarantined).sum()))
        still_released.append(state.still_released())
        _freeze_backbone(model, epoch + 1 < params.frozen_epochs)

    _freeze_backbone(model, params.frozen_epochs > 0)
    recipe = Recipe.of(params, "quarantine_")
    changed: TrainingState = {
        "epsilon": state.epsilon,
        "multiplied": state.multiplied,
        "classes": state.released,
        "history": history,
        "released": released,
        "still_released": still_released,
    }
    losses = fit(context, model, len(labels), recipe, loss, on_epoch, changed)
    logits = predict_logits(model, batches.images, context.precision)
    own = (labels + num_classes).unsqueeze(1)
    flags = torch.stack(history)
    return {
        "weights": cpu_weights(model),
        "epsilon": state.handed_on().cpu().numpy(),
        "scores": functional.softmax(logits.double(), dim=1).gather(1, own).squeeze(1).cpu().numpy(),
        "flagged": (logits.argmax(dim=1) == labels + num_classes).cpu().numpy(),
        "flagged_series": flags.cpu().numpy(),
        "series": {
            "loss": losses,
            "quarantined_share": flags.double().mean(dim=1).tolist(),
            "released_classes": released,
            "still_released_classes": still_released,
        },
    }


def _freeze_backbone(model: Normalised, frozen: bool) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith("network.linear."))


def _backdoor_free_training(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    num_classes = context.dataset.num_classes
    model: nn.Module = load_model(context.model.with_outputs(2 * num_classes), inputs["weights"]).to(context.device)
    labels = to_device(context.dataset.labels, context.device)
    epsilon = to_device(inputs["epsilon"], context.device)
    batches = BatchSource.of(context, params.backdoor_free_augment)

    def loss(index: Tensor) -> Tensor:
        return soft_cross_entropy(batches.logits(model, index), labels[index], epsilon[index], num_classes)

    losses = fit(
        context,
        model,
        len(labels),
        Recipe.of(params, "backdoor_free_"),
        loss,
        kept={"augment": batches.generator},
    )
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


def _quarantine_cost(params: Params, _n: int) -> float:
    epochs = params.quarantine_read_epoch or params.quarantine_epochs
    passes = epochs if params.quarantine_pass == "epoch_end" else 0
    return float(epochs + FORWARD * (passes + 1))


_SGD = ("batch_size", "momentum", "weight_decay")

PRE_QUARANTINE = Stage(
    name="pre_quarantine",
    run=_pre_quarantine,
    reads=("pre_epochs", "pre_read_epoch", "pre_lr", "pre_schedule", *_SGD),
    outputs=("weights", "sample_losses", "series"),
    cost=lambda params, _: (params.pre_read_epoch or params.pre_epochs) + FORWARD,
    trajectory=Trajectory("pre_epochs", "pre_read_epoch", "pre_schedule"),
)
QUARANTINE_TRAINING = Stage(
    name="quarantine_training",
    run=_quarantine_training,
    reads=(
        "pre_quarantine_ratio",
        "pre_quarantine_label",
        "pre_quarantine_model",
        "epsilon_init",
        "epsilon_step",
        "epsilon_min",
        "epsilon_max",
        "epsilon_schedule",
        "quarantine_epochs",
        "quarantine_read_epoch",
        "dynamic_epochs",
        "lr",
        "schedule",
        "frozen_epochs",
        "keep_pre_quarantine",
        "release_threshold",
        "release_at",
        "release_lasts",
        "release_epochs",
        "quarantine_pass",
        *_SGD,
    ),
    inputs={"weights": "pre_quarantine.weights", "sample_losses": "pre_quarantine.sample_losses"},
    outputs=("weights", "epsilon", "scores", "flagged", "flagged_series", "series"),
    version=3,
    cost=_quarantine_cost,
    trajectory=Trajectory("quarantine_epochs", "quarantine_read_epoch", "schedule"),
)
BACKDOOR_FREE_TRAINING = Stage(
    name="backdoor_free_training",
    run=_backdoor_free_training,
    reads=(
        "backdoor_free_epochs",
        "backdoor_free_lr",
        "backdoor_free_schedule",
        "backdoor_free_augment",
        *_SGD,
    ),
    inputs={"weights": "quarantine_training.weights", "epsilon": "quarantine_training.epsilon"},
    outputs=("weights", "series"),
    cost=lambda params, _: params.backdoor_free_epochs,
)


class QuarantineTraining(Defense):
    """Quarantine Training: filters the training set and trains a model with a quarantine class for each class."""

    name = "qt"
    config_type = QTConfig
    stages = (PRE_QUARANTINE, QUARANTINE_TRAINING, BACKDOOR_FREE_TRAINING)
    scores = "quarantine_training.scores"
    flagged = "quarantine_training.flagged"
    weights = "backdoor_free_training.weights"
    losses = "pre_quarantine.sample_losses"
    heads = 2
