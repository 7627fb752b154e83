"""A clean dataset, in memory or as memory maps of the store's files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError, nearest

if TYPE_CHECKING:
    from defenses.api import CleanReserve

Rows = NDArray[np.int64] | slice
"""Positions of the images that are taken, int64 [n], or all of them."""

_LONGEST_NAME = 60  # characters of a class's name that are shown
_SHOWN = 20  # classes that an error names


class Source(Protocol):
    """Data whose labels are known, and whose images are taken once it is known which."""

    @property
    def train_labels(self) -> NDArray[np.int64]:
        """int64 [N], in [0, K)."""

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """int64 [M], likewise."""

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""

    def chosen(self, train: Rows, test: Rows, apart: NDArray[np.int64] | None) -> "Images":
        """Some of the images, in this order; of the test images, those `apart` as the clean reserve.

        Args:
            train, test, apart: positions int64 [n] of images.
        """


@dataclass(frozen=True)
class Images:
    """Training and test images of a classification task.

    Attributes:
        train_images, test_images: uint8 [N, H, W, 3], all of one size; never written to.
        train_labels, test_labels: int64 [N], in [0, num_classes).
        classes: names, one a class.
        fingerprint: sha256 of all these arrays.
        reserve: clean images that were set aside for the defense and judge nothing; None where it needs none.
        reopen: opens the same data once more, in any process, where they are memory maps; None where they are in
            memory. Another process is handed this in place of the arrays.
        received: somebody's own data as they were received: nobody knows whether some of them are poisoned.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str
    reserve: "CleanReserve | None" = None
    reopen: "Callable[[], Images] | None" = None
    received: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.reopen is None else {"reopen": self.reopen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        reopen = state["reopen"]
        self.__dict__.update(state if reopen is None else reopen().__dict__)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def classes_beyond_labels(self) -> dict[str, int]:
        """The number of classes, for keys beside the fingerprint; empty where the labels tell it, as nearly always."""
        told = 1 + int(max(self.train_labels.max(), self.test_labels.max()))
        return {} if told == self.num_classes else {"num_classes": self.num_classes}

    def find_class(self, name: str) -> int:
        """The number of a class by its name, or by ``name:`` and its name.

        Raises:
            UserError: no class, or more than one, is called so.
        """
        plain = name if name in self.classes else name.removeprefix("name:")
        numbers = [number for number, known in enumerate(self.classes) if known == plain]
        if not numbers:
            shown = [printable_name(known) for known in self.classes]
            more = ", ..." if len(shown) > _SHOWN else ""
            raise UserError(
                f"--target-label must be the number or the name of a class, got {printable_name(plain)!r}: "
                f"{nearest(plain, shown)}(classes: {', '.join(shown[:_SHOWN])}{more})"
            )
        if len(numbers) > 1:
            raise UserError(
                f"--target-label must be one class, and {printable_name(plain)!r} is the name of "
                f"{', '.join(map(str, numbers[:_SHOWN]))}: give a number"
            )
        return numbers[0]

    def class_text(self, label: int) -> str:
        """A label as people read it: its number, and its class's name where that says more."""
        return class_text(self.classes, label)

    @property
    def test_fingerprint(self) -> str:
        """sha256 of the test images and labels alone."""
        return data_fingerprint(self.test_images, self.test_labels)

    @property
    def image_size(self) -> int:
        """Side of the images in px."""
        return int(self.train_images.shape[1])

    @classmethod
    def of(
        cls,
        train_images: NDArray[np.uint8],
        train_labels: NDArray[np.int64],
        test_images: NDArray[np.uint8],
        test_labels: NDArray[np.int64],
        classes: tuple[str, ...],
    ) -> Self:
        """Checks the arrays and computes their fingerprint.

        Args:
            train_images, test_images: uint8 [N, H, W, 3], square.
            train_labels, test_labels: int64 [N].
            classes: names, one a class.

        Raises:
            UserError: arrays of another type, shape or length, or a label out of range.
        """
        for split, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
            _check_split(split, images, labels, len(classes))
        if train_images.shape[1:] != test_images.shape[1:]:
            raise UserError(
                f"train and test images must have one size, got {train_images.shape[1:3]} and {test_images.shape[1:3]}"
            )
        digest = data_fingerprint(train_images, train_labels, test_images, test_labels)
        return cls(train_images, train_labels, test_images, test_labels, classes, digest)

    def chosen(self, train: Rows, test: Rows, apart: NDArray[np.int64] | None) -> Self:
        """See `Source.chosen`; positions are int64 [n]."""
        kept = self
        if not (isinstance(train, slice) and isinstance(test, slice)):
            kept = self.of(
                self.train_images[train],
                self.train_labels[train],
                self.test_images[test],
                self.test_labels[test],
                self.classes,
            )
        return kept if apart is None else kept.with_reserve(self.test_images[apart], self.test_labels[apart])

    def with_reserve(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Self:
        """The same data with a clean reserve of images uint8 [M, H, W, 3] and labels int64 [M] beside it."""
        from defenses.api import CleanReserve  # with it comes torch, which a command that only lists does without

        return replace(self, reserve=CleanReserve.of(images, labels, self.num_classes))


def class_text(classes: tuple[str, ...], label: int) -> str:
    """A label as people read it: its number, and its class's name where that says more."""
    name = printable_name(classes[label])
    return str(label) if name == str(label) else f"{label} ({name})"


def data_fingerprint(*arrays: NDArray[Any]) -> str:
    """sha256 of arrays of any dtype and shape [...], in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def printable_name(name: str) -> str:
    """The name of a class in one short line; it comes from a file, and may hold anything."""
    text = name.encode("utf-8", "replace").decode()
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"


def _check_split(split: str, images: NDArray[Any], labels: NDArray[Any], num_classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{split} images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    if images.shape[1] != images.shape[2] or images.shape[1] < 8:
        raise UserError(f"{split} images must be square with sides of at least 8 px, got {images.shape[1:3]}")
    if len(images) != len(labels):
        raise UserError(f"{split} images and labels must be equally many, got {len(images)} and {len(labels)}")
    if len(labels) == 0:
        raise UserError(f"there must be {split} images, got none")
    if num_classes < 2 or labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"{split} labels must lie in [0, {num_classes}) with at least 2 classes, "
            f"got {labels.min()} to {labels.max()}"
        )
