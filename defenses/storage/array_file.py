"""Arrays that lie in files: written piece by piece, read as memory maps, and never in memory as a whole.

Pages of a file that is mapped are the system's to drop, so that an array may be larger than the memory.
"""

import errno
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # Python names it from 3.13 on


class ArrayFile:
    """A ``.npy`` file that is written row by row, by any number of threads.

    Args:
        path: a new file.
        shape, dtype: of the whole array; the first axis are its rows.

    Raises:
        OSError: there is no room for it: the whole is reserved at once, where the system can.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        with path.open("xb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
            )
            self._start = file.tell()
        self._row_bytes = self.dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._descriptor = os.open(path, os.O_RDWR)
        try:
            reserve(self._descriptor, self._start + shape[0] * self._row_bytes)
        except OSError:
            self.remove()
            raise

    def write(self, row: int, values: NDArray[Any]) -> None:
        """Writes rows [n, ...] of the array's dtype from position `row` on.

        Raises:
            ValueError: rows of another shape or dtype, or beyond the end.
        """
        if values.dtype != self.dtype or values.shape[1:] != self.shape[1:] or row + len(values) > self.shape[0]:
            raise ValueError(f"rows of {self.dtype} {self.shape} were given {values.dtype} {values.shape} at {row}")
        left = np.ascontiguousarray(values).data.cast("B")
        place = self._start + row * self._row_bytes
        while left:
            written = os.pwrite(self._descriptor, left, place)
            left, place = left[written:], place + written

    def close(self) -> None:
        """Nothing more is written."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Removes the file, as of work that failed."""
        self.close()
        self.path.unlink(missing_ok=True)

    def writable(self) -> NDArray[Any]:
        """The array, of its dtype and shape [N, ...], as a memory map whose pages the system writes to the file."""
        array: NDArray[Any] = np.load(self.path, mmap_mode="r+", allow_pickle=False)
        return array

    def read(self) -> NDArray[Any]:
        """What was written, of its dtype and shape [N, ...], as a memory map that cannot be written to."""
        array: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return array


def reserve(descriptor: int, size: int) -> None:
    """Makes an open file so long, with room on the disk for all of it where the system can say so.

    Raises:
        OSError: there is no such room.
    """
    if hasattr(os, "posix_fallocate") and size > 0:
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system that cannot say
                raise
    os.truncate(descriptor, size)


def with_rows(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """A copy of an array of any dtype and shape [N, ...] of which the given rows are going to be changed.

    Of a memory map of a whole file the copy is made page by page, as it is written to: what it needs of the memory is
    what is changed, and the file stays as it is.

    Args:
        rows: int64 [n]; without any the array itself is given back.
    """
    if len(rows) == 0:
        return array
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return np.array(array)
    length = array.offset + array.nbytes
    with open(array.filename, "rb") as file:
        # Without a reserve of memory for all of it, which a system with less memory would refuse.
        flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        mapped = mmap.mmap(file.fileno(), length, flags=flags, prot=access)
    return np.ndarray(array.shape, array.dtype, mapped, array.offset)
