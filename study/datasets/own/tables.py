"""Parquet files, and Hugging Face datasets as Parquet or as ``save_to_disk`` wrote them."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets.own.data import OwnSpec
from study.datasets.own.links import put_file
from study.datasets.own.shards import Shard, class_names, features, looks_like_images, looks_like_labels, open_shard
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
    choose_column,
    chosen_test,
    file_stamp,
    number_classes,
    split_of,
    unused_note,
)

SUFFIXES = (".parquet", ".arrow")
_OF_HUGGING_FACE = ("dataset_dict.json", "dataset_info.json", "state.json")
_DEEPEST = 2  # folders below the input in which shards are looked for
_Place = tuple[int, int]
"""Of a sample: the number of its shard, and its row there."""


def files_in(folder: Path) -> list[Path]:
    """The shards in a folder, by name; tables of image names, which lie beside images, are none."""
    shards: list[Path] = []
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except OSError:  # which reading images there will say
            continue
        for entry in entries:
            if entry.name.startswith((".", "cache-", "tmp")) or entry.name == "metadata.parquet":
                continue
            if entry.is_dir():
                waiting += [(Path(entry.path), depth + 1)] if depth < _DEEPEST else []
            elif entry.name.lower().endswith(SUFFIXES):
                shards.append(Path(entry.path))
    return sorted(shards)


def look(spec: OwnSpec) -> Source:
    """The samples of tables.

    Raises:
        UserError: a file that cannot be read, no training rows, or no column of images or labels.
    """
    root = spec.path if spec.path.is_dir() else spec.path.parent
    paths = files_in(root) if spec.path.is_dir() else [spec.path]
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(_split(path, root), []).append(path)
    if TRAIN not in by_split:
        raise UserError(f"{spec.path} must hold training rows, got {', '.join(sorted(by_split))} alone")
    test, others = chosen_test(split for split in by_split if split != TRAIN)
    used = [(TRAIN, path) for path in by_split[TRAIN]] + [(TEST, path) for path in by_split.get(test or "", ())]
    shards = [open_shard(path, as_text(path.relative_to(root).as_posix())) for _, path in used]
    image, label, names = _columns(spec, shards)
    collected = {split: Labels(split) for split, _ in used}
    for number, ((split, _), shard) in enumerate(zip(used, shards, strict=True)):
        _collect(collected[split], number, shard, label, names)
    if not collected[TRAIN].ids:
        raise UserError(f"{spec.path} must hold training rows with labels, got none: check --label-column")
    classes, numbers = number_classes(collected, names)
    splits = {
        split: Samples(tuple(one.ids), numbers[split], partial(_batches, shards, one.places, image), image)
        for split, one in collected.items()
        if one.ids or split == TRAIN
    }
    unused = [path for split in others for path in by_split[split]]
    arrow = any(path.suffix.lower() == ".arrow" for path in paths)
    return Source(
        "Hugging Face dataset (Arrow)" if arrow else "Parquet",
        classes,
        splits,
        [file_stamp(shard.path, shard.name) for shard in shards],
        partial(_write, root, shards, {split: one.places for split, one in collected.items()}, unused),
        image_column=image,
        label_column=label,
        left_out=tuple(one for labels in collected.values() for one in labels.left_out),
        notes=tuple(unused_note(others)),
    )


def _split(path: Path, root: Path) -> str:
    """The split that a shard's folder tells of, or how its name begins; training where neither does."""
    folders = path.relative_to(root).parts[:-1]
    for name in (*reversed(folders), *re.split(r"[-_.]", path.name)[:-1]):
        kind = split_of(name)
        if kind is not None:
            return kind
    return TRAIN


def _columns(spec: OwnSpec, shards: Sequence[Shard]) -> tuple[str, str, tuple[str, ...] | None]:
    """The column of images, that of labels, and the names of classes where the features tell them."""
    schema, names = shards[0].schema, list(shards[0].schema.names)
    told = features(schema)
    typed = [name for name in names if told.get(name, {}).get("_type") == "Image"]
    likely = typed or [name for name in names if looks_like_images(schema, name)]
    image = choose_column(spec.image_column, names, likely, "encoded images", "--image-column")
    if names.count(image) > 1 or not looks_like_images(schema, image):
        kind = schema.field(names.index(image)).type
        raise UserError(
            f"--image-column must name a column of encoded images (bytes, or a struct with a field bytes), got "
            f"{image!r} of type {str(kind)[:80]}"
        )
    typed = [name for name in names if class_names(told.get(name, {})) is not None]
    likely = typed or [name for name in names if name != image and looks_like_labels(schema, name)]
    label = choose_column(spec.label_column, names, likely, "labels", "--label-column")
    if names.count(label) > 1 or not looks_like_labels(schema, label):
        raise UserError(
            f"--label-column must name a column of whole numbers or text, got {label!r} of type "
            f"{str(schema.field(names.index(label)).type)[:80]}"
        )
    for shard in shards:
        if any(shard.schema.names.count(name) != 1 for name in (image, label)):
            raise UserError(f"{shard.path} must have the columns {image} and {label}, as {shards[0].path.name} has")
    return image, label, class_names(told.get(label, {}))


