"""Images and labels as named arrays: npz, npy and safetensors files, and tensors of PyTorch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets.npz import read_classes
from study.datasets.own.array_boxes import (
    ArrayBox,
    NpyBox,
    NpzBox,
    SafetensorsBox,
    TensorBox,
    readable_arrays,
)
from study.datasets.own.data import OwnSpec
from study.datasets.own.source import (
    IMAGE_NAMES,
    LABEL_NAMES,
    TEST,
    TRAIN,
    Batch,
    Content,
    Labels,
    Samples,
    Source,
    Written,
    as_text,
    chosen_test,
    file_stamp,
    number_classes,
    split_of,
    unused_note,
)

_CLASSES = ("classes", "class_names", "label_names", "names")
_CHANNELS = (1, 3, 4)
_FORMATS = {".npz": "npz", ".safetensors": "safetensors", ".pt": "PyTorch tensors", ".pth": "PyTorch tensors"}


@dataclass
class _Names:
    """Which arrays hold what.

    Attributes:
        images, labels: by split.
        classes: names of classes, where an array has them.
    """

    images: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    classes: str | None = None


def look(spec: OwnSpec) -> Source:
    """The samples of arrays.

    Raises:
        UserError: a file that cannot be read, no images or labels in it, or arrays of another dtype or shape.
    """
    box = open_box(spec.path)
    names = _sort_names(spec, box)
    test, others = chosen_test(split for split in names.images if split != TRAIN)
    chosen = {TRAIN: TRAIN, **({TEST: test} if test is not None else {})}
    told = None if names.classes is None else read_classes(box.whole(names.classes))
    collected, levels = {}, {}
    for split, kind in chosen.items():
        images, labels = names.images[kind], names.labels[kind]
        levels[split] = Levels(box, images)
        collected[split] = _collect(box, split, images, labels)
    classes, numbers = number_classes(collected, told)
    splits = {
        split: Samples(tuple(labels.ids), numbers[split], partial(_batches, levels[split]), levels[split].name)
        for split, labels in collected.items()
        if labels.ids or split == TRAIN
    }
    if not splits[TRAIN].ids:
        raise UserError(f"{spec.path} must hold training images, got none in {names.images[TRAIN]}")
    files = sorted({box.file_of(name) for name in box.arrays})
    return Source(
        _FORMATS.get(spec.path.suffix.lower(), "npy"),
        classes,
        splits,
        [file_stamp(path, as_text(path.name)) for path in files],
        partial(_write, box, {split: names.images[kind] for split, kind in chosen.items()}),
        image_column=names.images[TRAIN],
        label_column=names.labels[TRAIN],
        left_out=tuple(one for labels in collected.values() for one in labels.left_out),
        notes=tuple(unused_note(others)),
    )


def open_box(path: Path) -> ArrayBox:
    """The arrays of a file, or of the npy files of a folder."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return NpyBox(path, tuple(sorted(file.stem for file in path.glob("*.npy"))))
    if suffix == ".npy":
        return NpyBox(path.parent, (path.stem, *_companions(path)))
    if suffix in (".pt", ".pth"):
        return TensorBox(path)
    return NpzBox(path) if suffix == ".npz" else SafetensorsBox(path)


def _companions(path: Path) -> tuple[str, ...]:
    """The arrays beside an array of images that its labels, its classes and its test set are in."""
    others = sorted(file.stem for file in path.parent.glob("*.npy") if file.stem != path.stem)
    return tuple(name for name in others if kind_of(name) is not None or name.lower() in _CLASSES)


def kind_of(name: str) -> tuple[str, str] | None:
    """(split, ``images`` or ``labels``) that the name of an array tells of, as in ``x_train`` and ``test_images``."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    splits = [split for word in words if (split := split_of(word)) is not None]
    rest = [word for word in words if split_of(word) is None]
    if len(splits) > 1 or len(rest) != 1:
        return None
    if rest[0] in IMAGE_NAMES:
        return (splits or [TRAIN])[0], "images"
    return ((splits or [TRAIN])[0], "labels") if rest[0] in LABEL_NAMES else None


def _sort_names(spec: OwnSpec, box: ArrayBox) -> _Names:
    """Which arrays hold images, labels and names of classes."""
    names = _Names()
    for name in box.arrays:
        kind = kind_of(name)
        if name.lower() in _CLASSES:
            names.classes = name
        elif kind is not None:
            (names.images if kind[1] == "images" else names.labels).setdefault(kind[0], name)
    if spec.path.suffix.lower() == ".npy" and spec.image_column is None and kind_of(spec.path.stem) is None:
        names.images[TRAIN] = spec.path.stem
    for option, asked, held in (
        ("--image-column", spec.image_column, names.images),
        ("--label-column", spec.label_column, names.labels),
    ):
        if asked is not None:
            if asked not in box.arrays:
                raise UserError(f"{option} must be one of {', '.join(sorted(box.arrays))}, got {asked!r}")
            held[TRAIN] = asked
    if TRAIN not in names.images or TRAIN not in names.labels:
        raise UserError(
            f"{spec.path} must hold images and labels, such as train_images and train_labels, or x and y, got "
            f"{', '.join(sorted(box.arrays)) or 'no array'}: name them with --image-column and --label-column"
        )
    names.images = {split: name for split, name in names.images.items() if split in names.labels}
    return names


def _collect(box: ArrayBox, split: str, images: str, labels: str) -> Labels:
    """The names and labels of an array's rows."""
    shape = box.arrays[images].shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and not {shape[1], shape[3]} & set(_CHANNELS)) or 0 in shape[1:]:
        raise UserError(
            f"{images} must be images [N, H, W], [N, H, W, C] or [N, C, H, W] of 1, 3 or 4 channels, got {list(shape)}"
        )
    count = box.arrays[labels].shape[:1]
    if count != shape[:1]:
        raise UserError(
            f"{images} and {labels} must be equally many, got {shape[0]:,} and {count[0] if count else 0:,}: one label "
            "an image"
        )
    values = _labels(box, labels)
    file = as_text(box.file_of(images).name)
    middle = ":" if split == TRAIN else f":{split}:"
    collected = Labels(split)
    for row, value in enumerate(values):
        collected.add(f"{file}{middle}{row}", value, row)
    return collected


