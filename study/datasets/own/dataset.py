"""A person's own dataset as a dataset of studies: ``own:PATH``, and ``own:FILE.json`` for a part of one.

The file is written by `write_spec`. Row k of the training images is sample k of `study.datasets.own.reading.read_own`,
apart from the rows that the file leaves out.

Where the input has no test set, a share of the training images is held out as one: a fifth of each class with
``own:PATH``, what the file says with ``own:FILE.json``. Where that is nothing a few training images of each class stand
in for it, since every study wants test images: an accuracy on them says nothing, and no clean images are taken of them.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.seeds import derive_seed
from defenses.storage.atomic_files import canonical, write_atomic
from defenses.storage.store import Artifact, Store, open_store
from study.datasets import DatasetSpec
from study.datasets.images import Images, Rows, data_fingerprint
from study.datasets.own.data import OwnData, OwnSpec, Split
from study.datasets.own.reading import DATASET, IMAGES, VERSION, read_own
from study.datasets.own.source import chunks_of
from study.datasets.pictures import check_room

log = logging.getLogger(__name__)
HELD_OUT = 0.2
"""Of the training images, where there is no test set and one is needed."""
_STAND_IN, _STAND_IN_EACH = 1000, 20  # training images that stand in for a test set: in all, and at most of a class
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class StudySpec:
    """Which part of which data a study uses.

    Attributes:
        data: the input, and how it is read.
        without: an npy file of int64 rows of the training images that are left out; None leaves none out.
        held_out: share of the training images of each class that is the test set, where the input has none.
        seed: of what is held out.
    """

    data: OwnSpec
    without: Path | None = None
    held_out: float = 0.0
    seed: int = 0


def write_spec(spec: StudySpec, path: Path) -> str:
    """Writes a spec as a JSON file, and gives what ``--dataset`` is to be for it.

    Args:
        path: of the file; its name has to end in ``.json``.

    Raises:
        ValueError: another ending, or a share that is none.
    """
    if path.suffix != ".json" or not 0 <= spec.held_out < 1:
        raise ValueError(f"a spec is a .json file with a share in [0, 1), got {path.name} and {spec.held_out}")
    told = {
        "path": str(spec.data.path.expanduser().absolute()),
        "image_size": spec.data.image_size,
        "image_column": spec.data.image_column,
        "label_column": spec.data.label_column,
        "without": None if spec.without is None else str(spec.without.expanduser().absolute()),
        "held_out": spec.held_out,
        "seed": spec.seed,
    }
    write_atomic(path, json.dumps(told, indent=1) + "\n")
    return f"own:{path.absolute()}"


def load_spec(path: Path) -> StudySpec:
    """A spec that `write_spec` wrote.

    Raises:
        UserError: no such file, or another content.
    """
    way_out = "start the command that wrote it again"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        data = OwnSpec(
            Path(_typed(told, "path", str)),
            _typed(told, "image_size", int, None),
            _typed(told, "image_column", str, None),
            _typed(told, "label_column", str, None),
        )
        without = _typed(told, "without", str, None)
        share = float(_typed(told, "held_out", (int, float), 0.0))
        seed = _typed(told, "seed", int, 0)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} must tell which part of a dataset is used, and does not: {error}; {way_out}"
        ) from error
    if not 0 <= share < 1 or seed < 0:
        raise UserError(
            f"{path} must hold a share held_out in [0, 1) and a seed from 0 on, got {share} and {seed}; {way_out}"
        )
    return StudySpec(data, None if without is None else Path(without), share, seed)


def _typed(told: dict[str, Any], name: str, kind: Any, default: Any = ...) -> Any:
    """A field, of one type, or of none where there is a default."""
    value = told[name] if default is ... else told.get(name, default)
    if value is default or (isinstance(value, kind) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{name} must be another value than {value!r}")


def study_spec(spec: DatasetSpec) -> StudySpec:
    """What the name of a dataset ``own:`` means: a file of `write_spec`, or a dataset itself.

    Raises:
        UserError: a file that is no spec.
    """
    if spec.path.suffix == ".json":
        return load_spec(spec.path)
    return StudySpec(OwnSpec(spec.path, spec.image_size), held_out=HELD_OUT)


def load(spec: DatasetSpec) -> "OwnSource":
    """``own:PATH``, with the images decoded into the store.

    Raises:
        UserError: as `study.datasets.own.reading.read_own`, no store to decode into, or clean images are asked for
            where training images stand in for the test set: those would be poison, or what poison is made of.
    """
    if spec.store is None:
        raise UserError(f"{spec.name} is decoded into files of a store, and there is none: name one", about="store")
    given = study_spec(spec)
    data = read_own(given.data, spec.store)
    if data.test is None and spec.reserve and not given.held_out:
        raise UserError(
            f"{spec.name} has no test images to take {spec.reserve} clean ones of, and those that stand in for them "
            "are training images, poison as they may be: give it a test set, or let held_out be a share",
            about="dataset",
        )
    if data.test is None and spec.path.suffix != ".json":
        log.warning("%s has no test set: a fifth of each class is held out as one, and not trained with", spec.name)
    train, test = study_rows(given, data)
    test_part = _Selection("test", data.test, test) if data.test is not None else _Selection("train", data.train, test)
    return OwnSource(data, _Selection("train", data.train, train), test_part, spec.store)


def study_rows(spec: StudySpec, data: OwnData) -> tuple[Positions, Positions]:
    """Which samples a study trains with, and which it is tested with.

    Returns:
        Ascending rows int64 [n] of `data.train`, and rows int64 [m] of `data.test`, or of `data.train` where the input
        has no test set.

    Raises:
        UserError: the rows that are left out cannot be read, or are none.
    """
    count = len(data.train.labels)
    left = np.setdiff1d(np.arange(count), _without(spec.without, count))
    if data.test is not None:
        return left, np.arange(len(data.test.labels))
    labels = data.train.labels[left]
    if spec.held_out > 0:
        held = left[_held_out(labels, spec.held_out, spec.seed)]
        return np.setdiff1d(left, held), held
    each = max(1, min(_STAND_IN_EACH, _STAND_IN // len(data.classes)))
    return left, left[_first_of_each(labels, lambda size: min(each, size), derive_seed("stand-in"))]


def _held_out(labels: NDArray[np.int64], share: float, seed: int) -> Positions:
    """A share of each class, at least one image of those that have two."""
    return _first_of_each(
        labels, lambda size: min(size - 1, max(1, round(share * size))), derive_seed("held out", str(seed))
    )


def _first_of_each(labels: NDArray[np.int64], count: Callable[[int], int], seed: int) -> Positions:
    """Positions int64 [n] of some images of each class, drawn at random, ascending."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels).tolist():
        of_class = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(of_class)[: count(len(of_class))])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def _without(path: Path | None, count: int) -> Positions:
    if path is None:
        return np.empty(0, dtype=np.int64)
    way_out = "start the command that wrote it again"
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} must hold the rows that are left out: {error}; {way_out}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype != np.int64 or rows.ndim != 1:
        raise UserError(f"{path} must hold rows that are left out, int64 [n]; {way_out}")
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise UserError(f"{path} must hold rows below {count}, got {rows.min()} to {rows.max()}: the data changed")
    return rows


