"""The pictures of a folder as a dataset: decoded once into files of the store, and read from there as memory maps.

The key of what is decoded is a hash of the chosen files' paths within the folder, sizes, times of last change and
labels, of the size of the images, and of the decoder's version. A file whose bytes change and whose size and time do
not is not noticed.
"""

import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.storage.atomic_files import SHOW_STORE, canonical
from defenses.storage.store import Artifact, Store, open_store
from study.datasets.decoding import Write, decode
from study.datasets.images import Images, Rows, data_fingerprint

DECODED, DATASET = "decoded_images", "dataset"
"""Stages of the store: the images and labels of one part, and what is known of the parts together."""
VERSION = 1  # raise it when the same files would give other images
_SPARE_BYTES = 500 << 20  # what a study writes beside its images
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Picture files of the training set, the test set or the reserve, none of them decoded yet.

    Attributes:
        folder: what the paths of the key are relative to.
        files: paths.
        labels: int64 [N].
        size: px that images are resized to.
    """

    folder: Path
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    size: int

    def rows(self, rows: Rows) -> "Part":
        """Those at some positions int64 [n]."""
        chosen = np.arange(len(self.files))[rows]
        return Part(self.folder, tuple(self.files[row] for row in chosen.tolist()), self.labels[chosen], self.size)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of all images together."""
        return len(self.files), self.size, self.size, 3

    def decode(self, write: Write) -> list[str]:
        """See `study.datasets.decoding.decode`."""
        return decode(str(self.folder), self.files, self.size, write)

    @functools.cached_property
    def key(self) -> str:
        """Names the decoded images in the store."""
        from PIL import __version__

        files = [
            [*_stamp(file, self.folder), label] for file, label in zip(self.files, self.labels.tolist(), strict=True)
        ]
        return _hash([VERSION, f"Pillow {__version__}", self.size, files])


@dataclass(frozen=True)
class Pictures:
    """A folder of pictures with their labels.

    Attributes:
        store: where decoded images are kept; None keeps them in memory.
    """

    train: Part
    test: Part
    classes: tuple[str, ...]
    store: Path | str | None

    @property
    def train_labels(self) -> NDArray[np.int64]:
        """Of all training images, int64 [N]."""
        return self.train.labels

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """Of all test images, int64 [M]."""
        return self.test.labels

    def chosen(self, train: Rows, test: Rows, apart: NDArray[np.int64] | None) -> Images:
        """See `Source.chosen`; only the pictures at these positions int64 [n] are decoded.

        Raises:
            UserError: a picture cannot be read, or the store has no room for them.
        """
        parts = [self.train.rows(train), self.test.rows(test), *([] if apart is None else [self.test.rows(apart)])]
        if self.store is None:
            return self._in_memory(parts)
        store = open_store(self.store)
        keys = tuple(part.key for part in parts)
        decoded = [_decoded(store, part) for part in parts]
        of_all = _hash([*keys[:2], list(self.classes)])

        def build() -> dict[str, Any]:
            arrays = (artifact.load(name) for artifact in decoded[:2] for name in ("images", "labels"))
            return {"classes": list(self.classes), "fingerprint": data_fingerprint(*arrays)}

        dataset, _ = store.get_or_build(DATASET, of_all, build)
        return _images(dataset, decoded, functools.partial(reopen, self.store, of_all, keys))

    def _in_memory(self, parts: list[Part]) -> Images:
        arrays: list[NDArray[np.uint8]] = []
        for part in parts:
            images = np.empty(part.shape, dtype=np.uint8)

            def write(first: int, pixels: NDArray[np.uint8], images: NDArray[np.uint8] = images) -> None:
                images[first : first + len(pixels)] = pixels

            _warn(part.decode(write))
            arrays.append(images)
        made = Images.of(arrays[0], parts[0].labels, arrays[1], parts[1].labels, self.classes)
        return made if len(parts) == 2 else made.with_reserve(arrays[2], parts[2].labels)


def _decoded(store: Store, part: Part) -> Artifact:
    """The images and labels of a part; decoded at most once."""

    def build() -> dict[str, Any]:
        check_room(store, part.shape, "take fewer or smaller images (--train-size, --test-size, --image-size)")
        file = store.array_file(DECODED, part.key, "images", part.shape, np.uint8)
        return {"images": file, "labels": part.labels, "remarks": part.decode(file.write)}

    described = {"folder": str(part.folder), "images": len(part.files), "size": part.size}
    artifact, _ = store.get_or_build(DECODED, part.key, build, described)
    _warn(artifact.load("remarks"))
    return artifact


def check_room(store: Store, shape: tuple[int, int, int, int], way_out: str) -> None:
    """Refuses images uint8 of a shape [N, H, W, 3] that a store's disk has no room for.

    Raises:
        UserError: there is none.
    """
    needed, free = int(np.prod(shape)), shutil.disk_usage(store.root).free
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"{shape[0]:,} images of {shape[1]} px take {needed / 1e9:.1f} GB of disk, and {store.root} has "
            f"{free / 1e9:.1f} GB free: free some ({SHOW_STORE}), choose another place, or {way_out}",
            about="store",
        )


def _hash(identity: Any) -> str:
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def _stamp(file: str, folder: Path) -> tuple[str, int, int]:
    """A file's path below the folder, its size and the time of its last change."""
    name = os.path.relpath(file, folder)
    try:
        status = os.stat(file)
    except OSError:  # which decoding it will say
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def _warn(remarks: list[str]) -> None:
    for remark in remarks:
        log.warning("%s", remark)


def reopen(place: Path | str, dataset: str, parts: tuple[str, ...]) -> Images:
    """The images that another process has decoded, from the same store.

    Args:
        place: the store.
        dataset, parts: keys of the entries.

    Raises:
        UserError: they are not there any more.
    """
    store = open_store(place)
    entries = [store.find(DATASET, dataset), *(store.find(DECODED, part) for part in parts)]
    known = [entry for entry in entries if entry is not None]
    if len(known) < len(entries):
        raise UserError(f"the store {place} must hold the decoded images, and they are gone: start the command again")
    return _images(known[0], known[1:], functools.partial(reopen, place, dataset, parts))


def _images(dataset: Artifact, parts: list[Artifact], again: Callable[[], Images]) -> Images:
    """The images of two or three parts as memory maps; labels lie in memory."""
    arrays = [(part.load("images"), np.array(part.load("labels"))) for part in parts]
    (train, train_labels), (test, test_labels) = arrays[:2]
    classes = tuple(dataset.load("classes"))
    made = Images(train, train_labels, test, test_labels, classes, dataset.load("fingerprint"), reopen=again)
    return made if len(arrays) == 2 else made.with_reserve(*arrays[2])
