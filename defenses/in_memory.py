"""A defense by name on images and labels in memory: for a notebook, without a study.

What it gives is what a study's trial of the same images, model, seed and settings gets, stage for stage: with the
study's own store, what the study has built is not computed again.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from defenses import DEFENSES
from defenses.api import CleanReserve, DefenseResult, Progress, Snapshots, SuspectDataset, silent
from defenses.models import SMALLEST_IMAGE, spec_for_images
from defenses.registry import UserError
from defenses.runner import RunContext, run_defense
from defenses.seeds import derive_seed
from defenses.storage.store import Store, open_store
from defenses.training.precision import PRECISIONS, best_precision

DEVICES = ("auto", "cpu", "cuda")


def run_defense_on(
    defense: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    num_classes: int,
    *,
    model: str = "resnet18",
    width: int = 64,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    seed: int = 0,
    store: Path | str | None = None,
    until: Literal["isolate"] | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress = silent,
    reserve_images: NDArray[np.uint8] | None = None,
    reserve_labels: NDArray[np.integer] | None = None,
    **settings: Any,
) -> DefenseResult:
    """Runs a defense on a training set that may be poisoned.

    Args:
        defense: a key of `defenses.DEFENSES`.
        images: uint8 [N, H, W, 3], square, sides of at least 8 px.
        labels: whole numbers [N], in [0, num_classes), as they were received.
        num_classes: K, at least 2.
        model, width, blocks: see `defenses.models.ModelSpec`; the papers' ResNet-18 by default.
        seed: of all that is random.
        store: a folder that keeps what is built, or a URL of one: another run takes from it what it shares with this
            one. None keeps nothing.
        until: ``"isolate"`` stops once samples are flagged; the result then has no model.
        device: ``auto`` takes a GPU where there is one; or ``cpu``, ``cuda``.
        precision: ``auto`` takes what the device runs faster; or ``bf16``, ``fp32``.
        progress: told after every epoch or round.
        reserve_images, reserve_labels: clean images uint8 [M, H, W, 3], none of them among `images`, and their true
            labels [M], for the defenses that need some: their field ``clean_images`` says how many.
        settings: fields of the defense's Config; the others have the paper's values.

    Returns:
        ``flagged`` bool [N], ``scores`` float64 [N] (both None for a defense that does not flag), ``model`` in eval
        mode, which gives logits [n, K] for uint8 tensors [n, 3, H, W] (some defenses' models have more outputs than K,
        see `Defense.outputs`), and the rest of a `DefenseResult`.

    Raises:
        UserError: an unknown defense, model, device or setting; arrays of another type or shape; a label out of range.
    """
    kind = DEFENSES.find(defense)
    built = kind(kind.config_type.from_mapping(settings))
    if until not in (None, "isolate"):
        raise UserError(f"until must be 'isolate' or None, got {until!r}")
    dataset = _suspect_dataset(images, labels, num_classes)
    spec = spec_for_images(model, width, tuple(blocks), num_classes, dataset.images)
    place, reserve = _device(device), _reserve(reserve_images, reserve_labels, dataset)
    parts = (spec, derive_seed("defense", seed), place, _precision(precision, place), progress, reserve)
    with _kept_in(store) as kept:
        return _independent(run_defense(built, dataset, RunContext(kept, *parts), until))


@contextmanager
def _kept_in(place: Path | str | None) -> Iterator[Store]:
    """The store at a place, or one that is gone after the block."""
    if place is not None:
        yield open_store(place)
        return
    with tempfile.TemporaryDirectory(prefix="defense-") as folder:
        yield Store(Path(folder))


def _suspect_dataset(images: NDArray[np.uint8], labels: NDArray[np.integer], num_classes: int) -> SuspectDataset:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(
            f"images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}: scale floats to 0..255, "
            "repeat a single channel three times, and move channels last"
        )
    if images.shape[1] != images.shape[2] or images.shape[1] < SMALLEST_IMAGE:
        raise UserError(f"images must be square with sides of at least {SMALLEST_IMAGE} px, got {images.shape[1:3]}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise UserError(f"labels must be whole numbers [N], got {labels.dtype} {list(labels.shape)}")
    if len(images) != len(labels):
        raise UserError(f"images and labels must be equally many, got {len(images)} and {len(labels)}")
    if len(labels) == 0:
        raise UserError("there must be images, got none")
    if num_classes < 2 or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"labels must lie in [0, {num_classes}) with at least 2 classes, got {labels.min()} to {labels.max()}"
        )
    return SuspectDataset.of(images, labels.astype(np.int64), num_classes)


def _reserve(
    images: NDArray[np.uint8] | None, labels: NDArray[np.integer] | None, dataset: SuspectDataset
) -> CleanReserve | None:
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        raise UserError("reserve_images and reserve_labels go together: give both, or neither")
    checked = _suspect_dataset(images, labels, dataset.num_classes)
    if checked.images.shape[1:] != dataset.images.shape[1:]:
        raise UserError(
            f"reserve_images must have the size of the images, {list(dataset.images.shape[1:])}, got "
            f"{list(checked.images.shape[1:])}: resize them"
        )
    return CleanReserve.of(checked.images, checked.labels, dataset.num_classes)


def _device(wanted: str) -> torch.device:
    if wanted not in DEVICES:
        raise UserError(f"device must be one of {', '.join(DEVICES)}, got {wanted!r}")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("device 'cuda' needs a GPU that torch can use, and there is none: take 'cpu' or 'auto'")
    return torch.device("cuda" if wanted != "cpu" and available else "cpu")


def _precision(wanted: str, device: torch.device) -> str:
    if wanted not in ("auto", *PRECISIONS):
        raise UserError(f"precision must be one of auto, {', '.join(PRECISIONS)}, got {wanted!r}")
    return best_precision(device) if wanted == "auto" else wanted


def _independent(result: DefenseResult) -> DefenseResult:
    """The result with arrays and snapshots in memory: the store's are read-only maps of files that may be removed."""
    return dataclasses.replace(
        result,
        scores=_copy(result.scores),
        flagged=_copy(result.flagged),
        model=None if result.model is None else result.model.eval(),
        sample_losses=_copy(result.sample_losses),
        flagged_series={name: np.array(steps) for name, steps in result.flagged_series.items()},
        snapshots=None if result.snapshots is None else _loaded(result.snapshots),
    )


def _copy(array: Any) -> Any:
    return None if array is None else np.array(array)


def _loaded(snapshots: Snapshots) -> Snapshots:
    epochs = snapshots.load()
    return dataclasses.replace(snapshots, load=lambda: epochs)