def _collect(labels: Labels, number: int, shard: Shard, column: str, names: tuple[str, ...] | None) -> None:
    for first, batch in shard.batches([column]):
        for row, value in enumerate(batch.column(0).to_pylist(), first):
            known = int(value) if isinstance(value, bool) else value
            if names is not None and isinstance(known, int) and known < 0:
                known = None  # how Hugging Face writes that a label is hidden
            labels.add(f"{shard.name}:{row}", known, (number, row))


def _batches(
    shards: Sequence[Shard], places: Sequence[_Place], column: str, rows: NDArray[np.int64]
) -> Iterator[Batch]:
    chosen = np.array([places[row] for row in rows.tolist()], dtype=np.int64).reshape(-1, 2)
    for number, shard in enumerate(shards):
        wanted = chosen[chosen[:, 0] == number, 1]
        if len(wanted) == 0:
            continue
        given = 0
        for first, batch in shard.batches([column], wanted):
            start, stop = np.searchsorted(wanted, (first, first + batch.num_rows))
            if stop > start:
                taken = batch.column(0).take(_indices(wanted[start:stop] - first))
                yield Batch(int(stop - start), partial(_contents, taken))
                given += int(stop - start)
        if given < len(wanted):
            raise UserError(f"{shard.path} must keep its {shard.rows} rows while it is read, and has lost some")


def _indices(rows: NDArray[np.int64]) -> Any:
    import pyarrow as pa

    return pa.array(rows)


def _contents(column: Any) -> list[Content]:
    return [_content(value) for value in column.to_pylist()]


def _content(value: Any) -> Content:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        inner = value.get("bytes")
        if isinstance(inner, bytes):
            return inner
        return Unreadable("its row holds no bytes" + (", but the name of a file" if value.get("path") else ""))
    return Unreadable("its row holds no image")


def _write(
    root: Path,
    shards: Sequence[Shard],
    places: Mapping[str, Sequence[_Place]],
    unused: Sequence[Path],
    kept: Mapping[str, NDArray[np.bool_]],
    folder: Path,
    copy: bool,
) -> Written:
    """The same files with the kept rows; a file of which every row is kept is linked, or copied as it is."""
    masks = [np.zeros(shard.rows, dtype=np.bool_) for shard in shards]
    for split, of_split in places.items():
        for (number, row), keep in zip(of_split, kept[split].tolist(), strict=True):
            masks[number][row] = keep
    links = []
    for shard, mask in zip(shards, masks, strict=True):
        target = folder / shard.path.relative_to(root)
        if mask.all():
            links.append(put_file(str(shard.path), target, copy))
        else:
            shard.write_part(target, mask)
    links += [put_file(str(path), folder / path.relative_to(root), copy) for path in unused]
    told = {shard.path.parent for shard in shards} | {path.parent for path in unused} | {root}
    for place in sorted(told):
        for name in _OF_HUGGING_FACE:
            if (place / name).is_file() and any(shard.path.suffix == ".arrow" for shard in shards):
                _write_description(place / name, folder / place.relative_to(root) / name)
    single = folder / shards[0].path.name if len(shards) == 1 and shards[0].path.parent == root else folder
    return Written(single if not unused else folder, sum(links), len(shards) + len(unused) - sum(links))


def _write_description(path: Path, target: Path) -> None:
    """Hugging Face's description of rows, without what would no longer be true of them.

    By its fingerprint it keeps what it computed from the rows, and would give that out for the others.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        shutil.copyfile(path, target)
        return
    if isinstance(told, dict):
        if "_fingerprint" in told:
            told["_fingerprint"] = hashlib.sha256(f"cleaned {told['_fingerprint']}".encode()).hexdigest()[:16]
        for name in ("splits", "size_in_bytes", "dataset_size", "download_size", "download_checksums"):
            if name in told and path.name == "dataset_info.json":
                told[name] = None
    target.write_text(json.dumps(told, indent=2), encoding="utf-8")