def _labels(box: ArrayBox, name: str) -> list[str | int]:
    info = box.arrays[name]
    if info.dtype.kind not in "iubUS" or len(info.shape) not in (1, 2) or (len(info.shape) == 2 and info.shape[1] != 1):
        raise UserError(
            f"{name} must be whole numbers or text [N] or [N, 1], one label an image, got {info.dtype} "
            f"{list(info.shape)}: of one column a class, save its argmax(axis=1)"
        )
    with readable_arrays(box.path):  # text may hold what is no character
        values = box.whole(name).reshape(-1).tolist()
    if info.dtype.kind == "S":
        return [value.decode("utf-8", "backslashreplace") for value in values]
    return [value if info.dtype.kind == "U" else int(value) for value in values]


_OVERSHOOT = 1e-3  # of the range, by which resizing and rounding leave it
_DARK = 2.0  # a greatest level of floats between 1 and this is of no range that anybody saves


@dataclass(frozen=True)
class Levels:
    """An array of images, its rows as pixels of 8 bits."""

    box: ArrayBox
    name: str

    @cached_property
    def _scale(self) -> tuple[float, float]:
        """What levels are multiplied with and divided by, found by the smallest and the greatest of all."""
        low, high = np.inf, -np.inf
        kind = self.box.arrays[self.name].dtype.kind
        for first, block in self.box.blocks(self.name):
            if kind == "f" and not np.isfinite(block).all():
                row = first + int(np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(axis=1))[0])
                raise UserError(
                    f"{self.name} must hold finite levels, got others in row {row}: repair it or leave it out"
                )
            if block.size:
                low, high = min(low, float(block.min())), max(high, float(block.max()))
        beside = _OVERSHOOT if kind == "f" else 0.0
        if low >= -beside and high <= 1 + beside and kind in "fb":
            return 255.0, 1.0
        if low >= -255 * beside and high <= 255 * (1 + beside) and not (kind == "f" and high < _DARK):
            return 1.0, 1.0
        if low >= 0 and high <= 65535 and kind in "iu":
            return 1.0, 256.0
        raise UserError(
            f"{self.name} must hold levels in [0, 255], [0, 65535] or, as floats, [0, 1], got {low:.4g} to {high:.4g}: "
            "undo the normalisation, and save it as uint8"
        )

    def pixels(self, rows: NDArray[Any]) -> list[Content]:
        """Rows [n, ...] of the array as pixels uint8 [H, W] or [H, W, C]."""
        if rows.dtype != np.uint8:
            factor, divisor = self._scale
            levels = np.rint(rows.astype(np.float64) * factor) if rows.dtype.kind == "f" else rows * factor // divisor
            rows = levels.clip(0, 255).astype(np.uint8)
        if rows.ndim == 4 and rows.shape[3] not in _CHANNELS:
            rows = rows.transpose(0, 2, 3, 1)
        return list(rows)


def _batches(levels: Levels, rows: NDArray[np.int64]) -> Iterator[Batch]:
    for first, block in levels.box.blocks(levels.name):
        start, stop = np.searchsorted(rows, (first, first + len(block)))
        if stop > start:
            yield Batch(int(stop - start), partial(levels.pixels, block[rows[start:stop] - first]))


def belongs_to(name: str, split: str, count: int, box: ArrayBox) -> bool:
    """Whether an array has a row for each sample of a split: as long as it, and not named after another split."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    told = {split_of(word) for word in words} - {None}
    shape = box.arrays[name].shape
    own = {TRAIN} if split == TRAIN else told - {TRAIN}
    return len(shape) > 0 and shape[0] == count and (told <= own if split == TRAIN else bool(told) and told <= own)


def _write(
    box: ArrayBox, images: Mapping[str, str], kept: Mapping[str, NDArray[np.bool_]], folder: Path, copy: bool
) -> Written:
    """The same arrays, and of those with a row for each sample the rows of the kept ones."""
    del copy  # arrays are always written
    rows: dict[str, NDArray[np.bool_]] = {}
    for split, image in images.items():
        count = box.arrays[image].shape[0]
        of_split = [name for name in box.arrays if name == image or belongs_to(name, split, count, box)]
        if not kept[split].all():
            rows |= {name: kept[split] for name in of_split if name.lower() not in _CLASSES}
    if isinstance(box, NpyBox):
        box.write_part(folder, rows)
        return Written(folder / f"{images[TRAIN]}.npy", 0, len(box.arrays))
    folder.mkdir(parents=True, exist_ok=True)
    box.write_part(folder / box.path.name, rows)
    return Written(folder / box.path.name, 0, 1)
