"""A folder of images: one folder a class, below ``train`` and ``test`` or not, or with a table of file names.

Whatever is no image is listed with the reason; links are followed, and no name in a table leads out of the folder.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets.folder import SUFFIXES as USUAL
from study.datasets.own.archives import LARGEST
from study.datasets.own.data import LeftOut, OwnSpec
from study.datasets.own.links import put_file
from study.datasets.own.metadata_table import METADATA, MetadataTable, read_metadata
from study.datasets.own.source import (
    TEST,
    TRAIN,
    Batch,
    Content,
    Labels,
    Samples,
    Source,
    Unreadable,
    Written,
    as_text,
    chosen_test,
    file_stamp,
    in_pieces,
    number_classes,
    split_of,
    unused_note,
)

FORMAT = "image folder"
SUFFIXES = (*USUAL, ".gif")
MANIFEST = "manifest.csv"  # ours, beside a cleaned set
_HIDDEN = ("__MACOSX", "@eaDir")  # what systems leave beside files
_BLOCK = 16  # files that a thread reads before it takes the next ones


@dataclass
class _Listing:
    """What is listed of a folder so far.

    Attributes:
        root: the input.
        splits: their samples; the place of one is its path.
        left_out: what is no sample.
        tables: of names and labels, by split.
        unused: files of further test sets, which stay as they are.
    """

    root: Path
    splits: dict[str, Labels]
    left_out: list[LeftOut]
    tables: list[MetadataTable]
    unused: list[str] = field(default_factory=list)

    def skip(self, path: str, reason: str, split: str = "") -> None:
        self.left_out.append(LeftOut(self.name(path), reason, split))

    def name(self, path: str) -> str:
        return as_text(os.path.relpath(path, self.root))


def look(spec: OwnSpec) -> Source:
    """The samples of an image folder.

    Raises:
        UserError: no image in a folder of a class, a folder that cannot be listed, or a table that cannot be read.
    """
    root = spec.path
    listing = _Listing(root, {TRAIN: Labels(TRAIN)}, [], [])
    entries = _entries(root, listing)
    by_split: dict[str, str] = {}
    for entry in entries:
        kind = split_of(entry.name) if entry.is_dir() and _holds_classes(entry.path) else None
        if kind is not None:
            by_split.setdefault(kind, entry.path)
    test, others = chosen_test(name for name in by_split if name != TRAIN)
    table = next((entry.path for entry in entries if entry.name in METADATA), None)
    if table is not None:
        _list_table(Path(table), spec, listing, None)
    elif TRAIN in by_split:
        _list_split(by_split[TRAIN], TRAIN, spec, listing)
        if test is not None:
            _list_split(by_split[test], TEST, spec, listing)
        listing.unused = [path for name in others for path in _files_below(by_split[name])]
        for entry in entries:
            if entry.path not in by_split.values():
                listing.skip(entry.path, "it lies in neither the training nor the test folder")
    else:
        _refuse_tests_alone(root, entries, list(by_split))
        _list_classes(root, entries, TRAIN, listing)
        others = []
    return _source(spec, listing, unused_note(os.path.basename(by_split[name]) + "/" for name in others))


def _holds_classes(folder: str) -> bool:
    """Whether a folder of a split's name is one; a folder of images alone is a class, such as that of trains."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name in METADATA or (entry.is_dir() and not _is_hidden(entry.name)) for entry in entries)
    except OSError as error:
        raise UserError(f"{folder} must be a folder that can be listed: {error.strerror}") from error


def _refuse_tests_alone(root: Path, entries: list["os.DirEntry[str]"], splits: list[str]) -> None:
    folders = [entry for entry in entries if entry.is_dir()]
    if folders and len(splits) == len(folders):
        raise UserError(f"{root} must hold training images, got {', '.join(sorted(splits))} alone: add a folder train")


def _source(spec: OwnSpec, listing: _Listing, notes: list[str]) -> Source:
    splits = {split: labels for split, labels in listing.splits.items() if labels.ids or split == TRAIN}
    if not splits[TRAIN].ids:
        raise UserError(
            f"{spec.path} must hold images, one folder a class, or train/CLASS/, or a {METADATA[0]}: there is no file "
            f"that ends in {', '.join(SUFFIXES)} in a folder of a class"
        )
    classes, numbers = number_classes(splits)
    samples = {
        split: Samples(tuple(labels.ids), numbers[split], partial(_batches, tuple(labels.places)))
        for split, labels in splits.items()
    }
    left_out = [*listing.left_out, *(one for labels in listing.splits.values() for one in labels.left_out)]
    stamps = [
        file_stamp(path, name)
        for labels in splits.values()
        for path, name in zip(labels.places, labels.ids, strict=True)
    ]
    stamps += [file_stamp(table.path, table.path.name) for table in listing.tables]
    column = listing.tables[0].label_column if listing.tables else None
    name = f"{FORMAT} with {listing.tables[0].path.name}" if listing.tables else FORMAT
    return Source(
        name,
        classes,
        samples,
        stamps,
        partial(_write, listing, {split: labels.places for split, labels in splits.items()}),
        label_column=column,
        left_out=tuple(left_out),
        notes=tuple(notes),
    )


