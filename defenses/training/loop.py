"""The training loop: SGD over shuffled batches of indices. What the loss of a batch is, the caller says."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from defenses.api import StageContext
from defenses.registry import UserError
from defenses.storage.state_codec import TrainingState
from defenses.training.captured_step import TrainingSize, make_steps
from defenses.training.images import crop_padding, device_images, epoch_batches, take, take_augmented
from defenses.training.precision import autocast
from defenses.training.schedule import learning_rate
from defenses.training.step import Batch
from defenses.training.streamed_images import DeviceImages


class TrainingDiverged(UserError):
    """The loss of an epoch was not finite."""


@dataclass(frozen=True)
class Recipe:
    """How to run SGD.

    Attributes:
        epochs: passes over the data, >= 1.
        lr: peak learning rate.
        batch_size: images a step.
        schedule: see `defenses.training.schedule`.
        momentum, weight_decay: of SGD.
        clip_norm: largest norm of a step's gradient; None for no limit.
    """

    epochs: int
    lr: float
    batch_size: int
    schedule: str
    momentum: float
    weight_decay: float
    clip_norm: float | None = None

    @classmethod
    def of(cls, params: object, prefix: str = "", **others: Any) -> "Recipe":
        """The recipe that the fields of a config make.

        Args:
            params: the fields that a stage reads, or a whole config.
            prefix: of the phase: ``pre_`` takes ``pre_epochs`` as the epochs, and ``momentum`` where there is no
                ``pre_momentum``.
            others: values that no field with these names holds.

        Raises:
            AttributeError: a value that the recipe needs is none of the fields.
        """
        declared = vars(params).keys()  # asking for each would count as reading it
        values = dict(others)
        for field in dataclasses.fields(cls):
            for name in (prefix + field.name, field.name):
                if field.name not in values and name in declared:
                    values[field.name] = getattr(params, name)
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in values and f.default is dataclasses.MISSING]
        if missing:
            raise AttributeError(f"a stage that trains must read {prefix}{missing[0]} or {missing[0]}, got {params}")
        return cls(**values)


@dataclass(frozen=True)
class BatchSource:
    """Images on the device, or streamed to it, and how a model is shown some of them."""

    images: DeviceImages  # uint8 [N, H, W, 3]
    precision: str
    generator: torch.Generator
    augment: bool

    @classmethod
    def of(cls, context: StageContext, augment: bool) -> "BatchSource":
        """The images of a stage's dataset, on its device, with its own generator."""
        images = device_images(context.dataset.images, context.device)
        return cls(images, context.precision, context.generator("augment"), augment)

    def logits(self, model: nn.Module, index: Tensor, among: Tensor | None = None) -> Tensor:
        """float32 logits [n, outputs] of the chosen images, augmented when this source does that.

        Args:
            index: int64 [n], as `fit` gives it: images that are streamed are fetched ahead by that.
            among: int64 [m], the positions that the index counts; by default all.
        """
        if self.augment:
            batch = take_augmented(self.images, index, crop_padding(self.images.shape[1]), self.generator, among)
        else:
            batch = take(self.images, index, among)
        with autocast(batch.device, self.precision):
            logits: Tensor = model(batch)
        return logits.float()


def fit(
    context: StageContext,
    model: nn.Module,
    n: int,
    recipe: Recipe,
    batch_loss: Callable[..., Tensor],
    on_epoch: Callable[[int], None] | None = None,
    kept: TrainingState | None = None,
    beside: Iterator[Tensor] | None = None,
) -> list[float]:
    """Trains a model in place.

    The context says how steps are taken (`defenses.training.captured_step`), and notes how they were.

    Args:
        context: gives the order of the batches, and is told of every epoch.
        model: on the context's device.
        n: how many samples an epoch goes through.
        recipe: see `Recipe`.
        batch_loss: indices int64 [b] in [0, n), and what `beside` gives -> a scalar to descend. It may be recorded and
            replayed: what it changes from step to step are tensors, in place, and generators, all of them in `kept`;
            what it changes and would change alike if it were called twice need not be there.
        on_epoch: called after each epoch with its number from 0; the model may be used and is set to train mode again.
        kept: what the loss and `on_epoch` change and read again, generators included. A stage that was killed goes on
            with it as it was.
        beside: gives indices int64 [c] for each step, of whatever the loss takes beside its batch.

    Returns:
        The mean loss of each epoch.

    Raises:
        TrainingDiverged: at the end of the first epoch whose loss is not finite.
    """
    shuffle = context.generator("batches")
    optimiser = torch.optim.SGD(
        model.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    size = TrainingSize(math.ceil(n / recipe.batch_size), recipe.epochs)
    steps = make_steps(context, model, optimiser, batch_loss, size, kept or {}, recipe.clip_norm)
    losses: list[float] = []
    parts = {"model": model, "optimiser": optimiser, "batches": shuffle, "losses": losses, **(kept or {})}
    for epoch in context.checkpoint.epochs(recipe.epochs, parts):
        model.train()
        batches: list[Batch] = [
            (index,) if beside is None else (index, next(beside))
            for index in epoch_batches(n, recipe.batch_size, shuffle, context.device)
        ]
        total = steps.epoch(batches, epoch_rates(recipe, epoch, len(batches)))
        losses.append(float(total) / n)
        context.how["step"] = steps.mode
        if not torch.isfinite(total):
            raise TrainingDiverged(
                f"{context.stage}: the loss must stay finite, got {losses[-1]} in epoch {epoch + 1} of {recipe.epochs} "
                f"at a peak learning rate of {recipe.lr}: lower the rate or use the one_cycle schedule"
            )
        if on_epoch is not None:
            on_epoch(epoch)
        context.progress(context.stage, epoch + 1, recipe.epochs, {"loss": losses[-1]})
    return losses


def epoch_rates(recipe: Recipe, epoch: int, steps: int) -> list[float]:
    """The learning rate of each step of an epoch, which counts from 0."""
    return [learning_rate(recipe.schedule, recipe.lr, (epoch + step / steps) / recipe.epochs) for step in range(steps)]


@contextmanager
def frozen_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block, BatchNorm layers use their running statistics and do not update them."""
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
