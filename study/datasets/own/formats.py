"""Which format a path holds, found out by looking at it."""

import os

from defenses.registry import UserError
from study.datasets.own.data import OwnSpec
from study.datasets.own.source import Source

_ARRAYS = (".npz", ".npy", ".safetensors", ".pt", ".pth")


def look(spec: OwnSpec) -> Source:
    """The samples of a folder or file.

    Args:
        spec: with an absolute path.

    Raises:
        UserError: no such path, no known format, or one that cannot be read.
    """
    if not spec.path.exists():
        raise UserError(f"there must be a folder or a file at {spec.path}: check the path")
    return _look_folder(spec) if spec.path.is_dir() else _look_file(spec)


def _look_folder(spec: OwnSpec) -> Source:
    from study.datasets.own import image_folder, tables

    if tables.files_in(spec.path):
        return tables.look(spec)
    return image_folder.look(spec)


def _look_file(spec: OwnSpec) -> Source:
    from study.datasets.own import arrays, tables

    suffix = spec.path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        return tables.look(spec)
    if suffix in _ARRAYS:
        return arrays.look(spec)
    raise UserError(f"{os.fspath(spec.path)} must be of a known format")
