"""Images in tar archives: as webdataset packs them, an image and its label side by side, or a packed image folder."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets.own.archives import LARGEST, Member, contents, list_members, write_members
from study.datasets.own.data import LeftOut, OwnSpec
from study.datasets.own.image_folder import SUFFIXES
from study.datasets.own.links import put_file
from study.datasets.own.source import (
    LABEL_NAMES,
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
    number_classes,
    split_of,
    unused_note,
)

_LABELS = ("cls", "json")  # in this order, where a sample has both
_BLOCK = 16  # images that a thread takes at a time
_Place = tuple[int, int]
"""Of a sample: the number of its archive, and the position of its image there."""


@dataclass(frozen=True)
class _Sample:
    """Members that belong together.

    Attributes:
        members: positions of all of them.
        image: position of the image.
        label: as the archive has it; None where it has none.
        split: that its folders tell of; None where they tell of none.
    """

    key: str
    members: tuple[int, ...]
    image: int
    label: str | int | None
    split: str | None


@dataclass(frozen=True)
class _Shard:
    """An archive with its members in samples.

    Attributes:
        split: that its name tells of; None where it tells of none.
        folders: positions of those.
    """

    path: Path
    name: str
    split: str | None
    samples: tuple[_Sample, ...]
    folders: tuple[int, ...]
    left_out: tuple[LeftOut, ...]


def look(spec: OwnSpec, paths: Sequence[Path]) -> Source:
    """The samples of one archive, or of several in a folder.

    Raises:
        UserError: an archive that cannot be read, or one without images or labels.
    """
    several = spec.path.is_dir()
    shards = [_look_shard(path, spec.label_column, f"{as_text(path.name)}:" if several else "") for path in paths]
    kinds = {sample.split or shard.split or TRAIN for shard in shards for sample in shard.samples}
    test, others = chosen_test(kinds - {TRAIN})
    names = {TRAIN: TRAIN, **({test: TEST} if test is not None else {})}
    collected = {split: Labels(split) for split in names.values()}
    unused: set[_Place] = set()
    for number, shard in enumerate(shards):
        for sample in shard.samples:
            split = names.get(sample.split or shard.split or TRAIN)
            if split is None:
                unused.add((number, sample.image))
            else:
                collected[split].add(sample.key, sample.label, (number, sample.image))
    if not collected[TRAIN].ids:
        raise UserError(
            f"{spec.path} must hold training images with labels: KEY.png beside KEY.cls or KEY.json, or folders of a "
            f"class, got {len(collected[TRAIN].left_out):,} images without a label"
        )
    classes, numbers = number_classes(collected)
    splits = {
        split: Samples(tuple(labels.ids), numbers[split], partial(_batches, shards, tuple(labels.places)))
        for split, labels in collected.items()
    }
    left_out = [one for shard in shards for one in shard.left_out]
    return Source(
        "tar",
        classes,
        splits,
        [file_stamp(shard.path, shard.name) for shard in shards],
        partial(_write, shards, {split: labels.places for split, labels in collected.items()}, unused, several),
        label_column=spec.label_column,
        left_out=(*left_out, *(one for labels in collected.values() for one in labels.left_out)),
        notes=tuple(unused_note(others)),
    )


def _look_shard(path: Path, column: str | None, prefix: str) -> _Shard:
    """The samples of an archive: by their keys where members are labels, else each image by the folder it is in."""
    members = list_members(path, tuple(f".{name}" for name in _LABELS))
    left_out, files, folders = [], [], []
    for member in members:
        base = PurePosixPath(member.name).name
        if member.is_folder:
            folders.append(member.position)
        elif not member.is_file:
            left_out.append(LeftOut(prefix + as_text(member.name), "no plain file, but a link or a device"))
        elif base.startswith(".") or "__MACOSX" in PurePosixPath(member.name).parts:
            left_out.append(LeftOut(prefix + as_text(member.name), "hidden"))
        else:
            files.append(member)
    by_key = any(member.text is not None for member in files)
    made, odd = _by_key(files, column, prefix) if by_key else _by_folder(files, prefix)
    words = re.split(r"[-_.]", path.name)
    split = next((kind for word in words if (kind := split_of(word)) is not None), None)
    return _Shard(path, as_text(path.name), split, tuple(made), tuple(folders), (*left_out, *odd))


def _by_key(files: Sequence[Member], column: str | None, prefix: str) -> tuple[list[_Sample], list[LeftOut]]:
    """Members that follow each other and have the same name up to the first dot are a sample."""
    groups: list[tuple[str, list[tuple[str, Member]]]] = []
    for member in files:
        path = PurePosixPath(member.name)
        base, _, ending = path.name.partition(".")
        key = (path.parent / base).as_posix()
        if not groups or groups[-1][0] != key:
            groups.append((key, []))
        groups[-1][1].append((ending.lower(), member))
    samples, left_out = [], []
    for key, group in groups:
        images = [member for ending, member in group if f".{ending}".endswith(SUFFIXES)]
        if not images:
            left_out.append(LeftOut(prefix + as_text(key), "it has no image"))
            continue
        label = _label(dict(group), column)
        positions = tuple(member.position for _, member in group)
        samples.append(_Sample(prefix + as_text(key), positions, images[0].position, label, _split(key)))
    return samples, left_out


def _label(members: Mapping[str, Member], column: str | None) -> str | int | None:
    for ending in _LABELS:
        member = members.get(ending)
        if member is None or member.text is None:
            continue
        if ending == "cls" and column is None:
            return member.text.decode("utf-8", "backslashreplace").strip() or None
        if ending == "json":
            return _label_in(member.text, column)
    return None


def _label_in(text: bytes, column: str | None) -> str | int | None:
    try:
        told: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(told, dict):
        names = [column] if column is not None else [name for name in LABEL_NAMES if name in told]
        told = told.get(names[0]) if names else None
    if isinstance(told, bool) or not isinstance(told, str | int):
        return None
    return told if told != "" else None


def _by_folder(files: Sequence[Member], prefix: str) -> tuple[list[_Sample], list[LeftOut]]:
    """Each image is a sample, and the folder that it is in its class; below ``train`` the first folder there."""
    samples, left_out = [], []
    for member in files:
        path = PurePosixPath(member.name)
        name = prefix + as_text(member.name)
        if not path.name.lower().endswith(SUFFIXES):
            left_out.append(LeftOut(name, "no image, by the ending of its name"))
            continue
        folders = [part for part in path.parent.parts if part not in (".", "/")]
        kinds = [place for place, part in enumerate(folders) if split_of(part) is not None]
        below = folders[kinds[0] + 1 :][:1] if kinds else folders[-1:]
        label = as_text(below[0]) if below else None
        samples.append(_Sample(name, (member.position,), member.position, label, _split(member.name)))
    return samples, left_out


def _split(name: str) -> str | None:
    return next((kind for part in PurePosixPath(name).parent.parts if (kind := split_of(part)) is not None), None)


def _batches(shards: Sequence[_Shard], places: Sequence[_Place], rows: NDArray[np.int64]) -> Iterator[Batch]:
    chosen = [places[row] for row in rows.tolist()]
    for number, shard in enumerate(shards):
        wanted = {position for shard_number, position in chosen if shard_number == number}
        if not wanted:
            continue
        block: list[Content] = []
        for _, stream, size in contents(shard.path, wanted):
            block.append(
                stream.read() if size <= LARGEST else Unreadable(f"it has {size:,} bytes, too many for an image")
            )
            if len(block) == _BLOCK:
                yield Batch(len(block), partial(list, block))
                block = []
        if block:
            yield Batch(len(block), partial(list, block))


def _write(
    shards: Sequence[_Shard],
    places: Mapping[str, Sequence[_Place]],
    unused: set[_Place],
    several: bool,
    kept: Mapping[str, NDArray[np.bool_]],
    folder: Path,
    copy: bool,
) -> Written:
    """The same archives without the members of samples that are not kept; a whole one is linked, or copied."""
    written = unused | {
        place for split, some in places.items() for place, keep in zip(some, kept[split].tolist(), strict=True) if keep
    }
    links = []
    for number, shard in enumerate(shards):
        taken = [sample for sample in shard.samples if (number, sample.image) in written]
        if not shard.left_out and len(taken) == len(shard.samples):
            links.append(put_file(str(shard.path), folder / shard.path.name, copy))
        else:
            members = {member for sample in taken for member in sample.members}
            write_members(shard.path, folder / shard.path.name, members | set(shard.folders))
    data = folder if several else folder / shards[0].path.name
    return Written(data, sum(links), len(shards) - sum(links))
