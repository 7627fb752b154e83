"""One epoch of MixMatch (Berthelot et al., NeurIPS 2019) as DBD and ASD train with it: some samples keep their labels.

Public code consulted: SCLBD/DBD and KuofengGao/ASD, whose epochs are the same. An unlabelled sample is given the mean
of what the model says of two views of it, sharpened; labelled and unlabelled samples are then mixed with one another.
There is no moving average of the weights, which both have commented out. Where we differ:

- A labelled pool that is smaller than a batch is drawn from with replacement. Their loader, which drops what does not
  fill a batch, would give none.
- Each epoch draws from generators of its own, so that one that was interrupted is simply run again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import StageContext
from defenses.training.captured_step import FIRST_STEPS, TrainingSize, make_steps
from defenses.training.images import crop_padding, device_images, to_device
from defenses.training.loop import TrainingDiverged
from defenses.training.precision import autocast
from defenses.training.streamed_images import DeviceImages, StreamedImages

WEAK_VIEWS = ("flip_crop", "crop", "plain")
PASSES = 3 + 2 / 3
"""Of an image of a batch, in passes forward and backward: one labelled and two unlabelled views, and two guesses."""


@dataclass(frozen=True)
class MixMatch:
    """How the epochs go.

    Attributes:
        iterations: steps an epoch.
        batch_size: labelled images a step, and unlabelled ones, of which there are two views each.
        temperature: guesses are sharpened by the power of its inverse.
        mixup_alpha: both parameters of the Beta distribution that shares of a mix are drawn from.
        lambda_u: weight of the unlabelled loss at the end of the ramp.
        ramp_epochs: epochs in which it rises from 0, linearly; 0 for none.
        weak_views: one of `WEAK_VIEWS`.
    """

    iterations: int
    batch_size: int
    temperature: float
    mixup_alpha: float
    lambda_u: float
    ramp_epochs: float
    weak_views: str

    def unlabelled_weight(self, clock: float) -> float:
        """The weight of the unlabelled loss after so many epochs, parts of one included."""
        return self.lambda_u * (min(clock / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0)


@dataclass(frozen=True)
class Samples:
    """Suspect samples, and behind them the clean images that a stage was handed, under one numbering.

    Attributes:
        images: uint8 [N, H, W, 3], the suspect ones.
        labels: int64 [N + M].
        clean: uint8 [M, H, W, 3]; None where there are none.
    """

    images: DeviceImages
    labels: Tensor
    clean: Tensor | None = None

    @classmethod
    def of(cls, context: StageContext) -> "Samples":
        """All that a stage was handed, on its device."""
        beside = None if context.clean is None else context.clean.images
        images = device_images(context.dataset.images, context.device, beside)
        labels = to_device(context.dataset.labels, context.device)
        if context.clean is None:
            return cls(images, labels)
        more = to_device(context.clean.labels, context.device)
        return cls(images, torch.cat([labels, more]), to_device(context.clean.images, context.device))

    def take(self, index: Tensor) -> Tensor:
        """The chosen images uint8 [n, H, W, 3] of positions int64 [n] in [0, N + M)."""
        if isinstance(self.images, StreamedImages):  # which have the clean ones behind their own
            return self.images.select(index)
        suspects = len(self.images)
        if self.clean is None:
            return self.images.index_select(0, index)
        # From both: a choice by position would wait for the device, and one tensor of both would be a copy of all.
        chosen = self.images.index_select(0, index.clamp(max=suspects - 1))
        beside = self.clean.index_select(0, (index - suspects).clamp(min=0))
        return torch.where((index >= suspects).view(-1, 1, 1, 1), beside, chosen)


def weak_view(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """A view of each image that shows the same: flipped with probability 1/2, and cropped after reflecting its edges.

    Args:
        images: uint8 [n, H, W, 3].
        kind: one of `WEAK_VIEWS`; ``crop`` does not flip, ``plain`` does neither.
        generator: on the device of the images.

    Returns:
        uint8 [n, 3, H, W].
    """
    if kind == "plain":
        return images.permute(0, 3, 1, 2)
    n, height, width, _ = images.shape
    device, padding = images.device, crop_padding(height)
    offsets = torch.randint(-padding, padding + 1, (2, n, 1), generator=generator, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    if kind == "flip_crop":
        flip = torch.randint(0, 2, (n, 1), generator=generator, device=device).bool()
        columns = torch.where(flip, width - 1 - columns, columns)
    rows = _reflected(offsets[0] + torch.arange(height, device=device), height)
    sample = torch.arange(n, device=device).view(n, 1, 1)
    return images[sample, rows.unsqueeze(2), _reflected(offsets[1] + columns, width).unsqueeze(1)].permute(0, 3, 1, 2)


def _reflected(positions: Tensor, size: int) -> Tensor:
    return size - 1 - (size - 1 - positions.abs()).abs()


def pool_batches(pool: Tensor, batch_size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of one size from a pool: pass after pass in random order, or with replacement where it is smaller.

    Args:
        pool: int64 [n], n >= 1.
        count: how many batches.
        generator: on the device of the pool.

    Yields:
        int64 [batch_size]; what does not fill a batch at the end of a pass is left out of it.
    """
    each_pass = len(pool) // batch_size
    order = pool
    for number in range(count):
        if each_pass == 0:
            yield pool[torch.randint(len(pool), (batch_size,), generator=generator, device=pool.device)]
            continue
        place = number % each_pass
        if place == 0:
            order = pool[torch.randperm(len(pool), generator=generator, device=pool.device)]
        yield order[place * batch_size : (place + 1) * batch_size]


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities float [n, K] with rows that sum to 1: p to the power of 1 / temperature, made to sum to 1 again."""
    powers = probabilities.pow(1 / temperature)
    return powers / powers.sum(dim=1, keepdim=True)


def interleave(chunks: list[Tensor]) -> list[Tensor]:
    """Swaps the i-th part of the first chunk with that of the i-th, so that BatchNorm sees labelled samples in each.

    Done twice it changes nothing.

    Args:
        chunks: float [n, ...] each, of one shape.
    """
    n, parts = len(chunks[0]), len(chunks)
    edges = [n * part // parts for part in range(parts + 1)]
    swapped = [chunk.clone() for chunk in chunks]
    for part in range(1, parts):
        own = slice(edges[part], edges[part + 1])
        swapped[0][own], swapped[part][own] = chunks[part][own], chunks[0][own]
    return swapped


def mixmatch_losses(
    predict: Callable[[Tensor], Tensor],
    labelled: tuple[Tensor, Tensor],
    views: tuple[Tensor, Tensor],
    shares: tuple[Tensor, Tensor],
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The two losses of a step: cross-entropy with mixed labels, and the squared error of mixed guesses.

    Args:
        predict: images [b, 3, H, W] -> float32 logits [b, K].
        labelled: images uint8 [b, 3, H, W], and labels as probabilities, float32 [b, K].
        views: of the unlabelled images, both uint8 [b, 3, H, W].
        shares: of each sample and of its partner in a mix, float32 scalars; the first is in [0.5, 1].
        temperature: guesses are sharpened by the power of its inverse.
    """
    images, targets = labelled
    with torch.no_grad():
        mean = (functional.softmax(predict(views[0]), dim=1) + functional.softmax(predict(views[1]), dim=1)) / 2
        guess = sharpen(mean, temperature)
    everything = torch.cat([images, *views]).float()
    answers = torch.cat([targets, guess, guess])
    partner = torch.randperm(len(everything), generator=generator, device=everything.device)
    own, others = shares
    mixed = own * everything + others * everything[partner]
    wanted = own * answers + others * answers[partner]
    logits = interleave([predict(chunk) for chunk in interleave(list(mixed.chunk(3)))])
    on_labels = functional.cross_entropy(logits[0], wanted[: len(images)])
    on_guesses = (functional.softmax(torch.cat(logits[1:]), dim=1) - wanted[len(images) :]).square().mean()
    return on_labels, on_guesses


