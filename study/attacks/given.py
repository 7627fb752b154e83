"""Data that somebody else has poisoned: any defense runs on them, and is judged as far as the file allows."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.config import param
from defenses.registry import UserError
from study.attacks.api import Attack, AttackConfig, Labels, Pixels
from study.datasets.images import Images
from study.datasets.npz import read_arrays, read_images, read_labels

_REQUIRED = ("train_images", "train_labels")
_TRIGGERED = ("test_triggered_images", "test_triggered_labels", "test_triggered_original_labels")
_OPTIONAL = ("poison_mask", "cover_mask", "original_labels", *_TRIGGERED)


@dataclass(frozen=True)
class GivenConfig(AttackConfig):
    """Which file."""

    file: str = param("", "npz file with the poisoned training set; by default the one that --dataset npz:FILE names")


@dataclass(frozen=True)
class Received:
    """What a file holds.

    Attributes:
        images: uint8 [N, H, W, 3].
        labels, original_labels: int64 [N]; the same where the file does not tell the originals.
        poison_mask, cover_mask: bool [N], or None where nobody marked them.
        triggered_images, triggered_labels: uint8 [M, H, W, 3] and int64 [M]; M = 0 where there are none. Those that
            have the attacker's label anyway are left out, where the file tells their own labels.
    """

    images: Pixels
    labels: Labels
    original_labels: Labels
    poison_mask: NDArray[np.bool_] | None
    cover_mask: NDArray[np.bool_] | None
    triggered_images: Pixels
    triggered_labels: Labels


class Given(Attack):
    """Poisons nothing itself. Its rate and target are the file's, so that a scenario has rate 0."""

    name = "given"
    config_type = GivenConfig
    config: GivenConfig
    poisons = False
    received = True

    def identity(self) -> dict[str, Any]:
        """The options, with the sha256 of the file for its path."""
        options = super().identity()
        if Path(self.config.file).is_file():
            with Path(self.config.file).open("rb") as file:
                options["file"] = hashlib.file_digest(file, "sha256").hexdigest()
        return options

    def check(self, images: Images) -> None:
        """Reads the whole file and refuses what does not fit."""
        self.read(images, None)

    def read(self, images: Images, target_label: int | None) -> Received:
        """The file's content, checked against the clean data.

        Args:
            images: the clean data; only their test set, size and classes are used.
            target_label: what triggered test images should be called where the file does not say; None where nobody
                asks.

        Raises:
            UserError: no file, a missing array, or one of another type, length, image size or class.
        """
        if not self.config.file:
            raise UserError("attack 'given' reads an npz file: use --dataset npz:FILE, or write given:file=FILE")
        path = Path(self.config.file)
        arrays = read_arrays(path, _REQUIRED, _OPTIONAL)
        train = read_images(arrays["train_images"], "train_images")
        _check_size(path, "train_images", train, images)
        labels = _labels(path, arrays, "train_labels", len(train), images)
        original = _labels(path, {"original_labels": labels, **arrays}, "original_labels", len(train), images)
        triggered, wanted = self._triggered(path, arrays, images, target_label)
        if target_label is not None and len(triggered) and not np.isin(wanted, labels).all():
            missing = images.class_text(int(wanted[~np.isin(wanted, labels)][0]))
            raise UserError(
                f"{path}: triggered test images must be wanted as a class with training images, and {missing} has "
                "none: write their test_triggered_labels, or name the class with --target-label"
            )
        masks = [_mask(path, name, arrays.get(name), len(train)) for name in ("poison_mask", "cover_mask")]
        poisoned, covers = masks
        if poisoned is not None and covers is not None and (poisoned & covers).any():
            raise UserError(
                f"{path}: an image is poison or a cover, and {int((poisoned & covers).sum())} are marked as both: take "
                "them out of cover_mask (covers keep their true label) or of poison_mask"
            )
        return Received(train, labels, original, poisoned, covers, triggered, wanted)

    def _triggered(
        self, path: Path, arrays: dict[str, NDArray[Any]], images: Images, target_label: int | None
    ) -> tuple[Pixels, Labels]:
        """Triggered test images and what they should be called; none that are called so anyway, where that is known."""
        triggered = images.test_images[:0]
        if "test_triggered_images" in arrays:
            triggered = read_images(arrays["test_triggered_images"], "test_triggered_images")
        _check_size(path, "test_triggered_images", triggered, images)
        default = np.full(len(triggered), target_label or 0, dtype=np.int64)
        told = {"test_triggered_labels": default, **arrays}
        wanted = _labels(path, told, "test_triggered_labels", len(triggered), images)
        if "test_triggered_original_labels" in arrays and not self.config.include_target:
            own = _labels(path, arrays, "test_triggered_original_labels", len(triggered), images)
            triggered, wanted = triggered[own != wanted], wanted[own != wanted]
        return triggered, wanted


def _labels(path: Path, arrays: Mapping[str, NDArray[Any]], name: str, count: int, images: Images) -> Labels:
    """The labels of that name, int64 [count], in the range of the data's classes."""
    labels = read_labels(arrays[name], name)
    _check_labels(path, name, labels, count, images.num_classes)
    return labels


def _check_labels(path: Path, name: str, labels: Labels, count: int, num_classes: int) -> None:
    if len(labels) != count:
        raise UserError(f"{path}: {name} must hold a label for each of {count} images, got {len(labels)}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"{path}: {name} must lie in [0, {num_classes}), the classes of --dataset, "
            f"got {labels.min()} to {labels.max()}"
        )


def _check_size(path: Path, name: str, pixels: Pixels, images: Images) -> None:
    size = images.train_images.shape[1:]
    if pixels.ndim != 4 or pixels.shape[1:] != size or (name == "train_images" and len(pixels) == 0):
        raise UserError(f"{path}: {name} must have the shape [N, {', '.join(map(str, size))}], got {pixels.shape}")


def _mask(path: Path, name: str, mask: NDArray[Any] | None, count: int) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    if mask.dtype != np.bool_ or mask.shape != (count,):
        raise UserError(f"{path}: {name} must be bool [{count}], one a training image, got {mask.dtype} {mask.shape}")
    return mask
