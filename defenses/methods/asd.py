"""ASD: adaptively splitting the poisoned set (Gao et al., CVPR 2023).

A network is trained by MixMatch on a labelled pool that grows from a few clean images. First the samples of each class
with the lowest loss join them, then the half of all with the lowest loss is labelled. Last comes the split that finds
hard clean samples: a copy of the network is trained for an epoch with all labels, and what it learns easily although
its loss was high is poison.

Public code consulted: KuofengGao/ASD, whose settings are the defaults. Where we differ:

- Its clean images are drawn from the training set with the true poison flag, and anew (with the growth) when it
  resumes. Ours come from the declared reserve, beside the suspect set, and are drawn once. `keep_clean` says whether
  they stay in the pool once samples are no longer taken class by class; in the code they may drop out.
- Samples are split without augmentation, where its loader crops and flips them at random.
- The model is that of the last epoch, where it keeps the best by test accuracy.
- With less than the full budget the pool goes through the same sizes at the same shares of the training: the growth's
  period is scaled with the epochs, and not rounded.

The score is the drop of the loss in the last split. Flags are the unlabelled pool, which is the same share of any data:
with the default, half of a clean set is flagged, and at a poison rate of 5 % the FPR cannot be below 0.474. Compare by
AUROC.

Known failure: where the copy's epoch is too short to learn the backdoor, as on few images, poison's loss does not drop,
and the score says nothing although the loss itself does; `meta_epochs` lengthens it.

No phase is read before its end: each starts from the last epoch of the one before, scores and model are those of the
last phase, and the clock of the unlabelled loss counts the epochs of all. An earlier read would be another number of
epochs of a phase, with all that follows trained anew.

Stages: `asd_class_aware`, `asd_class_agnostic`, `asd_meta_split` (up to the last split), `asd_last_epoch`.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from defenses.api import Defense, Outputs, Params, Stage, StageContext
from defenses.budget import scaled_epochs
from defenses.config import param
from defenses.cost import FORWARD
from defenses.methods.semi_supervised import (
    OUTPUTS,
    SCE,
    TRAINING,
    Mask,
    Pools,
    Scores,
    SemiSupervisedConfig,
    Trainee,
    check_size,
    epoch_cost,
    lowest_share,
)
from defenses.models import Normalised
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights, lowest_mask
from defenses.training.images import epoch_batches
from defenses.training.mixmatch import weak_view
from defenses.training.precision import autocast


@dataclass(frozen=True)
class ASDConfig(SemiSupervisedConfig):
    """ASD's hyperparameters; defaults are those of the authors' code."""

    clean_images: int = param(100, "clean images that the labelled pool starts from, 10 of each class (code)", low=1)
    ramp_epochs: int = param(120, "epochs in which the weight of the unlabelled loss rises from 0 (code)", low=0)
    class_aware_epochs: int = param(60, "epochs in which the pool grows class by class (code)", low=1)
    class_agnostic_epochs: int = param(30, "epochs with the lowest losses of all, after them (code)", low=0)
    meta_split_epochs: int = param(30, "epochs with the split by the drop of the loss, the last ones (code)", low=1)
    growth: float | int = param(
        10,
        "samples of each class that join the pool every period (code): a count, or a share of the smallest class",
        low=1e-6,
        symbol="n",
        share_or_count=True,
    )
    growth_period: int = param(5, "epochs of a period (code)", low=1, symbol="t")
    keep_clean: bool = param(True, "clean images stay labelled after the class-aware epochs (in the code most do)")
    meta_epochs: int = param(1, "epochs of the copy, with all labels (code)", low=1)
    meta_lr: float = param(0.015, "its learning rate, of Adam (code)", low=1e-6, high=1.0)
    meta_batch_size: int = param(128, "its images a step (code)", low=2)
    meta_layers: int = param(2, "last groups of blocks of it that are trained, with the linear layer (code)", low=0)


def grown(epoch: int, growth: int, period: float) -> int:
    """How many samples of each class are in the pool in an epoch of the first phase, clean images apart."""
    return growth * int(epoch / period + 1e-9)


def lowest_of_each_class(losses: Scores, labels: np.ndarray, num_classes: int, count: int) -> Mask:
    """The samples of each class with the lowest losses.

    Args:
        losses: float64 [N].
        labels: int64 [N].
        count: of each class; all of a class that has no more.

    Returns:
        bool [N].
    """
    chosen = np.zeros(len(losses), dtype=bool)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        chosen[members[lowest_mask(losses[members], count)]] = True
    return chosen


def _growth(context: StageContext, params: Params, epochs: int) -> tuple[int, float]:
    """Samples that join the pool of each class, and after how many epochs; refuses what some class does not have."""
    sizes = np.bincount(context.dataset.labels, minlength=context.dataset.num_classes)
    smallest = int(sizes.min())
    growth = max(1, round(params.growth * smallest)) if isinstance(params.growth, float) else params.growth
    period = params.growth_period * params.budget_fraction
    most = grown(epochs - 1, growth, period)
    if smallest == 0:
        raise UserError(
            f"ASD takes samples of each class into its pool, and class {int(sizes.argmin())} has none: give it some, "
            "or number the classes without it",
            about="the dataset",
        )
    if smallest < most or int(np.minimum(sizes, most).sum()) == len(context.dataset):
        what = "that is all there are" if smallest >= most else f"class {int(sizes.argmin())} has {smallest}"
        share = "" if isinstance(params.growth, float) else "give growth as a share (0.02), or "
        raise UserError(
            f"ASD takes {most} samples of each class into its pool by the end of the class-aware epochs, and {what}: "
            f"{share}raise growth_period, or take fewer class_aware_epochs",
            about="field growth",
        )
    return growth, period


def _check_clean(context: StageContext, count: int) -> None:
    there = np.zeros(0, dtype=np.int64) if context.clean is None else context.clean.labels
    missing = np.flatnonzero(np.bincount(there, minlength=context.dataset.num_classes) == 0)
    if len(missing):
        raise UserError(
            f"ASD starts from a clean image of each of {context.dataset.num_classes} classes, and {count} have "
            f"none of class {missing[0]}: raise clean_images",
            about="field clean_images",
        )


def _epochs(params: Params) -> list[int]:
    """Of the phases, as the budget has them."""
    names = ("class_aware_epochs", "class_agnostic_epochs", "meta_split_epochs")
    declared = vars(params)
    return [scaled_epochs(getattr(params, name), params.budget_fraction) for name in names if name in declared]


def _class_aware(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    check_size(context, "ASD")
    clean = params.clean_images
    _check_clean(context, clean)
    (epochs,) = _epochs(params)
    growth, period = _growth(context, params, epochs)
    trainee = Trainee(context, params, inputs)

    def choose(epoch: int) -> Pools:
        count = grown(epoch, growth, period)
        labels, classes = context.dataset.labels, context.dataset.num_classes
        return Pools(lowest_of_each_class(trainee.losses(), labels, classes, count), clean)

    trainee.train(0, epochs, choose)
    return trainee.outputs()


def _clean_kept(params: Params) -> int:
    """How many clean images are in the pool after the class-aware epochs."""
    clean, keep = params.clean_images, params.keep_clean
    return int(clean if keep else 0)


def _class_agnostic(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    aware, epochs = _epochs(params)
    # Read also where there is no such epoch: a field that is read is one that the stage's key holds.
    share, clean = params.labelled_share, _clean_kept(params)
    trainee = Trainee(context, params, inputs)
    trainee.train(aware, epochs, lambda _: Pools(lowest_share(trainee.losses(), share), clean))
    return trainee.outputs()


def learned_layers(model: Normalised, groups: int) -> set[str]:
    """Names of the parameters of the last groups of blocks and of all that follows them."""
    stages = model.network.stages
    after = [f"layer{number}" for number in range(max(1, stages - groups + 1), stages + 1)] + ["bn_last", "linear"]
    prefixes = tuple(f"network.{name}." for name in after)
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def virtual_copy(trainee: Trainee, epoch: int) -> nn.Module:
    """A copy of the network that has been trained with all labels, as the split has it."""
    context, params = trainee.drawn_from, trainee.params
    model = copy.deepcopy(trainee.model).train()
    learned = learned_layers(model, params.meta_layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learned)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], params.meta_lr)
    generator = context.generator("meta", epoch)
    suspects = len(context.dataset)
    for _ in range(scaled_epochs(params.meta_epochs, params.budget_fraction)):
        for index in epoch_batches(suspects, params.meta_batch_size, generator, context.device):
            images = weak_view(trainee.samples.take(index), params.weak_views, generator)
            with autocast(context.device, context.precision):
                logits = model(images)
            loss = functional.cross_entropy(logits.float(), trainee.samples.labels[index])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
    return model


def _meta_split(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    aware, agnostic, epochs = _epochs(params)
    trainee = Trainee(context, params, inputs)

    def drops(epoch: int) -> Scores:
        """How much less each sample's loss is after the copy has learned all labels, float64 [N]."""
        return trainee.losses() - trainee.losses(virtual_copy(trainee, epoch))

    first, share, clean = aware + agnostic, params.labelled_share, _clean_kept(params)
    trainee.train(first, epochs - 1, lambda epoch: Pools(lowest_share(drops(epoch), share), clean))
    scores = drops(first + epochs - 1)
    flagged = ~lowest_share(scores, share)
    return {**trainee.outputs([flagged]), "scores": scores, "flagged": flagged}


