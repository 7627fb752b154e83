"""A part of a dataset in the input's own format, with a manifest of what was kept and what was not."""

import csv
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.storage.atomic_files import disk_errors
from study.datasets.own.data import OwnData
from study.datasets.own.formats import look
from study.datasets.own.image_folder import MANIFEST
from study.datasets.own.reading import source_stamp
from study.datasets.own.source import TEST, TRAIN, Batch, Samples, Source, content_hash

COLUMNS = ("id", "split", "sha256", "kept", "reason")


@dataclass(frozen=True)
class Manifest:
    """What was written.

    Attributes:
        path: of ``manifest.csv``: id, split, sha256 of the sample's bytes as the input holds them, kept (``yes`` or
            ``no``), and why a sample is not used where it is not.
        data: the folder or file that is read again as the cleaned set.
        kept, dropped: training samples that were written, and that `kept` left out.
        test: test samples that were written.
        left_out: samples and files that were not used, and are not written.
        linked, copied: files that are hard links to the input's, and files that are not.
    """

    path: Path
    data: Path
    kept: int
    dropped: int
    test: int
    left_out: int
    linked: int
    copied: int


def write_subset(data: OwnData, kept: NDArray[np.bool_], folder: Path, *, copy: bool) -> Manifest:
    """Writes the kept training samples, and the test samples as they are, into a folder.

    The input is not touched. A folder that an earlier call wrote is replaced once the new one is whole.

    Args:
        kept: bool [N], of the training samples.
        copy: the bytes of files that could be hard links.

    Raises:
        UserError: the input changed since it was read, or the folder holds something else, or no room is left.
        ValueError: `kept` is of another length.
    """
    if kept.shape != data.train.labels.shape or kept.dtype != np.bool_:
        raise ValueError(f"kept must be bool {data.train.labels.shape}, got {kept.dtype} {kept.shape}")
    folder = folder.expanduser().absolute()
    _check_place(folder, data.spec.path)
    source = look(data.spec)
    if source_stamp(source) != data.stamp:
        raise UserError(f"{data.spec.path} must not change while it is cleaned, and has: start again")
    masks = _masks(source, data, kept)
    partial = folder.with_name(f".{folder.name}.partial")
    with disk_errors(folder.parent):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            written = source.write(masks, partial, copy)
            left_out = _write_manifest(partial / MANIFEST, source, data, masks)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Manifest(
        folder / MANIFEST,
        folder / written.data.relative_to(partial),
        int(kept.sum()),
        int((~kept).sum()),
        0 if data.test is None else len(data.test.labels),
        left_out,
        written.linked,
        written.copied,
    )


def _check_place(folder: Path, path: Path) -> None:
    """Refuses a folder that the input lies in, or that lies in the input, and one that holds something else."""
    inside, outside = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath([inside, outside]) in (inside, outside):
        raise UserError(f"the cleaned set must lie outside of the input {path}, got {folder}: choose another folder")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} must be a folder, or not be there: choose another")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder / MANIFEST):
        raise UserError(f"{folder} must be empty, or a cleaned set with its {MANIFEST}: choose another folder")


def _is_ours(manifest: Path) -> bool:
    try:
        with manifest.open(encoding="utf-8") as file:
            return file.readline().strip() == ",".join(COLUMNS)
    except (OSError, UnicodeDecodeError):
        return False


def _masks(source: Source, data: OwnData, kept: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Which samples of the source are written, bool [N] by split."""
    names = {name for name, keep in zip(data.train.ids, kept.tolist(), strict=True) if keep}
    known = {TRAIN: names, TEST: set(() if data.test is None else data.test.ids)}
    return {
        split: np.array([name in known[split] for name in samples.ids], dtype=np.bool_)
        for split, samples in source.splits.items()
    }


def _write_manifest(path: Path, source: Source, data: OwnData, masks: dict[str, NDArray[np.bool_]]) -> int:
    """Writes one row a sample, and one for all else that is not used; gives how many of these there are."""
    reasons = {(one.split, one.id): one.reason for one in data.left_out}
    told: set[tuple[str, str]] = set()
    with path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for split, samples in source.splits.items():
            for name, digest, keep in zip(samples.ids, sample_hashes(samples), masks[split].tolist(), strict=True):
                told.add((split, name))
                writer.writerow((name, split, digest, "yes" if keep else "no", reasons.get((split, name), "")))
        for one in data.left_out:
            if (one.split, one.id) not in told:
                writer.writerow((one.id, one.split, "", "no", one.reason))
    return len(data.left_out)


def sample_hashes(samples: Samples) -> Iterator[str]:
    """sha256 of the bytes of each sample as the input holds them, in order; empty where they cannot be read."""
    waiting: deque[Future[list[str]]] = deque()
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:  # files are read, and hashes computed, outside the interpreter's lock
        for batch in samples.batches(np.arange(len(samples.ids))):
            if len(waiting) > threads + 1:  # what is read and not hashed yet lies in memory
                yield from waiting.popleft().result()
            waiting.append(pool.submit(_hashes, batch))
        while waiting:
            yield from waiting.popleft().result()


def _hashes(batch: Batch) -> list[str]:
    return [content_hash(content) for content in batch.read()]
