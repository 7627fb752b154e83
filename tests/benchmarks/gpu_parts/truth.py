"""What only the ground truth tells of a stage as it runs: where the poison is, epoch by epoch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.storage.checkpoint import Checkpoint
from defenses.storage.state_codec import TrainingState
from defenses.storage.store import Store
from defenses.training.images import to_device
from defenses.training.inference import sample_losses
from study.scenarios import metrics
from study.scenarios.poison import PoisonedDataset

LOWEST = 0.01
"""Share of all samples that PIPD takes for poison, those of the lowest loss (P_p), with the paper's values."""


class Watch:
    """Looks at a network after each of its epochs. It draws nothing, and leaves the network as it is.

    Attributes:
        stages: those whose networks are looked at; it takes a pass over all images an epoch.
        series: values by name, an epoch each.
    """

    def __init__(self, poisoned: PoisonedDataset, device: torch.device, precision: str, *stages: str) -> None:
        self.stages, self.series = stages, dict[str, list[float]]()
        self._poisoned, self._device, self._precision = poisoned, device, precision

    def look(self, model: torch.nn.Module) -> None:
        """Notes how many of the samples with the lowest loss are poisoned, and how well the loss tells poison."""
        suspect, poison = self._poisoned.suspect, self._poisoned.poison_mask
        training = model.training
        images, labels = to_device(suspect.images, self._device), to_device(suspect.labels, self._device)
        losses = sample_losses(model, images, labels, self._precision)
        model.train(training)
        lowest = np.argsort(losses, kind="stable")[: max(1, round(LOWEST * len(losses)))]
        self._note("poison_in_P_p", float(poison[lowest].mean()))
        self._note("auroc_of_loss", metrics.auroc(-losses, poison))
        self._note("loss_of_poison", float(losses[poison].mean()))
        self._note("loss_of_clean", float(losses[~poison].mean()))

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self.series.setdefault(name, []).append(value)


class WatchedCheckpoint(Checkpoint):
    """A checkpoint that shows a `Watch` the network at the end of each epoch."""

    watch: Watch

    def epochs(self, count: int, parts: TrainingState) -> Iterator[int]:
        """See `Checkpoint.epochs`."""
        for epoch in super().epochs(count, parts):
            yield epoch
            if isinstance(model := parts.get("model"), torch.nn.Module):
                self.watch.look(model)


class WatchedStore(Store):
    """A store that shows a `Watch` the networks that are trained for it."""

    def __init__(self, root: Path, watch: Watch) -> None:
        super().__init__(root)
        self._watch = watch

    def checkpoint(self, stage: str, key: str) -> Checkpoint:
        """See `Store.checkpoint`."""
        if stage not in self._watch.stages:
            return super().checkpoint(stage, key)
        made = WatchedCheckpoint(self.folder(stage, key), self.checkpoint_seconds)
        made.watch = self._watch
        self._checkpoints[stage, key] = made
        return made


def flag_series(steps: NDArray[np.bool_], poisoned: PoisonedDataset) -> dict[str, list[float]]:
    """Of flags bool [steps, N] the shares of poison, of clean samples and of the fullest class that are flagged."""
    poison, labels = poisoned.poison_mask, poisoned.suspect.labels
    classes = [labels == label for label in range(poisoned.suspect.num_classes) if (labels == label).any()]
    by_class = [[float(step[members].mean()) for members in classes] for step in steps]
    return {
        "share_of_poison": [float(step[poison].mean()) for step in steps],
        "share_of_clean": [float(step[~poison].mean()) for step in steps],
        "fullest_class": [float(np.argmax(shares)) for shares in by_class],
        "share_of_fullest_class": [max(shares) for shares in by_class],
    }


def flag_metrics(outputs: dict[str, Any], poisoned: PoisonedDataset) -> dict[str, float | None]:
    """TPR, FPR and AUROC of what a stage flags and scores."""
    flagged, poison = np.asarray(outputs["flagged"]), poisoned.poison_mask
    scores = outputs.get("scores")
    return {
        "tpr": metrics.tpr(flagged, poison),
        "fpr": metrics.fpr(flagged, poison),
        "auroc": None if scores is None else metrics.auroc(np.asarray(scores, dtype=np.float64), poison),
    }
