"""DBD: decoupling the training process (Huang et al., ICLR 2022).

Features are learned without labels, so that poison stays near the class that it shows. A linear layer is then trained
on them with a loss that no wrong label dominates; samples with a high loss lose their label, and the whole network is
trained on with those and the labelled rest (MixMatch), where the split is drawn anew before each epoch.

Public code consulted: SCLBD/DBD, whose settings are the defaults, and its copy in BackdoorBench. Where we differ:

- While the linear layer is trained, BatchNorm keeps its statistics; in the code they drift, since only gradients are
  turned off (and its `require_grad` is a misspelt name that freezes nothing). `warm_up_statistics` chooses.
- Samples are split without augmentation, where its loader crops and flips them at random.
- The model is that of the last epoch, where it keeps the best by test accuracy.
- The temperature of contrastive learning is a field that acts, as BackdoorBench's does not.
- `scored_split` says which split scores and flags: the first, after the warm-up, or the last. By the last the network
  has been trained with labels that poison may have kept.

Flags are the unlabelled pool, which is the same share of any data: with the default, half of a clean set is flagged,
and at a poison rate of 5 % the FPR cannot be below 0.474. Compare by AUROC.

Known failure: the linear layer sees all labels, poisoned ones too, and triggers that contrastive learning keeps apart
from the classes (blends that a crop does not remove) are learned by it: they then have the lowest loss of all.

Contrastive learning may be read before its last epoch (`contrastive_read_epoch`), and trials share one training. What
follows may not: it starts from what was read, and the model is that of the last epoch; a phase that ended earlier would
be another number of its epochs, with all that follows trained anew.

Stages: `contrastive_pretraining`, `dbd_warm_up`, `dbd_split`, `dbd_semi_supervised`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.budget import scaled_epochs
from defenses.config import param
from defenses.contrastive_stage import CONTRASTIVE_PRETRAINING, ContrastiveConfig
from defenses.cost import FORWARD
from defenses.methods.semi_supervised import (
    OUTPUTS,
    SCE,
    TRAINING,
    Pools,
    SemiSupervisedConfig,
    Trainee,
    check_size,
    epoch_cost,
    lowest_share,
    moments,
)
from defenses.models import Normalised, load_model
from defenses.models.taps import record_features
from defenses.shared_stages import cpu_weights
from defenses.storage.state_codec import TrainingState
from defenses.training.images import epoch_batches
from defenses.training.inference import chunks
from defenses.training.losses import symmetric_cross_entropy
from defenses.training.mixmatch import Samples, weak_view
from defenses.training.precision import autocast


@dataclass(frozen=True)
class DBDConfig(SemiSupervisedConfig, ContrastiveConfig):
    """DBD's hyperparameters; defaults are those of the authors' code for CIFAR-10."""

    warm_up_epochs: int = param(10, "epochs of the linear layer on features at rest (code)", low=1)
    warm_up_batch_size: int = param(128, "their images a step (code)", low=2)
    warm_up_statistics: str = param(
        "kept", "of BatchNorm in these epochs: kept, or moved by each batch (code)", choices=("kept", "moved")
    )
    semi_epochs: int = param(190, "semi-supervised epochs (code)", low=1)
    scored_split: str = param(
        "first", "which split scores and flags: after the warm-up, or before the last epoch", choices=("first", "last")
    )


def _at_rest(params: Params) -> bool:
    """Whether an image's features are the same in every epoch of the warm-up: they are then read once."""
    return bool(params.weak_views == "plain" and params.warm_up_statistics == "kept")


@torch.no_grad()
def _read_features(context: StageContext, model: Normalised, images: Tensor) -> Tensor:
    """What the last layer is given for images uint8 [n, 3, H, W]: float32 [n, D]."""
    with record_features(model) as features, autocast(context.device, context.precision):
        model(images)
    return features.pop()


