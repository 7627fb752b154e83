"""Which format a path holds, found out by looking at it. Nothing is ever unpickled to find out."""

import os
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from defenses.registry import UserError
from study.datasets.own import archives, arrays, cifar_binary, image_folder, tables, webdataset
from study.datasets.own.data import OwnSpec
from study.datasets.own.source import Source

KNOWN = (
    "a folder of images, one folder a class, Parquet files, a Hugging Face dataset saved on disk, npz, npy, "
    "safetensors, a tar archive of images and labels, or CIFAR's binary files"
)
_TABLES, _ARRAYS = tables.SUFFIXES, (".npz", ".npy", ".safetensors", ".pt", ".pth")
_PICKLES = (".pkl", ".pickle", ".p", ".joblib", ".dill")
_PICKLED_CIFAR = re.compile(r"data_batch_\d+|test_batch|batches\.meta")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PACKED = {".zip": "unpack it, and name the folder", ".7z": "unpack it, and name the folder"}
_PACKED |= {".rar": "unpack it, and name the folder", ".gz": "unpack it, and name the file in it"}
_PACKED |= {".h5": "save its arrays by numpy.savez", ".hdf5": "save its arrays by numpy.savez"}
_PACKED |= {".mat": "save its arrays by numpy.savez", ".csv": "name the folder that it and the images are in"}


def look(spec: OwnSpec) -> Source:
    """The samples of a folder or file.

    Args:
        spec: with an absolute path.

    Raises:
        UserError: no such path, no known format, or one that cannot be read.
    """
    try:
        if spec.path.is_dir():
            return _with_columns(spec, _look_folder(spec))
        if spec.path.is_file():
            return _with_columns(spec, _look_file(spec))
    except OSError as error:
        raise UserError(f"{error.filename or spec.path} must be readable: {error.strerror or error}") from error
    if os.path.lexists(spec.path):
        raise UserError(f"{spec.path} must be a folder or a plain file, and is neither: check the path")
    raise UserError(f"there must be a folder or a file at {spec.path}: check the path")


def _with_columns(spec: OwnSpec, source: Source) -> Source:
    """The source, unless a column is named that its format has not."""
    for option, asked, read in (
        ("--image-column", spec.image_column, source.image_column),
        ("--label-column", spec.label_column, source.label_column),
    ):
        if asked is not None and read is None:
            raise UserError(f"{option} changes nothing with {spec.path} ({source.format}), got {asked!r}: leave it out")
    return source


def _look_folder(spec: OwnSpec) -> Source:
    with os.scandir(spec.path) as entries:
        files = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    nested = [spec.path / name for name in ("cifar-10-batches-bin", "cifar-100-binary")]
    for folder in [spec.path, *(path for path in nested if path.is_dir())]:
        if any(cifar_binary.RECORDS.fullmatch(path.name) for path in folder.iterdir()):
            return cifar_binary.look_folder(spec, folder)
    pickled = [name for name in files if _is_pickle(spec.path / name)]
    if pickled or (spec.path / "cifar-10-batches-py").is_dir():
        raise UserError(_refuse_pickle(spec.path / (pickled[0] if pickled else "cifar-10-batches-py")))
    shards = [spec.path / name for name in files if name.lower().endswith(archives.SUFFIXES)]
    if shards:
        return webdataset.look(spec, shards)
    if tables.files_in(spec.path):
        return tables.look(spec)
    if any(name.endswith(".npy") for name in files):
        return arrays.look(spec)
    single = [name for name in files if name.lower().endswith(_ARRAYS)]
    if len(single) == 1:
        return arrays.look(replace(spec, path=spec.path / single[0]))
    return image_folder.look(spec)


def _look_file(spec: OwnSpec) -> Source:
    name, suffix = spec.path.name.lower(), spec.path.suffix.lower()
    if _is_pickle(spec.path):
        raise UserError(_refuse_pickle(spec.path))
    if suffix in _TABLES:
        return tables.look(spec)
    if suffix in _ARRAYS:
        return arrays.look(spec)
    if suffix == ".bin":
        return cifar_binary.look_file(spec)
    if name.endswith(archives.SUFFIXES):
        return _look_archive(spec)
    way_out = _PACKED.get(suffix, "check the path")
    raise UserError(f"data must be {KNOWN}; {spec.path} is none of them: {way_out}")


def _look_archive(spec: OwnSpec) -> Source:
    members = archives.list_members(spec.path, ())
    if cifar_binary.is_archive_of_records(members):
        return cifar_binary.look_archive(spec)
    names = [PurePosixPath(member.name) for member in members if member.is_file]
    if any(_PICKLED_CIFAR.fullmatch(path.name) or path.suffix in _PICKLES for path in names):
        raise UserError(_refuse_pickle(spec.path))
    if any(path.parts[:1] == ("cifar-100-python",) for path in names):
        raise UserError(_refuse_pickle(spec.path))
    return webdataset.look(spec, [spec.path])


def _is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its name, or, without a suffix, by how it begins."""
    if path.suffix.lower() in _PICKLES or _PICKLED_CIFAR.fullmatch(path.name):
        return True
    if path.suffix:
        return False
    with path.open("rb") as stream:
        return _PICKLE.match(stream.read(2)) is not None


def _refuse_pickle(path: Path) -> str:
    return (
        f"{path} holds Python pickles, which can execute anything as they are read, so they are not: take the binary "
        "version of CIFAR (cifar-10-binary.tar.gz), or save the images and labels by numpy.savez(FILE, "
        "train_images=..., train_labels=...)"
    )
