"""A person's own dataset: looked at, and read; images are decoded once into files of the store.

The key of what is decoded is a hash of the names, sizes and times of last change of the files that were read, of the
samples' names, of the size of the images, and of the decoder's version. A file whose bytes change and whose size and
time do not is not noticed.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.storage.atomic_files import canonical
from defenses.storage.store import Artifact, Store, open_store
from study.datasets.images import data_fingerprint, printable_name
from study.datasets.own.data import LeftOut, OwnData, OwnSpec, OwnSummary, Split
from study.datasets.own.decoding import Facts, decode, plain_reason
from study.datasets.own.formats import look
from study.datasets.own.header_sizes import Sizes, default_size, sample_sizes
from study.datasets.own.source import TEST, TRAIN, Samples, Source, chunks_of
from study.datasets.pictures import check_room

IMAGES, DATASET = "own_images", "own_dataset"
"""Stages of the store: the decoded images of a split, and the fingerprint of both."""
VERSION = 1  # raise it when the same files would give other images
_SHOWN = 5
_MANY = 1000  # classes; more are believed where they have two images each


def describe_own(spec: OwnSpec) -> OwnSummary:
    """What a dataset holds, without its images being decoded: formats, classes, counts, and sizes from some headers.

    Raises:
        UserError: no such path, no known format, or one that cannot be read.
    """
    source = look(_absolute(spec))
    sizes = sample_sizes(source)
    used = np.unique(source.splits[TRAIN].labels)
    _check_classes(spec, source, used, 0)
    counts = {
        split: tuple(np.bincount(samples.labels, minlength=len(source.classes))[used].tolist())
        for split, samples in source.splits.items()
    }
    size = _chosen_size(spec, sizes)
    return OwnSummary(
        _completed(spec, source, size),
        source.format,
        tuple(source.classes[label] for label in used.tolist()),
        counts[TRAIN],
        counts.get(TEST),
        (sizes.low, sizes.high),
        (*source.notes, *_size_notes(spec, size, sizes)),
        source.left_out,
    )


def read_own(spec: OwnSpec, store: Path | str, progress: bool = True) -> OwnData:
    """A dataset, its images decoded into the store unless they are there already.

    Args:
        store: the artifact store.
        progress: whether a bar is shown where it takes more than a moment.

    Raises:
        UserError: no such path, no known format, one that cannot be read, fewer than two classes with images, or a
            store without room for them.
    """
    source = look(_absolute(spec))
    sizes = sample_sizes(source)
    size = _chosen_size(spec, sizes)
    opened = open_store(store)
    reader = _Reader(source, spec.path, size, opened, progress)
    train = reader.read(TRAIN, np.arange(len(source.splits[TRAIN].ids)))
    used = np.unique(train.labels)
    _check_classes(spec, source, used, len(train.left_out))
    test, strangers = reader.read_test(used)
    classes = tuple(source.classes[label] for label in used.tolist())
    parts = [train] if test is None else [train, test]
    splits = [
        Split(part.artifact.load("images"), np.searchsorted(used, part.labels).astype(np.int64), part.ids)
        for part in parts
        if part.ids
    ]
    facts = Facts()
    for part in parts:
        facts.merge(part.facts)
    return OwnData(
        _completed(spec, source, size),
        source.format,
        splits[0],
        splits[1] if len(splits) == 2 else None,
        classes,
        (facts.low or (size, size), facts.high or (size, size)),
        (
            *source.notes,
            *_class_note(source, used),
            *_size_notes(spec, size, _facts_sizes(facts, size)),
            *facts.notes(),
        ),
        (*source.left_out, *(one for part in parts for one in part.left_out), *strangers),
        _fingerprint(opened, splits, classes, [part.key for part in parts]),
        stamp=source_stamp(source),
        image_keys=tuple(part.key for part in parts),
    )


@dataclass(frozen=True)
class _Part:
    """The samples of a split that can be used.

    Attributes:
        labels: int64 [N], numbers of the source's classes.
        facts: of the split; `unreadable` gives positions in the source.
    """

    key: str
    artifact: Artifact
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    facts: Facts
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class _Reader:
    """Decodes the splits of a source into a store."""

    source: Source
    path: Path
    size: int
    store: Store
    progress: bool

    def read(self, split: str, rows: NDArray[np.int64]) -> _Part:
        """Some samples, positions int64 [n]; those that cannot be decoded are left out."""
        samples = self.source.splits[split]
        key = self._key(samples, split, rows)
        described = {"path": str(self.path), "split": split, "images": len(rows), "size": self.size}
        artifact, _ = self.store.get_or_build(IMAGES, key, lambda: self._build(key, samples, rows), described)
        facts = _facts(artifact.load("facts"))
        kept = rows[np.asarray(artifact.load("rows"))]
        if split == TRAIN and len(kept) == 0:
            row, reason = facts.unreadable[0]
            raise UserError(
                f"{self.path} must hold images that can be decoded, and none of its {len(rows):,} can, such as "
                f"{plain_reason(samples.ids[rows[row]])}: {reason}"
            )
        left_out = tuple(LeftOut(samples.ids[rows[row]], reason, split) for row, reason in facts.unreadable)
        ids = tuple(samples.ids[row] for row in kept.tolist())
        return _Part(key, artifact, ids, samples.labels[kept], facts, left_out)

    def read_test(self, used: NDArray[np.int64]) -> tuple[_Part | None, tuple[LeftOut, ...]]:
        """The test samples of classes int64 [K] that have training images, and those of the others."""
        samples = self.source.splits.get(TEST)
        if samples is None:
            return None, ()
        known = np.isin(samples.labels, used)
        strangers = tuple(
            LeftOut(
                samples.ids[row],
                f"its class {printable_name(self.source.classes[samples.labels[row]])} has no training images",
                TEST,
            )
            for row in np.flatnonzero(~known).tolist()
        )
        rows = np.flatnonzero(known)
        return (self.read(TEST, rows) if len(rows) else None), strangers

    def _key(self, samples: Samples, split: str, rows: NDArray[np.int64]) -> str:
        from PIL import __version__

        names = hashlib.sha256("\0".join(samples.ids[row] for row in rows.tolist()).encode()).hexdigest()
        identity = [VERSION, f"Pillow {__version__}", self.size, split, samples.image_stamp, names]
        return _hash([*identity, source_stamp(self.source)])

    def _build(self, key: str, samples: Samples, rows: NDArray[np.int64]) -> dict[str, Any]:
        shape = (len(rows), self.size, self.size, 3)
        check_room(self.store, shape, "take smaller images (--image-size)")
        file = self.store.array_file(IMAGES, key, "images", shape, np.uint8)
        label = f"decoding {printable_name(self.path.name)}"
        facts = decode(samples, rows, self.size, file.write, label, self.progress)
        bad = {row for row, _ in facts.unreadable}
        kept = np.array([row for row in range(len(rows)) if row not in bad], dtype=np.int64)
        if bad:
            whole = file
            file = self.store.array_file(IMAGES, key, "images", (len(kept), *shape[1:]), np.uint8)
            decoded = whole.read()
            for start, chunk in chunks_of(decoded, kept):
                file.write(start, chunk)
            whole.remove()
        return {"images": file, "rows": kept, "facts": _plain(facts)}


def _plain(facts: Facts) -> dict[str, Any]:
    return {
        "unreadable": sorted(facts.unreadable),
        "conversions": dict(facts.conversions),
        "brightest": facts.brightest,
        "low": facts.low,
        "high": facts.high,
    }


def _facts(known: dict[str, Any]) -> Facts:
    low, high = ((value[0], value[1]) if value else None for value in (known["low"], known["high"]))
    unreadable = [(int(row), str(reason)) for row, reason in known["unreadable"]]
    return Facts(unreadable, Counter(known["conversions"]), known["brightest"], low, high)


def _facts_sizes(facts: Facts, size: int) -> Sizes:
    """The sizes that were seen while decoding; of one size where nothing was."""
    return Sizes(facts.low or (size, size), facts.high or (size, size), size)


def source_stamp(source: Source) -> str:
    """sha256 of the names, sizes and times of last change of all files that are read."""
    return _hash([source.format, [list(stamp) for stamp in source.stamps]])


def _hash(identity: Any) -> str:
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def _absolute(spec: OwnSpec) -> OwnSpec:
    return replace(spec, path=spec.path.expanduser().absolute())


def _completed(spec: OwnSpec, source: Source, size: int) -> OwnSpec:
    """What was asked for, with what was found out."""
    path = spec.path.expanduser().absolute()
    return OwnSpec(path, size, source.image_column or spec.image_column, source.label_column or spec.label_column)


def _chosen_size(spec: OwnSpec, sizes: Sizes) -> int:
    size = default_size(sizes) if spec.image_size is None else spec.image_size
    if not 8 <= size <= 1024:
        raise UserError(f"--image-size must lie between 8 and 1,024 px, got {size}")
    return size


def _check_classes(spec: OwnSpec, source: Source, used: NDArray[np.int64], lost: int) -> None:
    """Refuses data of a single class, and labels that are something else, such as the numbers of the images.

    Args:
        used: labels int64 [K] that training images have.
        lost: how many images cannot be decoded.
    """
    count = len(source.splits[TRAIN].ids)
    if len(used) > _MANY and len(used) > count / 2:
        column = f" in {source.label_column}" if source.label_column else ""
        raise UserError(
            f"{spec.path} must have labels that tell classes, got {len(used):,} different ones of {count:,} images"
            f"{column}: name another with --label-column"
        )
    if len(used) >= 2:
        return
    only = ", ".join(printable_name(source.classes[label]) for label in used.tolist())
    told = f" ({lost:,} images cannot be decoded)" if lost else ""
    below = [path for path in spec.path.iterdir() if path.is_dir()] if spec.path.is_dir() else []
    deeper = len(below) == 1 and sum(path.is_dir() for path in below[0].iterdir()) > 1
    way_out = f"name {below[0]}" if deeper else "check that it has one folder, or one label, a class"
    raise UserError(
        f"{spec.path} must have training images of at least 2 classes, got those of class {only} alone{told}: {way_out}"
    )


def _class_note(source: Source, used: NDArray[np.int64]) -> list[str]:
    empty = [printable_name(name) for label, name in enumerate(source.classes) if label not in used]
    if not empty:
        return []
    more = f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else ""
    has = "Classes without training images are" if len(empty) > 1 else "A class without training images is"
    return [f"{has} not counted: {', '.join(empty[:_SHOWN])}{more}."]


def _size_notes(spec: OwnSpec, size: int, sizes: Sizes) -> list[str]:
    if sizes.low == sizes.high == (size, size):
        return []
    low, high = (f"{height} x {width}" for height, width in (sizes.low, sizes.high))
    span = f"Images of {low} px" if low == high else f"Images of {low} to {high} px (height x width)"
    chosen = "" if spec.image_size is not None else ", chosen from the data; --image-size sets another"
    return [f"{span} are brought to {size} x {size} px{chosen}."]


def _fingerprint(store: Store, splits: Iterable[Split], classes: tuple[str, ...], keys: list[str]) -> str:
    def build() -> dict[str, Any]:
        return {"fingerprint": data_fingerprint(*(array for part in splits for array in (part.images, part.labels)))}

    artifact, _ = store.get_or_build(DATASET, _hash([keys, list(classes), VERSION]), build)
    fingerprint: str = artifact.load("fingerprint")
    return fingerprint