def _warm_up(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    check_size(context, "DBD")
    model = load_model(context.model, inputs["weights"]).to(context.device)
    optimiser = torch.optim.Adam(model.parameters(), params.lr)  # of all, which it goes on with
    samples, generator = Samples.of(context), context.generator("warm_up")
    losses: list[float] = []
    n, epochs = len(context.dataset), scaled_epochs(params.warm_up_epochs, params.budget_fraction)
    parts: TrainingState = {"model": model, "optimiser": optimiser, "generator": generator, "losses": losses}
    kept: Tensor | None = None
    if _at_rest(params):
        kept = torch.cat([_read_features(context, model.eval(), images) for images in chunks(samples.images)])
    for epoch in context.checkpoint.epochs(epochs, parts):
        model.train(params.warm_up_statistics == "moved")
        total = torch.zeros((), device=context.device)
        for index in epoch_batches(n, params.warm_up_batch_size, generator, context.device):
            if kept is None:
                features = _read_features(context, model, weak_view(samples.take(index), params.weak_views, generator))
            else:
                features = kept[index]
            logits = model.network.linear(features)
            loss = symmetric_cross_entropy(logits, samples.labels[index], params.ce_weight, params.rce_weight).mean()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            total += loss.detach() * len(index)
        losses.append(float(total) / n)
        context.progress(context.stage, epoch + 1, epochs, {"loss": losses[-1]})
    return {"weights": cpu_weights(model), "optimiser": moments(optimiser), "series": {"loss": losses}}


def _clock(params: Params) -> tuple[int, int, int]:
    """Epochs of the warm-up, semi-supervised epochs before the split that flags, and all of these."""
    warm_up, epochs = (
        scaled_epochs(count, params.budget_fraction) for count in (params.warm_up_epochs, params.semi_epochs)
    )
    return warm_up, epochs - 1 if params.scored_split == "last" else 0, epochs


def _choose(trainee: Trainee, share: float) -> Pools:
    return Pools(lowest_share(trainee.losses(), share))


def _split(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    trainee = Trainee(context, params, inputs)
    warm_up, before, _ = _clock(params)
    trainee.train(warm_up, before, lambda _: _choose(trainee, params.labelled_share))
    scores = trainee.losses()
    flagged = ~lowest_share(scores, params.labelled_share)
    return {**trainee.outputs([flagged]), "scores": scores, "flagged": flagged}


def _semi_supervised(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    trainee = Trainee(context, params, inputs)
    warm_up, before, epochs = _clock(params)
    first, share = warm_up + before, params.labelled_share

    def choose(epoch: int) -> Pools:
        """The first of these epochs is trained on the split that flagged."""
        return Pools(~inputs["flagged"]) if epoch == first else _choose(trainee, share)

    trainee.train(first, epochs - before, choose)
    outputs = trainee.outputs()
    return {name: outputs[name] for name in SEMI_SUPERVISED.outputs}


_PHASES = ("warm_up_epochs", "semi_epochs", "scored_split")
WARM_UP = Stage(
    name="dbd_warm_up",
    run=_warm_up,
    reads=("lr", "weak_views", *SCE, "warm_up_epochs", "warm_up_batch_size", "warm_up_statistics", "budget_fraction"),
    inputs={"weights": "contrastive_pretraining.weights"},
    outputs=("weights", "optimiser", "series"),
    cost=lambda params, n: (
        FORWARD * (1 if _at_rest(params) else scaled_epochs(params.warm_up_epochs, params.budget_fraction))
    ),
)
SPLIT = Stage(
    name="dbd_split",
    run=_split,
    reads=(*TRAINING, *SCE, "labelled_share", *_PHASES),
    inputs={"weights": "dbd_warm_up.weights", "optimiser": "dbd_warm_up.optimiser"},
    outputs=(*OUTPUTS, "scores", "flagged"),
    cost=lambda params, n: _clock(params)[1] * epoch_cost(params, n) + FORWARD,
)
SEMI_SUPERVISED = Stage(
    name="dbd_semi_supervised",
    run=_semi_supervised,
    reads=(*TRAINING, *SCE, "labelled_share", *_PHASES),
    inputs={"weights": "dbd_split.weights", "optimiser": "dbd_split.optimiser", "flagged": "dbd_split.flagged"},
    outputs=("weights", "flagged_series", "series"),
    cost=lambda params, n: (_clock(params)[2] - _clock(params)[1]) * epoch_cost(params, n) - FORWARD,
)


class DBD(Defense):
    """Decoupling-based backdoor defense."""

    name = "dbd"
    config_type = DBDConfig
    stages = (CONTRASTIVE_PRETRAINING, WARM_UP, SPLIT, SEMI_SUPERVISED)
    scores = "dbd_split.scores"
    flagged = "dbd_split.flagged"
    weights = "dbd_semi_supervised.weights"
