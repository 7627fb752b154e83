"""Named arrays in files, read and written some rows at a time: npz, npy, safetensors, and PyTorch's plain tensors.

Nothing is unpickled: an array of Python objects is refused, and PyTorch's files are read by its loader of weights.
"""

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.storage.array_file import ArrayFile

BLOCK = 64  # rows that are in memory at a time
_PICKLED = (
    "holds Python objects, which would be unpickled, and a pickle can execute anything: save plain arrays of numbers, "
    "such as numpy.savez(FILE, train_images=..., train_labels=...)"
)
_LONGEST_HEADER = 100_000_000  # bytes; what safetensors itself takes at most


@dataclass(frozen=True)
class ArrayInfo:
    """Shape and dtype of a named array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ArrayBox(ABC):
    """Named arrays of one input.

    Args:
        path: of the file, or of the folder of several.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable_arrays(path):
            self.arrays = self._list()

    @abstractmethod
    def _list(self) -> dict[str, ArrayInfo]:
        """Name -> what it is; those that cannot be used are refused."""

    @abstractmethod
    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """The rows of an array in order."""

    @abstractmethod
    def write_part(self, path: Path, kept: Mapping[str, NDArray[np.bool_]]) -> None:
        """Writes the same arrays, of the same dtype; of those that `kept` names the rows bool [N] that it keeps.

        Args:
            path: the new file, or the folder of several.
        """

    def file_of(self, name: str) -> Path:
        """Where an array lies."""
        del name
        return self.path

    def blocks(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first row, rows [n, ...]) of an array of any dtype, in order.

        Raises:
            UserError: the file is damaged.
        """
        first = 0
        with readable_arrays(self.path):
            for block in self._blocks(name):
                yield first, block
                first += len(block)
            if first != self.arrays[name].shape[0]:
                raise UserError(f"{self.path} must hold whole arrays, and {name} ends early: write it again")

    def whole(self, name: str) -> NDArray[Any]:
        """An array of any dtype and shape [N, ...] in memory."""
        blocks = [block for _, block in self.blocks(name)]
        info = self.arrays[name]
        return np.concatenate(blocks) if blocks else np.empty(info.shape, dtype=info.dtype)

    def kept_blocks(self, name: str, kept: Mapping[str, NDArray[np.bool_]]) -> Iterator[NDArray[Any]]:
        """The rows that are written, [n, ...] of the array's dtype.

        Args:
            kept: rows bool [N] by name of an array; one that it does not name is whole.
        """
        for first, block in self.blocks(name):
            yield block[kept[name][first : first + len(block)]] if name in kept else block

    def kept_shape(self, name: str, kept: Mapping[str, NDArray[np.bool_]]) -> tuple[int, ...]:
        """The shape that is written.

        Args:
            kept: rows bool [N], dtype bool, by name of an array.
        """
        shape = self.arrays[name].shape
        return (int(kept[name].sum()), *shape[1:]) if name in kept else shape


@contextmanager
def readable_arrays(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file makes its reader stumble on into an error.

    Raises:
        UserError: it cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise UserError(f"{path} {_PICKLED}") from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as arrays: {reason}; write it again") from error


def check_plain(path: Path, name: str, dtype: np.dtype[Any]) -> None:
    """Refuses an array of Python objects.

    Raises:
        UserError: it is one.
    """
    if dtype.hasobject:
        raise UserError(f"{path}: {name} {_PICKLED}")


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, header)


def _rows_of(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The rows of an array in C order that a stream goes on with."""
    row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    if row == 0 or not shape:
        yield np.empty(shape, dtype=dtype) if shape else np.frombuffer(stream.read(dtype.itemsize), dtype)
        return
    block = max(1, min(BLOCK, (4 << 20) // row))
    for start in range(0, shape[0], block):
        count = min(block, shape[0] - start)
        data = stream.read(count * row)
        if len(data) != count * row:
            raise EOFError("it ends early")
        yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


class NpzBox(ArrayBox):
    """An npz file as `numpy.savez` writes it."""

    def _list(self) -> dict[str, ArrayInfo]:
        if not zipfile.is_zipfile(self.path):
            raise UserError(f"{self.path} must be an npz file, and is no zip archive: write it with numpy.savez")
        arrays = {}
        self._fortran: set[str] = set()
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays or not member.filename.endswith(".npy"):
                    raise UserError(
                        f"{self.path} must hold arrays of different names alone, got {member.filename!r}: "
                        "write it with numpy.savez"
                    )
                with zipfile.ZipFile.open(archive, member) as stream:
                    shape, fortran, dtype = _npy_header(stream)
                    header = stream.tell()
                check_plain(self.path, name, dtype)
                expected = header + dtype.itemsize * int(np.prod(shape, dtype=object))
                if member.file_size != expected:
                    raise UserError(
                        f"{self.path}: {name} must have {expected} bytes by its header, got {member.file_size}: "
                        "write it again"
                    )
                self._fortran |= {name} if fortran and len(shape) > 1 else set()
                arrays[name] = ArrayInfo(shape, dtype)
        return arrays

    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        with zipfile.ZipFile(self.path) as archive, zipfile.ZipFile.open(archive, f"{name}.npy") as stream:
            if name in self._fortran:
                stream.seek(0)
                yield np.lib.format.read_array(stream, allow_pickle=False)
                return
            shape, _, dtype = _npy_header(stream)
            yield from _rows_of(stream, shape, dtype)

    def write_part(self, path: Path, kept: Mapping[str, NDArray[np.bool_]]) -> None:
        """See `ArrayBox.write_part`; rows are bool [N], and arrays keep their dtype."""
        with zipfile.ZipFile(self.path) as source:
            packed = {member.filename: member.compress_type for member in source.infolist()}
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for name, info in self.arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")
                member.compress_type = packed[member.filename]
                with zipfile.ZipFile.open(archive, member, "w", force_zip64=True) as stream:
                    _write_header(stream, self.kept_shape(name, kept), info.dtype)
                    if not info.shape:
                        stream.write(self.whole(name).tobytes())
                        continue
                    for block in self.kept_blocks(name, kept):
                        stream.write(np.ascontiguousarray(block).tobytes())


class NpyBox(ArrayBox):
    """npy files of one folder; an array is named as its file is."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._names = names
        super().__init__(folder)

    def file_of(self, name: str) -> Path:
        """See `ArrayBox.file_of`."""
        return self.path / f"{name}.npy"

    def _list(self) -> dict[str, ArrayInfo]:
        arrays = {}
        for name in self._names:
            with readable_arrays(self.file_of(name)):
                with self.file_of(name).open("rb") as stream:
                    shape, _, dtype = _npy_header(stream)
                check_plain(self.file_of(name), name, dtype)
                if int(np.prod(shape, dtype=object)):
                    self._map(name)
            arrays[name] = ArrayInfo(shape, dtype)
        return arrays

    def _map(self, name: str) -> NDArray[Any]:
        mapped: NDArray[Any] = np.load(self.file_of(name), mmap_mode="r", allow_pickle=False)
        return mapped

    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        shape = self.arrays[name].shape
        if int(np.prod(shape)) == 0:
            yield np.empty(shape, self.arrays[name].dtype)
            return
        array = self._map(name)
        for start in range(0, shape[0], BLOCK):
            yield np.array(array[start : start + BLOCK])

    def write_part(self, path: Path, kept: Mapping[str, NDArray[np.bool_]]) -> None:
        """See `ArrayBox.write_part`; rows are bool [N], and arrays keep their dtype."""
        path.mkdir(parents=True, exist_ok=True)
        for name, info in self.arrays.items():
            if not info.shape:
                np.save(path / f"{name}.npy", self._map(name), allow_pickle=False)
                continue
            file = ArrayFile(path / f"{name}.npy", self.kept_shape(name, kept), info.dtype)
            first = 0
            for block in self.kept_blocks(name, kept):
                file.write(first, block)
                first += len(block)
            file.close()


_SAFE_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
"""safetensors' names of what numpy knows too."""


class SafetensorsBox(ArrayBox):
    """A safetensors file: lengths and offsets in a header of JSON, then the bytes."""

    def _list(self) -> dict[str, ArrayInfo]:
        from safetensors import safe_open

        with safe_open(self.path, framework="np"):
            pass  # which checks that the offsets lie in the file and leave no gap
        with self.path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        self._metadata = header.pop("__metadata__", None)
        self._start = 8 + length
        self._offsets: dict[str, int] = {}
        arrays = {}
        for name, told in header.items():
            if told["dtype"] not in _SAFE_DTYPES:
                raise UserError(f"{self.path}: {name} must be whole numbers or floats, got {told['dtype']}: convert it")
            arrays[name] = ArrayInfo(tuple(told["shape"]), np.dtype(_SAFE_DTYPES[told["dtype"]]))
            self._offsets[name] = told["data_offsets"][0]
        return arrays

    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        info = self.arrays[name]
        with self.path.open("rb") as stream:
            stream.seek(self._start + self._offsets[name])
            yield from _rows_of(stream, info.shape, info.dtype)

    def write_part(self, path: Path, kept: Mapping[str, NDArray[np.bool_]]) -> None:
        """See `ArrayBox.write_part`; rows are bool [N], and arrays keep their dtype."""
        names = {np.dtype(text): name for name, text in _SAFE_DTYPES.items()}
        header: dict[str, Any] = {} if self._metadata is None else {"__metadata__": self._metadata}
        order = sorted(self.arrays, key=lambda name: self._offsets[name])
        end = 0
        for name in order:
            shape, dtype = self.kept_shape(name, kept), self.arrays[name].dtype
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("xb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                if not self.arrays[name].shape:
                    stream.write(self.whole(name).tobytes())
                    continue
                for block in self.kept_blocks(name, kept):
                    stream.write(np.ascontiguousarray(block).tobytes())


class TensorBox(ArrayBox):
    """PyTorch's file of a dict of tensors, or of a pair of images and labels; read by its loader of plain weights."""

    def _list(self) -> dict[str, ArrayInfo]:
        import torch

        try:
            loaded = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # which it also raises for what it refuses to execute
            raise UserError(f"{self.path} must hold plain tensors alone: it {_PICKLED}") from error
        named = loaded if isinstance(loaded, dict) else None
        if isinstance(loaded, tuple | list) and len(loaded) == 2:
            named = dict(zip(("images", "labels"), loaded, strict=True))
        if named is None or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in named.items()
        ):
            raise UserError(
                f"{self.path} must be a dict of tensors, such as images and labels, or a pair of them, got "
                f"{type(loaded).__name__}: save them by numpy.savez"
            )
        self._kind = type(loaded)
        self._tensors = {name: tensor.detach().contiguous().numpy() for name, tensor in named.items()}
        return {name: ArrayInfo(array.shape, array.dtype) for name, array in self._tensors.items()}

    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        array = self._tensors[name]
        for start in range(0, len(array), BLOCK):
            yield array[start : start + BLOCK]

    def write_part(self, path: Path, kept: Mapping[str, NDArray[np.bool_]]) -> None:
        """See `ArrayBox.write_part`; rows are bool [N], and arrays keep their dtype."""
        import torch

        tensors = {
            name: torch.from_numpy(array[kept[name]] if name in kept else array)
            for name, array in self._tensors.items()
        }
        torch.save(tensors if issubclass(self._kind, dict) else self._kind(tensors.values()), path)
