"""Datasets in one npz file, laid out as MedMNIST lays out its own."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.datasets import DatasetSpec
from study.datasets.images import Images

_NPY = b"\x93NUMPY"  # how a single array's file begins
KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(spec: DatasetSpec) -> Images:
    """``npz:FILE``: images uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3], labels [N] or [N, 1], optional ``classes``.

    Raises:
        UserError: no file, not an npz, a missing key, a wrong dtype or shape.
    """
    arrays = read_arrays(spec.path, KEYS, optional=("classes",))
    labels = {split: read_labels(arrays[f"{split}_labels"], f"{split}_labels") for split in ("train", "test")}
    count = 1 + max(int(label.max(initial=0)) for label in labels.values())
    classes = read_classes(arrays["classes"]) if "classes" in arrays else None
    most = len(labels["train"])
    if (count if classes is None else len(classes)) > most > 0:
        raise UserError(
            f"{spec.path} must have no more classes than training images, got "
            + (f"labels up to {count - 1}" if classes is None else f"{len(classes)} names in classes")
            + f" and {most} images: count labels from 0, without gaps"
        )
    return Images.of(
        read_images(arrays["train_images"], "train_images"),
        labels["train"],
        read_images(arrays["test_images"], "test_images"),
        labels["test"],
        tuple(map(str, range(min(count, most + 1)))) if classes is None else classes,
    )


def read_classes(array: NDArray[Any]) -> tuple[str, ...]:
    """Names of classes from text, bytes or whole numbers [K].

    Raises:
        UserError: another shape or dtype, or bytes that are no UTF-8.
    """
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise UserError(
            f"classes must be a list of names, one a class, got {array.dtype} {list(array.shape)}: "
            "save it as numpy.array([name, ...])"
        )
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in array.tolist())
    except UnicodeDecodeError as error:
        raise UserError(
            "classes must be text, got bytes that are no UTF-8: save it as numpy.array([name, ...])"
        ) from error


def read_arrays(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """The named arrays of an npz file, of any dtype and shape [...]; those that would need unpickling are refused.

    Raises:
        UserError: no file, no npz file, an array of Python objects, or a required array that is missing.
    """
    if not path.is_file():
        raise UserError(f"there must be a file at {path.resolve()}: check the path after npz:")
    try:
        with path.open("rb") as stream:  # numpy leaves a file open that it cannot make sense of
            if stream.read(len(_NPY)) != _NPY and not zipfile.is_zipfile(path):
                raise UserError(f"{path} must be an npz file, and is no zip archive at all: write it with numpy.savez")
            stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise UserError(f"{path} must be an npz file, got a single array: write it with numpy.savez")
            with loaded as file:
                missing = [key for key in required if key not in file.files]
                if missing:
                    raise UserError(
                        f"{path} must hold {', '.join(required)}; {', '.join(missing)} is missing "
                        f"(it holds {', '.join(file.files) or 'nothing'})"
                    )
                return {key: _array(file, key) for key in (*required, *optional) if key in file.files}
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever they stumble on in a damaged or hostile file
        if "allow_pickle" in str(error):
            raise UserError(f"{path} must hold plain arrays, no Python objects: {error}") from error
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} must be an npz file as numpy.savez writes it: {reason}") from error


def _array(file: Any, key: str) -> NDArray[Any]:
    array = file[key]
    if not isinstance(array, np.ndarray):
        raise OSError(f"{key} is no array")  # numpy hands out the bytes of whatever else lies in the zip
    return array


def read_images(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Images as uint8 [N, H, W, 3], grey ones repeated.

    Raises:
        UserError: another dtype.
    """
    if array.dtype != np.uint8:
        raise UserError(f"{name} must be uint8 in [0, 255], got {array.dtype}: scale and cast it before saving")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] == 1:
        array = np.repeat(array, 3, axis=3)
    return np.ascontiguousarray(array)


def read_labels(array: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Labels as int64 [N].

    Raises:
        UserError: no whole numbers, or another shape than [N] or [N, 1].
    """
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{name} must be integers, got {array.dtype}: cast them before saving")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{name} must have the shape [N] or [N, 1], got {list(array.shape)}")
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise UserError(f"{name} must be numbers of classes, got {array.max()}: count labels from 0, without gaps")
    return array.astype(np.int64)
