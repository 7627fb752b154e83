"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their authors' binary archives.

torchvision downloads, checks and unpacks them, but its own CIFAR classes read the "python version", which is a pickle:
nothing here unpickles, so the plain records of the binary version are read instead.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets import DatasetSpec
from study.datasets.images import Images

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Archive:
    url: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int  # CIFAR-100 writes a coarse label before the fine one


_CIFAR10 = _Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    ("test_batch.bin",),
    "batches.meta.txt",
    1,
)
_CIFAR100 = _Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "03b5dce01913d631647c71ecec9e9cb8",
    "cifar-100-binary",
    ("train.bin",),
    ("test.bin",),
    "fine_label_names.txt",
    2,
)


def load_cifar10(spec: DatasetSpec) -> Images:
    """50,000 training and 10,000 test images, uint8 [N, 32, 32, 3], 10 classes."""
    return _load(_CIFAR10, spec)


def load_cifar100(spec: DatasetSpec) -> Images:
    """50,000 training and 10,000 test images, uint8 [N, 32, 32, 3], 100 fine classes."""
    return _load(_CIFAR100, spec)


def _load(archive: _Archive, spec: DatasetSpec) -> Images:
    folder = spec.data_dir / archive.folder
    if not (folder / archive.names).is_file():
        if not spec.download:
            raise UserError(
                f"dataset {spec.name!r} was looked for in {folder.resolve()} and is not there: add --download, "
                f"or unpack {archive.url} there, or name the folder's parent with --data-dir"
            )
        _download(archive, spec)
    classes = tuple((folder / archive.names).read_text(encoding="utf-8", errors="replace").split())
    train = _records(folder, archive.train, archive.label_bytes)
    test = _records(folder, archive.test, archive.label_bytes)
    return Images.of(*train, *test, classes)


def _download(archive: _Archive, spec: DatasetSpec) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(archive.url, str(spec.data_dir), md5=archive.md5)
    except (OSError, RuntimeError) as error:  # no network or disk; RuntimeError is torchvision's for a wrong md5
        raise UserError(
            f"{archive.url} could not be fetched into {spec.data_dir.resolve()}: {error}; try again, "
            "or unpack it there by hand"
        ) from error


def _records(folder: Path, files: tuple[str, ...], label_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    size = label_bytes + PIXELS
    parts = []
    for file in files:
        if not (folder / file).is_file():
            raise UserError(
                f"there must be a file at {(folder / file).resolve()}: "
                "remove the folder and fetch it again with --download"
            )
        raw = np.fromfile(folder / file, dtype=np.uint8)
        if len(raw) == 0 or len(raw) % size:
            raise UserError(
                f"{folder / file} must hold records of {size} bytes, got {len(raw)} bytes: "
                "remove the folder and fetch it again with --download"
            )
        parts.append(raw.reshape(-1, size))
    records = np.concatenate(parts)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, label_bytes - 1].astype(np.int64)