def _entries(folder: Path | str, listing: _Listing) -> list["os.DirEntry[str]"]:
    """What lies in a folder, by name; hidden entries are left out."""
    try:
        with os.scandir(folder) as entries:
            everything = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} must be a folder that can be listed: {error.strerror}") from error
    shown = []
    for entry in everything:
        if _is_hidden(entry.name):
            listing.skip(entry.path, "hidden")
        elif entry.name != MANIFEST or Path(folder) != listing.root:
            shown.append(entry)
    return shown


def _list_split(folder: str, split: str, spec: OwnSpec, listing: _Listing) -> None:
    entries = _entries(folder, listing)
    listing.splits.setdefault(split, Labels(split))
    table = next((entry.path for entry in entries if entry.name in METADATA), None)
    if table is not None:
        _list_table(Path(table), spec, listing, split)
    else:
        _list_classes(folder, entries, split, listing)


def _list_classes(folder: Path | str, entries: list["os.DirEntry[str]"], split: str, listing: _Listing) -> None:
    for entry in entries:
        if not entry.is_dir():
            listing.skip(entry.path, "it lies in no folder of a class", split)
            continue
        before = len(listing.splits[split].ids)
        _list_class(entry.path, as_text(entry.name), split, listing)
        if len(listing.splits[split].ids) == before:
            listing.skip(entry.path, "a folder without an image", split)


def _list_class(folder: str, name: str, split: str, listing: _Listing) -> None:
    """The images in a class's folder and the folders in it; no folder within itself, by a link."""
    waiting: list[tuple[str, tuple[str, ...]]] = [(folder, (os.path.realpath(folder),))]
    while waiting:
        place, above = waiting.pop(0)
        for entry in _entries(place, listing):
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in above:
                    listing.skip(entry.path, "a link to a folder that it lies in", split)
                else:
                    waiting.append((entry.path, (*above, real)))
            elif entry.name.lower().endswith(SUFFIXES):
                listing.splits[split].add(listing.name(entry.path), name, entry.path)
            else:
                listing.skip(entry.path, "no image, by the ending of its name", split)


def _list_table(path: Path, spec: OwnSpec, listing: _Listing, split: str | None) -> None:
    """The images that a table of file names tells of."""
    table = read_metadata(path, spec.label_column)
    listing.tables.append(table)
    tests = {split_of(name.partition("/")[0]) for name, _ in table.rows} - {None, TRAIN}
    test, _ = chosen_test(name for name in tests if name is not None)
    for position, (file, label) in enumerate(table.rows):
        of = split
        if of is None:
            kind = split_of(file.partition("/")[0])
            of = TEST if kind == test and kind is not None else TRAIN if kind in (None, TRAIN) else None
        if of is None:
            listing.unused.append(os.path.join(path.parent, file))
            continue
        name = listing.name(os.path.join(path.parent, file))
        reason = _refusal(path.parent, file)
        if reason:
            listing.skip(os.path.join(path.parent, f"{path.name}:{position}"), reason, of)
        else:
            collected = listing.splits.setdefault(of, Labels(of))
            collected.add(name, label, os.path.join(path.parent, file))
    named = {os.path.join(path.parent, file) for file, _ in table.rows}
    for file in _files_below(str(path.parent)):
        if file not in named and file.lower().endswith(SUFFIXES):
            listing.skip(file, f"{path.name} does not name it", split or "")


def _files_below(folder: str) -> list[str]:
    """All plain files in a folder and the folders in it, hidden ones left out."""
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        files += [os.path.join(place, name) for name in sorted(names) if not _is_hidden(name)]
    return [file for file in files if os.path.isfile(file)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN


def _refusal(folder: Path, file: str) -> str:
    """Why a file that a table names is not taken; empty where it is."""
    parts = Path(file).parts
    if not parts or os.path.isabs(file) or ".." in parts or "\0" in file:
        return f"{file!r} is no path below the folder"
    if not os.path.isfile(folder / file):
        return f"there is no file {file!r}"
    return ""


def _batches(paths: tuple[str, ...], rows: NDArray[np.int64]) -> Iterator[Batch]:
    for piece in in_pieces(len(rows), _BLOCK):
        chosen = [paths[row] for row in rows[piece.start : piece.stop].tolist()]
        yield Batch(len(chosen), partial(_read_files, chosen))


def _read_files(paths: list[str]) -> list[Content]:
    return [read_file(path) for path in paths]


def read_file(path: str) -> Content:
    """The bytes of a plain file."""
    try:
        if not os.path.isfile(path):
            return Unreadable("no file, or a link to none" if os.path.islink(path) else "no plain file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return file.read() if size <= LARGEST else Unreadable(f"it has {size:,} bytes, too many for an image")
    except OSError as error:
        return Unreadable(f"it cannot be read: {error.strerror}")


def _write(
    listing: _Listing,
    places: Mapping[str, list[str]],
    kept: Mapping[str, NDArray[np.bool_]],
    folder: Path,
    copy: bool,
) -> Written:
    """Hard links or copies of the kept files, under their own paths."""
    taken = {
        path for split, paths in places.items() for path, keep in zip(paths, kept[split].tolist(), strict=True) if keep
    }
    taken |= {path for path in listing.unused if os.path.isfile(path) and not _leads_out(path, listing.root)}
    links = [put_file(path, folder / os.path.relpath(path, listing.root), copy) for path in sorted(taken)]
    for table in listing.tables:
        table.write_part(folder / table.path.relative_to(listing.root), taken)
    return Written(folder, sum(links), len(links) - sum(links))


def _leads_out(path: str, root: Path) -> bool:
    return not os.path.normpath(path).startswith(f"{root}{os.sep}")
