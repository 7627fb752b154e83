"""CIFAR-10 and CIFAR-100 as their authors' binary records: a folder of ``.bin`` files, or the archive of them."""

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets.cifar import PIXELS
from study.datasets.own.archives import Member, contents, list_members, write_members
from study.datasets.own.data import OwnSpec
from study.datasets.own.links import put_file
from study.datasets.own.source import (
    TEST,
    TRAIN,
    Batch,
    Content,
    Labels,
    Samples,
    Source,
    Written,
    as_text,
    file_stamp,
    number_classes,
)

RECORDS = re.compile(r"(data_batch_\d+|test_batch|train|test)\.bin")
_NAMES = ("batches.meta.txt", "fine_label_names.txt")
_BLOCK = 64  # records that are in memory at a time


@dataclass(frozen=True)
class _Records:
    """A file of records.

    Attributes:
        name: of the file.
        count: of its records.
        label_bytes: CIFAR-100 writes a coarse label before the fine one.
        member: its position in an archive; None for a file.
    """

    path: Path
    name: str
    count: int
    label_bytes: int
    member: int | None = None

    def blocks(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(first record, records uint8 [n, bytes]) in order."""
        size = self.label_bytes + PIXELS
        if self.member is None:
            with self.path.open("rb") as file:
                yield from _blocks(file, self.count, size, self.path)
            return
        for _, stream, _ in contents(self.path, {self.member}):
            yield from _blocks(stream, self.count, size, self.path)


def _blocks(stream: IO[bytes], count: int, size: int, path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for first in range(0, count, _BLOCK):
        data = stream.read(min(_BLOCK, count - first) * size)
        if len(data) != min(_BLOCK, count - first) * size:
            raise UserError(f"{path} must hold whole records of {size} bytes, and ends early: fetch it again")
        yield first, np.frombuffer(data, dtype=np.uint8).reshape(-1, size)


@dataclass(frozen=True)
class _Input:
    """Records, and the files beside them.

    Attributes:
        path: a folder, or an archive.
        members: of an archive.
        beside: files that go with them into what is written.
    """

    path: Path
    records: tuple[_Records, ...]
    classes: tuple[str, ...] | None
    members: tuple[Member, ...] = ()
    beside: tuple[Path, ...] = ()


def look_folder(spec: OwnSpec, folder: Path) -> Source:
    """The records in a folder.

    Raises:
        UserError: a file of another length, or no training records.
    """
    files = sorted(path for path in folder.iterdir() if RECORDS.fullmatch(path.name) and path.is_file())
    names = [folder / name for name in _NAMES if (folder / name).is_file()]
    classes = _class_names(names[0].read_bytes()) if names else None
    records = tuple(_records(path, path.name, path.stat().st_size, None) for path in files)
    beside = tuple(sorted(path for path in folder.glob("*.txt") if path.is_file()))
    return _source(spec, _Input(folder, records, classes, beside=beside))


def look_file(spec: OwnSpec) -> Source:
    """The records in one file.

    Raises:
        UserError: it is of another length, or of test records.
    """
    path = spec.path
    names = [path.parent / name for name in _NAMES if (path.parent / name).is_file()]
    classes = _class_names(names[0].read_bytes()) if names else None
    return _source(
        spec, _Input(path.parent, (_records(path, path.name, path.stat().st_size, None),), classes, beside=tuple(names))
    )


def is_archive_of_records(members: Sequence[Member]) -> bool:
    """Whether an archive holds binary records."""
    return any(member.is_file and RECORDS.fullmatch(PurePosixPath(member.name).name) for member in members)


def look_archive(spec: OwnSpec) -> Source:
    """The records in an archive, as their authors give them out.

    Raises:
        UserError: a file of another length in it, or no training records.
    """
    members = list_members(spec.path, _NAMES)
    base = {member.position: PurePosixPath(member.name).name for member in members}
    records = tuple(
        _records(spec.path, base[member.position], member.size, member.position)
        for member in sorted(members, key=lambda member: base[member.position])
        if member.is_file and RECORDS.fullmatch(base[member.position])
    )
    texts = {base[member.position]: member.text for member in members if member.text is not None}
    named = next((texts[name] for name in _NAMES if name in texts), None)
    classes = None if named is None else _class_names(named)
    return _source(spec, _Input(spec.path, records, classes, tuple(members)))


def _class_names(text: bytes) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", "replace").split())


def _records(path: Path, name: str, size: int, member: int | None) -> _Records:
    """A file of `size` bytes; the length of a record says which of the two sets it is of."""
    usual = (2, 1) if name in ("train.bin", "test.bin") else (1, 2)
    for label_bytes in usual:
        if size % (label_bytes + PIXELS) == 0:
            return _Records(path, name, size // (label_bytes + PIXELS), label_bytes, member)
    raise UserError(
        f"{path}: {name} must hold records of {1 + PIXELS} or {2 + PIXELS} bytes, got {size:,} bytes: fetch it again"
    )


def _source(spec: OwnSpec, told: _Input) -> Source:
    names = [one.name for one in told.records]
    if len(set(names)) < len(names):
        raise UserError(f"{spec.path} must hold each file of records once, got {', '.join(names)}")
    collected = {TRAIN: Labels(TRAIN), TEST: Labels(TEST)}
    for number, one in enumerate(told.records):
        labels = collected[TEST if one.name.startswith("test") else TRAIN]
        for first, block in one.blocks():
            for row, label in enumerate(block[:, one.label_bytes - 1].tolist(), first):
                labels.add(f"{as_text(one.name)}:{row}", label, (number, row))
    if not collected[TRAIN].ids:
        raise UserError(f"{spec.path} must hold training records, got {', '.join(names)}: add data_batch_1.bin")
    used = {split: labels for split, labels in collected.items() if labels.ids}
    most = max(int(label) for labels in used.values() for label in labels.values)
    classes, numbers = number_classes(used, told.classes if told.classes and most < len(told.classes) else None)
    splits = {
        split: Samples(tuple(labels.ids), numbers[split], partial(_batches, told.records, labels.places))
        for split, labels in used.items()
    }
    files = sorted({one.path for one in told.records})
    places = {split: labels.places for split, labels in used.items()}
    return Source(
        "CIFAR binary",
        classes,
        splits,
        [file_stamp(path, as_text(path.name)) for path in files],
        partial(_write, spec.path, told, places),
    )


def _batches(
    records: Sequence[_Records], places: Sequence[tuple[int, int]], rows: NDArray[np.int64]
) -> Iterator[Batch]:
    chosen = np.array([places[row] for row in rows.tolist()], dtype=np.int64).reshape(-1, 2)
    for number, one in enumerate(records):
        wanted = chosen[chosen[:, 0] == number, 1]
        for first, block in one.blocks() if len(wanted) else ():
            start, stop = np.searchsorted(wanted, (first, first + len(block)))
            if stop > start:
                yield Batch(int(stop - start), partial(_pixels, block[wanted[start:stop] - first, one.label_bytes :]))


def _pixels(rows: NDArray[np.uint8]) -> list[Content]:
    return list(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _write(
    path: Path,
    told: _Input,
    places: Mapping[str, Sequence[tuple[int, int]]],
    kept: Mapping[str, NDArray[np.bool_]],
    folder: Path,
    copy: bool,
) -> Written:
    """The same files with the kept records; of an archive, the same archive."""
    masks = [np.zeros(one.count, dtype=np.bool_) for one in told.records]
    for split, some in places.items():
        for (number, row), keep in zip(some, kept[split].tolist(), strict=True):
            masks[number][row] = keep
    folder.mkdir(parents=True, exist_ok=True)
    if told.members:
        _write_archive(told, masks, folder / path.name)
        return Written(folder / path.name, 0, 1)
    links = []
    for one, mask in zip(told.records, masks, strict=True):
        if mask.all():
            links.append(put_file(str(one.path), folder / one.name, copy))
        else:
            with (folder / one.name).open("xb") as stream:
                for first, block in one.blocks():
                    stream.write(block[mask[first : first + len(block)]].tobytes())
    links += [put_file(str(beside), folder / beside.name, copy) for beside in told.beside]
    data = folder if path.is_dir() else folder / path.name
    return Written(data, sum(links), len(told.records) + len(told.beside) - sum(links))


def _write_archive(told: _Input, masks: Sequence[NDArray[np.bool_]], target: Path) -> None:
    """The members in their order: records cut down, all else byte for byte."""
    cut = {one.member: (one, mask) for one, mask in zip(told.records, masks, strict=True)}

    def part(position: int, info: tarfile.TarInfo, stream: IO[bytes]) -> IO[bytes]:
        if position not in cut:
            return stream
        one, mask = cut[position]
        kept = TemporaryFile()  # noqa: SIM115
        for first, block in _blocks(stream, one.count, one.label_bytes + PIXELS, told.path):
            kept.write(block[mask[first : first + len(block)]].tobytes())
        info.size = kept.tell()
        kept.seek(0)
        return kept

    write_members(told.path, target, {member.position for member in told.members}, part)
