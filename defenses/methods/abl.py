"""ABL: anti-backdoor learning (Li et al., NeurIPS 2021).

A model is trained so that clean samples are held at a loss of gamma while poison falls below it (pre-isolation, which
is PIPD's stage: with the same fields both share one model). The samples with the lowest loss are isolated, the model
is trained on the rest, and then unlearns the isolated ones by gradient ascent.

Public code consulted: bboylyg/ABL (its rates and epochs are the defaults), and the copies in BackdoorBench and
backdoor-toolbox. It trains with Flooding, |loss - b| + b, whose gradient is that of LGA with gamma = b, so there is no
choice between the two. Where we differ:

- Batches of the isolated samples are shuffled and do not update BatchNorm's statistics (backdoor-toolbox's remedy; the
  authors' code does neither, and BackdoorBench augments what it unlearns).
- All epochs of unlearning are run, where the authors' code skips the first. All rates are fields: BackdoorBench ignores
  those of its configuration.
- Momentum is SGD's own, not Nesterov's, as in the pre-isolation of PIPD; kept samples are flipped and cropped, without
  Cutout. The code's rate of fine-tuning falls by ten once, at two thirds; `step` does at half and at three quarters.

What is flagged is exactly the isolated share r, so r bounds the rates: at r = 1 % and a poison rate of 5 % the TPR
cannot exceed 0.20. PIPD's Table 2 has a TPR of 0.91 and an FPR of 0.01 for ABL, which implies that 5.0 to 6.5 % were
isolated there: compare at such an r, or by AUROC.

Known failure: the defaults fit BadNets, and the authors ask to tune the rest. Ascent has no bound, so unlearning that
goes on ruins the model.

Stages: `pre_isolation`, `abl_isolation` (not cached: it sorts the losses), `finetuning`, `unlearning`.
"""

from dataclasses import dataclass

import numpy as np

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.config import Config, param
from defenses.models import load_model
from defenses.registry import UserError
from defenses.shared_stages import PRE_ISOLATION, count_from_share, cpu_weights, lowest_mask
from defenses.training.loop import Recipe
from defenses.training.schedule import SCHEDULES
from defenses.training.unlearning import finetune, unlearn


@dataclass(frozen=True)
class ABLConfig(Config):
    """ABL's hyperparameters; defaults are those of the authors' code."""

    pre_isolation_epochs: int = param(10, "epochs of LGA (code; others take 15 or 20)", low=1, symbol="E_t")
    read_epoch: int | None = param(
        None, "the epoch after which pre-isolation is read, at most all (ours); none for the end", low=1
    )
    pre_isolation_lr: float = param(0.1, "its peak learning rate (code)", low=1e-6, high=10.0)
    pre_isolation_schedule: str = param("constant", "its learning rate over the epochs (code)", choices=SCHEDULES)
    pre_isolation_augment: bool = param(False, "flip and crop during LGA; off (code)")
    gamma: float = param(
        0.5, "loss at which clean samples are held, Flooding's b (code); grows with the classes", low=0.0, symbol="γ"
    )
    granularity: str = param(
        "batch", "sign of the batch's mean loss (code), or of each sample's", choices=("batch", "sample")
    )
    batch_size: int = param(128, "images a step (code)", low=2)
    momentum: float = param(0.9, "SGD momentum (code, there Nesterov's)", low=0.0, high=1.0)
    weight_decay: float = param(1e-4, "SGD weight decay during LGA (code)", low=0.0, high=1.0)
    isolation_rate: float = param(
        0.01, "share with the lowest loss that is flagged (code)", low=1e-6, high=0.5, symbol="r"
    )
    finetuning_epochs: int = param(60, "epochs on the samples kept (code); 0 for none", low=0, symbol="E_f")
    finetuning_lr: float = param(0.1, "its peak learning rate (code)", low=1e-6, high=10.0)
    finetuning_schedule: str = param("step", "its learning rate over the epochs (code, nearly)", choices=SCHEDULES)
    finetuning_augment: bool = param(True, "flip and crop (code, which has Cutout as well)")
    finetuning_weight_decay: float = param(1e-4, "its weight decay (code)", low=0.0, high=1.0)
    unlearning_epochs: int = param(5, "epochs of ascent on the isolated samples (code)", low=1, symbol="E_u")
    unlearning_lr: float = param(5e-4, "its learning rate, constant (code)", low=1e-7, high=10.0)
    unlearning_batch_size: int = param(128, "isolated images a step (code); fewer make more steps an epoch", low=2)
    unlearning_weight_decay: float = param(1e-4, "its weight decay (code)", low=0.0, high=1.0)
    unlearning_clip_norm: float | None = param(
        None, "largest norm of a step's gradient; ascent can throw a small network off (not in the code)", low=1e-6
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_read_epoch("read_epoch", "pre_isolation_epochs")


def _isolate(_context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    losses = np.asarray(inputs["sample_losses"], dtype=np.float64)
    count = count_from_share(params.isolation_rate, len(losses))
    if count > len(losses) - 2:
        raise UserError(
            f"ABL must keep at least 2 samples to train on, but isolation_rate = {params.isolation_rate:g} isolates "
            f"{count} of {len(losses)}: choose a smaller one",
            about="field isolation_rate",
        )
    return {"scores": -losses, "flagged": lowest_mask(losses, count)}


def _finetuning(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    recipe = Recipe.of(params, "finetuning_")
    losses = finetune(context, model, inputs["flagged"], recipe, params.finetuning_augment)
    return {"weights": cpu_weights(model), "series": {"loss": losses} if losses else {}}


def _unlearning(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    model = load_model(context.model, inputs["weights"]).to(context.device)
    losses = unlearn(context, model, inputs["flagged"], Recipe.of(params, "unlearning_", schedule="constant"))
    return {"weights": cpu_weights(model), "series": {"loss": losses}}


ABL_ISOLATION = Stage(
    name="abl_isolation",
    run=_isolate,
    reads=("isolation_rate",),
    inputs={"sample_losses": "pre_isolation.sample_losses"},
    outputs=("scores", "flagged"),
    cached=False,
)
FINETUNING = Stage(
    name="finetuning",
    run=_finetuning,
    reads=(
        "finetuning_epochs",
        "finetuning_lr",
        "finetuning_schedule",
        "finetuning_augment",
        "finetuning_weight_decay",
        "batch_size",
        "momentum",
    ),
    inputs={"weights": "pre_isolation.weights", "flagged": "abl_isolation.flagged"},
    outputs=("weights", "series"),
    cost=lambda params, _: params.finetuning_epochs * (1 - params.share_flagged),
)
UNLEARNING = Stage(
    name="unlearning",
    run=_unlearning,
    reads=(
        "unlearning_epochs",
        "unlearning_lr",
        "unlearning_batch_size",
        "unlearning_weight_decay",
        "unlearning_clip_norm",
        "momentum",
    ),
    inputs={"weights": "finetuning.weights", "flagged": "abl_isolation.flagged"},
    outputs=("weights", "series"),
    cost=lambda params, _: params.unlearning_epochs * params.share_flagged,
)


class ABL(Defense):
    """Anti-backdoor learning."""

    name = "abl"
    config_type = ABLConfig
    stages = (PRE_ISOLATION, ABL_ISOLATION, FINETUNING, UNLEARNING)
    scores = "abl_isolation.scores"
    flagged = "abl_isolation.flagged"
    weights = "unlearning.weights"
    losses = "pre_isolation.sample_losses"
