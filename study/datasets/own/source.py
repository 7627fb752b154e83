"""What every format is read as: samples with names and labels whose contents are handed out when they are asked for."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError, nearest
from study.datasets.folder import sort_classes
from study.datasets.images import printable_name
from study.datasets.own.data import LeftOut

TRAIN, TEST = "train", "test"
TRAIN_NAMES = ("train", "training", "trn")
TEST_NAMES = ("test", "testing", "tst", "val", "valid", "validation", "dev", "eval")
"""What a test set may be called; the first of these names that there is counts, the others stay as they are."""
LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class", "fine_label", "fine_labels", "category", "cls")
IMAGE_NAMES = ("image", "images", "x", "img", "imgs", "data", "samples", "pixels")
_LONGEST_LABEL = 1000  # characters
_CHUNK_BYTES = 8 << 20  # of images that are copied at a time


@dataclass(frozen=True)
class Unreadable:
    """A sample whose content cannot be got at.

    Attributes:
        reason: in words.
    """

    reason: str


Content = bytes | NDArray[Any] | Unreadable
"""Of one sample: an encoded image, or pixels of any dtype [H, W] or [H, W, C]."""


@dataclass(frozen=True)
class Batch:
    """Some samples that follow each other.

    Attributes:
        count: how many they are.
        read: gives their contents; may be called in another thread.
    """

    count: int
    read: Callable[[], Sequence[Content]]


@dataclass(frozen=True)
class Samples:
    """The samples of a split in the order of the input, those without a label left out.

    Attributes:
        ids: N names that differ.
        labels: int64 [N], in [0, K).
        batches: takes ascending positions int64 [n] and gives their contents in this order.
        image_stamp: what their contents depend on beside the files' stamps, such as the chosen column.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    batches: Callable[[NDArray[np.int64]], Iterator[Batch]]
    image_stamp: str = ""


@dataclass(frozen=True)
class Written:
    """What a format wrote.

    Attributes:
        data: the folder or file that is read again as the cleaned set.
        linked, copied: how many files are hard links to the input's, and how many are not.
    """

    data: Path
    linked: int = 0
    copied: int = 0


Write = Callable[[Mapping[str, NDArray[np.bool_]], Path, bool], Written]
"""Takes the kept samples bool [N] by split, a new folder, and whether files are copied where they could be linked."""


@dataclass(frozen=True)
class Source:
    """An input whose format is known, none of its images decoded.

    Attributes:
        format: a short name.
        classes: K names; some may have no samples.
        splits: ``train``, and ``test`` where there is one.
        stamps: (name, size, time of last change) of every file that is read.
        write: writes a part of it in its own format.
        image_column, label_column: of tables, those that are read.
        left_out, notes: as in `OwnData`.
    """

    format: str
    classes: tuple[str, ...]
    splits: Mapping[str, Samples]
    stamps: Sequence[tuple[str, int, int]]
    write: Write
    image_column: str | None = None
    label_column: str | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Labels:
    """Collects the samples of a split: names, and labels as the input has them.

    Attributes:
        split: ``train`` or ``test``.
        ids, values, places: of those that are used so far; a place is the format's own.
        left_out: the others.
    """

    split: str
    ids: list[str] = field(default_factory=list)
    values: list[str | int] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def add(self, name: str, value: str | int | None, place: Any, reason: str = "it has no label") -> None:
        """Takes a sample; without a label, or of a name that there is already, it is left out."""
        if value is None or value == "":
            self.left_out.append(LeftOut(name, reason, self.split))
        elif isinstance(value, str) and len(value) > _LONGEST_LABEL:
            self.left_out.append(LeftOut(name, f"its label is a text of {len(value):,} characters", self.split))
        elif name in self._seen:
            self.left_out.append(LeftOut(name, "another sample has the same name", self.split))
        else:
            self._seen.add(name)
            self.ids.append(name)
            self.values.append(as_text(value) if isinstance(value, str) else value)
            self.places.append(place)


