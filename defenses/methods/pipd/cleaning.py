"""PIPD with a choice of how the model is cleaned once samples are isolated (PIPD, section 6.3 and Fig. 5).

Either PIPD's selective training, or the unlearning of ABL (Li et al., NeurIPS 2021) from the same pre-isolation model
on the same isolated samples: training on the rest, then gradient ascent on those that were isolated.

Public code consulted: bboylyg/ABL, and the copies in BackdoorBench and backdoor-toolbox. ABL's is taken at its own
learning rates (`defenses.training.unlearning`). ABL's own isolation is no part of this; see `defenses.methods.abl`.

Known failure: ascent has no bound, so unlearning that goes on ruins the model; the figure is about just that.

Stages: those of PIPD up to `isolate`, then `cleaning`.
"""

from dataclasses import dataclass, replace

from torch import nn

from defenses.api import Defense, Outputs, Params, Stage, StageContext, Weights
from defenses.config import param
from defenses.methods.pipd.pipd import (
    ISOLATE,
    SELECTIVE_TRAINING,
    PIPDConfig,
    Selective,
    selective_cost,
    train_selectively,
)
from defenses.models import load_model
from defenses.shared_stages import CHANNEL_ACTIVATIONS, PRE_ISOLATION, cpu_weights
from defenses.training.loop import Recipe
from defenses.training.schedule import SCHEDULES
from defenses.training.unlearning import finetune, unlearn


@dataclass(frozen=True)
class PIPDCleaningConfig(PIPDConfig):
    """PIPD's fields, and those of ABL's unlearning."""

    cleaning: str = param("selective", "how the model is cleaned (PIPD 6.3)", choices=("selective", "unlearning"))
    finetuning_epochs: int = param(60, "before unlearning, epochs on the samples kept (ABL's code)", low=0)
    finetuning_lr: float = param(0.1, "its peak learning rate (ABL's code)", low=1e-6, high=10.0)
    finetuning_schedule: str = param("step", "its learning rate over the epochs (ABL's code)", choices=SCHEDULES)
    unlearning_epochs: int = param(20, "epochs of ascent on the isolated samples (as many as N2)", low=1)
    unlearning_lr: float = param(5e-4, "its learning rate, constant (ABL's code)", low=1e-7, high=10.0)
    abl_weight_decay: float = param(1e-4, "SGD weight decay of both (ABL's code)", low=0.0, high=1.0)
    snapshots: bool = param(
        False,
        "keep the weights of every epoch, to judge each; a ResNet-18 of width 64 takes 45 MB an epoch: 0.9 GB on disk "
        "for 20 epochs, and as much memory while they are kept and judged",
    )


@dataclass(frozen=True)
class Unlearning:
    """How ABL's two phases are run."""

    finetuning: Recipe
    augment: bool
    ascent: Recipe

    @classmethod
    def of(cls, params: Params) -> "Unlearning":
        """As the fields of a `PIPDCleaningConfig` have it."""
        # Ascent has no bound, and needs a limit to its steps more than selective training does.
        bounded = {"weight_decay": params.abl_weight_decay, "clip_norm": params.selective_clip_norm}
        finetuning = Recipe.of(params, "finetuning_", **bounded)
        ascent = Recipe.of(params, "unlearning_", schedule="constant", **bounded)
        return cls(finetuning, params.selective_augment, ascent)


class SnapshotRecorder:
    """The weights of a model, epoch by epoch; none unless they are wanted."""

    def __init__(self, model: nn.Module, wanted: bool) -> None:
        self.model, self.wanted = model, wanted
        self.taken: list[Weights] = []

    def take(self, _epoch: int = 0) -> None:
        """Keeps the weights as they are now, on the CPU; nothing unless they are wanted."""
        if self.wanted:
            self.taken.append(cpu_weights(self.model))

    def flat(self) -> Weights:
        """All that was kept, by ``EPOCH.NAME``."""
        return {f"{epoch}.{name}": tensor for epoch, kept in enumerate(self.taken) for name, tensor in kept.items()}


def _cleaning(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    """Cleans the pre-isolation model. What is kept first is the model before the first epoch of cleaning.

    For unlearning this is the model after fine-tuning, so that both ways are followed from where they set out.
    """
    model = load_model(context.model, inputs["weights"]).to(context.device)
    snapshots = SnapshotRecorder(model, params.snapshots)
    # Both are made of the fields, whichever is run: a field that is read is one that the stage's key holds.
    selective, unlearning = Selective.of(params), Unlearning.of(params)
    series: dict[str, list[float]] = {}
    if params.cleaning == "unlearning":
        apart = replace(context, stage="finetuning")  # it draws other batches than the phase that follows
        series["finetuning_loss"] = finetune(apart, model, inputs["flagged"], unlearning.finetuning, unlearning.augment)
        snapshots.take()
        series["loss"] = unlearn(
            context, model, inputs["flagged"], unlearning.ascent, snapshots.take, {"snapshots": snapshots.taken}
        )
    else:
        snapshots.take()
        series["loss"] = train_selectively(
            context, model, inputs["flagged"], selective, snapshots.take, {"snapshots": snapshots.taken}
        )
    return {
        "weights": cpu_weights(model),
        "series": {n: v for n, v in series.items() if v},
        "snapshots": snapshots.flat(),
    }


def _cleaning_cost(params: Params, _n: int) -> float:
    if params.cleaning == "selective":
        return selective_cost(params)
    kept = 1 - params.share_flagged
    return float(params.finetuning_epochs * kept + params.unlearning_epochs * params.share_flagged)


CLEANING = Stage(
    name="cleaning",
    run=_cleaning,
    reads=(
        *SELECTIVE_TRAINING.reads,
        "cleaning",
        "finetuning_epochs",
        "finetuning_lr",
        "finetuning_schedule",
        "unlearning_epochs",
        "unlearning_lr",
        "abl_weight_decay",
        "snapshots",
    ),
    inputs=SELECTIVE_TRAINING.inputs,
    outputs=("weights", "series", "snapshots"),
    cost=_cleaning_cost,
)


class PIPDCleaning(Defense):
    """PIPD's isolation, and a choice of how the model is cleaned."""

    name = "pipd_cleaning"
    config_type = PIPDCleaningConfig
    stages = (PRE_ISOLATION, CHANNEL_ACTIVATIONS, ISOLATE, CLEANING)
    scores = "isolate.scores"
    flagged = "isolate.flagged"
    weights = "cleaning.weights"
    snapshots = "cleaning.snapshots"