@dataclass(frozen=True)
class _Selection:
    """Some samples of a split, rows int64 [n]."""

    split: str
    samples: Split
    rows: Positions

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [n], in [0, K)."""
        return self.samples.labels[self.rows]

    def chosen(self, rows: Rows) -> "_Selection":
        return replace(self, rows=self.rows[rows])

    @property
    def is_whole(self) -> bool:
        """Whether they are all samples in their order."""
        return bool(np.array_equal(self.rows, np.arange(len(self.samples.labels))))


@dataclass(frozen=True)
class OwnSource:
    """The images of ``own:``; see `study.datasets.images.Source`."""

    data: OwnData
    train: _Selection
    test: _Selection
    store: Path | str

    @property
    def train_labels(self) -> NDArray[np.int64]:
        """Of all training images, int64 [N]."""
        return self.train.labels

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """Of all test images, int64 [M]."""
        return self.test.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return self.data.classes

    def chosen(self, train: Rows, test: Rows, apart: NDArray[np.int64] | None) -> Images:
        """See `study.datasets.images.Source.chosen`; positions are int64 [n]. They are memory maps of the store.

        Raises:
            UserError: the store has no room for them.
        """
        store = open_store(self.store)
        parts = [self.train.chosen(train), self.test.chosen(test)]
        parts += [] if apart is None else [self.test.chosen(apart)]
        keys = tuple(self._images(store, part) for part in parts)
        of_all = _hash([VERSION, "study", keys, [_digest(part.labels) for part in parts], list(self.classes)])

        def build() -> dict[str, Any]:
            images = [_load(store, key) for key in keys[:2]]
            arrays = (array for image, part in zip(images, parts, strict=False) for array in (image, part.labels))
            told = {"classes": list(self.classes), "fingerprint": data_fingerprint(*arrays)}
            return told | {f"labels_{place}": part.labels for place, part in enumerate(parts)}

        store.get_or_build(DATASET, of_all, build)
        return reopen(self.store, of_all, keys)

    def _images(self, store: Store, part: _Selection) -> str:
        """The key of the images of a selection; some of a split are copied once."""
        of_split = self.data.image_keys[0 if part.split == "train" else 1]
        if part.is_whole:
            return of_split
        key = _hash([VERSION, of_split, _digest(part.rows)])

        def build() -> dict[str, Any]:
            shape = (len(part.rows), *part.samples.images.shape[1:])
            check_room(store, shape, "take smaller images (--image-size)")
            file = store.array_file(IMAGES, key, "images", shape, np.uint8)
            for start, chunk in chunks_of(part.samples.images, part.rows):
                file.write(start, chunk)
            return {"images": file}

        store.get_or_build(IMAGES, key, build, {"images": len(part.rows), "of": of_split})
        return key


def _hash(identity: Any) -> str:
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def _digest(rows: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def _entry(store: Store, stage: str, key: str) -> Artifact:
    entry = store.find(stage, key)
    if entry is None:
        raise UserError(
            f"the store {store.root} must hold the decoded images, and they are gone: start the command again"
        )
    return entry


def _load(store: Store, key: str) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = _entry(store, IMAGES, key).load("images")
    return images


def reopen(place: Path | str, dataset: str, images: tuple[str, ...]) -> Images:
    """The images that another process has decoded, from the same store.

    Args:
        place: the store.
        dataset, images: keys of the entries.

    Raises:
        UserError: they are not there any more.
    """
    store = open_store(place)
    known = _entry(store, DATASET, dataset)
    arrays = [(_load(store, key), np.array(known.load(f"labels_{place}"))) for place, key in enumerate(images)]
    made = Images(
        *arrays[0],
        *arrays[1],
        tuple(known.load("classes")),
        known.load("fingerprint"),
        reopen=functools.partial(reopen, place, dataset, images),
        received=True,
    )
    return made if len(arrays) == 2 else made.with_reserve(*arrays[2])