def number_classes(
    collected: Mapping[str, Labels], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """The classes that the labels name, and the labels as numbers int64 [N] of them by split.

    Args:
        names: of the classes that whole numbers stand for; without them a number is its own name.

    Raises:
        UserError: a number that no name stands for.
    """
    names = None if names is None else [as_text(name) for name in names]
    texts = {split: [_text(value, names) for value in labels.values] for split, labels in collected.items()}
    used = {text for some in texts.values() for text in some}
    if names is not None and len(set(names)) == len(names):
        classes = tuple(names)  # in the order that the input gives them
        extra = tuple(sorted(used - set(classes)))
        classes += extra
    else:
        classes = sort_classes(used)
    number = {name: label for label, name in enumerate(classes)}
    return classes, {split: np.array([number[text] for text in some], dtype=np.int64) for split, some in texts.items()}


def _text(value: str | int, names: Sequence[str] | None) -> str:
    if isinstance(value, str):
        return value
    if names is None:
        return str(value)
    if not 0 <= value < len(names):
        raise UserError(
            f"labels must be numbers of the {len(names)} classes that the data name, got {value}: mend the label or "
            "the names"
        )
    return names[value]


def as_text(name: str) -> str:
    """A name that may hold any bytes, or halves of characters, as text that every file takes."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()


def file_stamp(path: Path | str, name: str) -> tuple[str, int, int]:
    """A file's name, its size and the time of its last change."""
    try:
        status = os.stat(path)
    except OSError:  # which reading it will say
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def split_of(name: str) -> str | None:
    """What split a name tells of: ``train``, one of `TEST_NAMES`, or None."""
    plain = name.lower()
    if plain in TRAIN_NAMES:
        return TRAIN
    return plain if plain in TEST_NAMES else None


def chosen_test(names: Iterable[str]) -> tuple[str | None, list[str]]:
    """Of names of test sets the one that counts, and the others."""
    ordered = sorted(set(names), key=TEST_NAMES.index)
    return (ordered[0], ordered[1:]) if ordered else (None, [])


def unused_note(names: Iterable[str]) -> list[str]:
    """Says of further splits that they are not used."""
    listed = ", ".join(names)
    return [f"There is more than one test set: {listed} is not used, and stays as it is."] if listed else []


def choose_column(asked: str | None, names: Sequence[str], likely: Sequence[str], what: str, option: str) -> str:
    """The column that holds something.

    Args:
        asked: what the user names.
        names: of all columns.
        likely: those that can be it; one alone, or one of a usual name, is taken.
        what: it holds, for messages.
        option: that names it.

    Raises:
        UserError: no such column, or none or several that can be it.
    """
    if asked is not None:
        if asked not in names:
            raise UserError(f"{option} must be one of {_listed(names)}, got {asked!r}: {nearest(asked, names)}")
        return asked
    usual = IMAGE_NAMES if option == "--image-column" else LABEL_NAMES
    by_name = [name for wanted in usual for name in likely if name.lower() == wanted]
    if by_name:
        return by_name[0]
    if len(likely) == 1:
        return likely[0]
    which = f"it may be {_listed(likely)}" if likely else f"none of {_listed(names)} looks like it"
    raise UserError(f"one column must hold {what}, and {which}: name it with {option}")


def _listed(names: Sequence[str]) -> str:
    shown = [printable_name(name) for name in names[:20]]
    return ", ".join(shown) + (", ..." if len(names) > 20 else "") if shown else "no column"


def content_hash(content: Content) -> str:
    """sha256 of a sample's bytes as the input holds them; empty where they cannot be read."""
    if isinstance(content, Unreadable):
        return ""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(content).data).hexdigest()


def chunks_of(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Copies of some images in chunks that take little memory, however large an image is.

    Args:
        images: uint8 [N, S, S, 3]; may be a memory map.
        rows: int64 [n].

    Returns:
        Where each chunk begins in the rows, and its images, uint8 [m, S, S, 3].
    """
    size = max(1, _CHUNK_BYTES // max(1, images.nbytes // max(1, len(images))))
    for start in range(0, len(rows), size):
        yield start, images[rows[start : start + size]]


def in_pieces(total: int, size: int) -> Iterator[range]:
    """Positions from 0 to a total, some at a time."""
    for start in range(0, total, size):
        yield range(start, min(start + size, total))
