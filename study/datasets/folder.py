"""Folders of image files, one folder a class.

Files are taken as torchvision's ImageFolder takes them: by their suffix, in folders within a class too. Whatever else
lies there is told of, and hidden entries, such as the copies that a notebook keeps, are passed over.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from defenses.registry import UserError
from study.datasets import DatasetSpec
from study.datasets.pictures import Part, Pictures

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SHOWN = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """The pictures of a split.

    Attributes:
        files: in the order of classes, then of folders and names.
        labels: one a file.
        left_out: files and folders that are not taken, hidden ones apart.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    left_out: tuple[str, ...]


def load(spec: DatasetSpec) -> Pictures:
    """``folder:DIR`` with ``train/CLASS/*`` and ``test/CLASS/*``; every image becomes image_size x image_size RGB.

    Raises:
        UserError: a folder is missing or empty, or train and test have different classes.
    """
    listings = {split: list_pictures(spec.path / split) for split in ("train", "test")}
    train, test = listings["train"], listings["test"]
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(f"train/ and test/ of {spec.path} must have the same classes; only one of them has {only}")
    for split, listing in listings.items():
        _tell_left_out(spec.path / split, listing)
    parts = [
        Part(spec.path / split, listing.files, np.array(listing.labels, dtype=np.int64), spec.image_size)
        for split, listing in listings.items()
    ]
    return Pictures(parts[0], parts[1], train.classes, spec.store)


def list_pictures(folder: Path) -> Listing:
    """The classes of a split and their pictures. Numbers sort as numbers, where all classes are numbers.

    Raises:
        UserError: no such folder, one that cannot be listed, no class in it, or a class without pictures.
    """
    if not folder.is_dir():
        raise UserError(f"there must be a folder {folder.resolve()} with one folder a class: check the path")
    entries = [entry for entry in _listed(folder) if not _is_hidden(entry.name)]
    classes = sort_classes(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise UserError(f"{folder} must hold one folder of images a class: there is no folder in it")
    left_out = [entry.path for entry in entries if not entry.is_dir()]
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        taken, rest = _walk(folder / name)
        if not taken:
            others = f", but {_count(rest)}" if rest else ""
            raise UserError(
                f"{folder} must hold one folder of images a class: {name} has no file that ends in "
                f"{', '.join(SUFFIXES)}{others}; remove the folder, or rename or convert its files"
            )
        files += taken
        labels += [label] * len(taken)
        left_out += rest
    return Listing(classes, tuple(files), tuple(labels), tuple(left_out))


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in their order: as numbers where all of them are whole numbers, else as text."""
    as_text = sorted(names)
    numeric = all(re.fullmatch("[0-9]+", name) for name in as_text)
    return tuple(sorted(as_text, key=int) if numeric else as_text)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _listed(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder} must be a folder that can be listed: {error.strerror}") from error


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """The pictures of a class and what else lies there, hidden entries apart; no folder within itself, by a link."""
    taken: list[str] = []
    rest: list[str] = []

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} must be a folder that can be listed: {error.strerror}") from error

    for place, folders, names in sorted(_tree(folder, refuse)):
        for name in sorted(name for name in names if not _is_hidden(name)):
            path = os.path.join(place, name)
            plain = os.path.isfile(path) or not os.path.exists(path)  # a broken link is told of when it is opened
            (taken if plain and name.lower().endswith(SUFFIXES) else rest).append(path)
        rest += [os.path.join(place, name) for name in folders if _leads_back(place, name)]
    return taken, rest


def _tree(folder: Path, refuse: Callable[[OSError], None]) -> Iterable[tuple[str, list[str], list[str]]]:
    """The folders of a class as `os.walk` gives them, those that a link leads back to and hidden ones not entered."""
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        shown = [name for name in folders if not _is_hidden(name)]
        folders[:] = [name for name in shown if not _leads_back(place, name)]
        yield place, shown, names


def _leads_back(place: str, name: str) -> bool:
    """Whether a folder is one of those that it lies in, by a link."""
    real = os.path.realpath(os.path.join(place, name))
    return os.path.islink(os.path.join(place, name)) and (os.path.realpath(place) + os.sep).startswith(real + os.sep)


def _tell_left_out(folder: Path, listing: Listing) -> None:
    if listing.left_out:
        log.warning(
            "%s: %d of %d entries are left out: %s; pictures are files that end in %s",
            folder,
            len(listing.left_out),
            len(listing.left_out) + len(listing.files),
            _count(listing.left_out),
            ", ".join(SUFFIXES),
        )


def _count(paths: Iterable[str]) -> str:
    """How many there are of each suffix, such as ``5 .gif, 1 without a suffix``."""
    counts = Counter(Path(path).suffix.lower() or "without a suffix" for path in paths)
    listed = [f"{number} {suffix}" for suffix, number in counts.most_common(_SHOWN)]
    others = sum(counts.values()) - sum(number for _, number in counts.most_common(_SHOWN))
    return ", ".join([*listed, *([f"{others} others"] if others else [])])