def _last_epoch(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
    last = sum(_epochs(params)) - 1
    trainee = Trainee(context, params, inputs)
    trainee.train(last, 1, lambda _: Pools(~inputs["flagged"], _clean_kept(params)))
    return {"weights": cpu_weights(trainee.model), "series": trainee.series}


def _after(stage: str) -> dict[str, str]:
    return {"weights": f"{stage}.weights", "optimiser": f"{stage}.optimiser"}


def _meta_cost(params: Params, n: int) -> float:
    epochs = _epochs(params)[-1]
    virtual = scaled_epochs(params.meta_epochs, params.budget_fraction) + FORWARD
    return (epochs - 1) * epoch_cost(params, n) + epochs * virtual + FORWARD


CLASS_AWARE = Stage(
    name="asd_class_aware",
    run=_class_aware,
    reads=(*TRAINING, *SCE, "clean_images", "class_aware_epochs", "growth", "growth_period"),
    outputs=OUTPUTS,
    clean_images="clean_images",
    cost=lambda params, n: _epochs(params)[-1] * epoch_cost(params, n),
)
CLASS_AGNOSTIC = Stage(
    name="asd_class_agnostic",
    run=_class_agnostic,
    reads=(
        *TRAINING,
        *SCE,
        "clean_images",
        "class_aware_epochs",
        "class_agnostic_epochs",
        "labelled_share",
        "keep_clean",
    ),
    inputs=_after("asd_class_aware"),
    outputs=OUTPUTS,
    clean_images="clean_images",
    cost=lambda params, n: _epochs(params)[-1] * epoch_cost(params, n),
)
META_SPLIT = Stage(
    name="asd_meta_split",
    run=_meta_split,
    reads=(
        *CLASS_AGNOSTIC.reads,
        "meta_split_epochs",
        "meta_epochs",
        "meta_lr",
        "meta_batch_size",
        "meta_layers",
    ),
    inputs=_after("asd_class_agnostic"),
    outputs=(*OUTPUTS, "scores", "flagged"),
    clean_images="clean_images",
    cost=_meta_cost,
)
LAST_EPOCH = Stage(
    name="asd_last_epoch",
    run=_last_epoch,
    reads=(
        *TRAINING,
        "clean_images",
        "class_aware_epochs",
        "class_agnostic_epochs",
        "meta_split_epochs",
        "keep_clean",
    ),
    inputs={**_after("asd_meta_split"), "flagged": "asd_meta_split.flagged"},
    outputs=("weights", "series"),
    clean_images="clean_images",
    cost=lambda params, n: epoch_cost(params, n) - FORWARD,
)


class ASD(Defense):
    """Adaptive splitting of the poisoned set."""

    name = "asd"
    config_type = ASDConfig
    stages = (CLASS_AWARE, CLASS_AGNOSTIC, META_SPLIT, LAST_EPOCH)
    scores = "asd_meta_split.scores"
    flagged = "asd_meta_split.flagged"
    weights = "asd_last_epoch.weights"