class MixMatchTraining:
    """Epochs of MixMatch, in place; no label of an unlabelled sample is read.

    Args:
        context: a stage's; it says how steps are taken, and notes how they were.
        model: on the context's device; it has as many outputs as there are classes.
        epochs: how many there will be, for the choice of how to take steps.
    """

    def __init__(
        self,
        context: StageContext,
        model: nn.Module,
        optimiser: torch.optim.Adam,
        samples: Samples,
        how: MixMatch,
        epochs: int,
    ) -> None:
        self._context, self._model, self._samples, self._how = context, model, samples, how
        self._generator = torch.Generator(context.device)
        self._totals = torch.zeros(2, device=context.device)
        self._lr = float(optimiser.param_groups[0]["lr"])
        changed = {"totals": self._totals, "generator": self._generator}
        size = TrainingSize(how.iterations, epochs)
        self._steps = make_steps(context, model, optimiser, self._loss, size, changed)

    def epoch(self, labelled: Tensor, unlabelled: Tensor, epoch: int) -> tuple[float, float]:
        """One epoch.

        Args:
            labelled, unlabelled: int64 [n], positions among the samples; neither is empty.
            epoch: counted over all phases of the training: the clock of the ramp, and the role of the generators.

        Returns:
            Means of the labelled loss and of the unlabelled one without its weight.

        Raises:
            TrainingDiverged: one of them is not finite.
        """
        context, how = self._context, self._how
        self._generator.set_state(context.generator("mixmatch", epoch).get_state())
        # Torch draws no Beta from a generator of ours.
        drawn = np.random.default_rng(context.derive("mixup", epoch)).beta(
            how.mixup_alpha, how.mixup_alpha, how.iterations
        )
        own = np.maximum(drawn, 1 - drawn)
        weights = [how.unlabelled_weight(epoch + step / how.iterations) for step in range(how.iterations)]
        numbers = torch.tensor(np.stack([own, 1 - own, weights], axis=1), dtype=torch.float32, device=context.device)
        known = pool_batches(labelled, how.batch_size, how.iterations, self._generator)
        guessed = pool_batches(unlabelled, how.batch_size, how.iterations, self._generator)
        self._totals.zero_()
        self._model.train()
        for step, (first, second) in enumerate(zip(known, guessed, strict=True)):
            batch = (first, second, numbers[step])
            if step == 0:
                # Later batches are drawn from the generator when their turn comes.
                self._steps.prepare([batch] * FIRST_STEPS, [self._lr] * FIRST_STEPS)
            self._steps.step(batch, self._lr)
        context.how["step"] = self._steps.mode
        means = (self._totals / how.iterations).tolist()
        if not np.isfinite(means).all():
            raise TrainingDiverged(
                f"{context.stage}: the loss must stay finite, got {means[0]} on labels and {means[1]} on guesses in "
                f"epoch {epoch + 1}: lower lr or lambda_u"
            )
        return means[0], means[1]

    def _predict(self, images: Tensor) -> Tensor:
        with autocast(self._context.device, self._context.precision):
            logits: Tensor = self._model(images)
        return logits.float()

    def _loss(self, first: Tensor, second: Tensor, numbers: Tensor) -> Tensor:
        """Of int64 [b] labelled and [b] unlabelled positions, and both shares of a mix and the weight, float32 [3]."""
        samples, kind, generator = self._samples, self._how.weak_views, self._generator
        classes = torch.arange(self._context.dataset.num_classes, device=first.device)
        targets = (samples.labels[first].unsqueeze(1) == classes).float()
        images = weak_view(samples.take(first), kind, generator)
        hidden = samples.take(second)
        views = weak_view(hidden, kind, generator), weak_view(hidden, kind, generator)
        on_labels, on_guesses = mixmatch_losses(
            self._predict, (images, targets), views, (numbers[0], numbers[1]), self._how.temperature, generator
        )
        self._totals += torch.stack([on_labels.detach(), on_guesses.detach()])
        return on_labels + numbers[2] * on_guesses
