"""Images too large for a GPU beside what is computed there: they stay in main memory, and batches travel ahead of use.

A stage asks for a batch by positions. They are pieces of one order, an epoch's, or follow one another: so that what is
asked for next is known, and is gathered by other threads and copied on a stream of its own while the GPU computes.
Whether a batch was fetched ahead or not, its bytes are the same.
"""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_AHEAD = 2  # batches that are fetched before they are asked for
_ORDERS = 8  # orders and subsets whose copy in main memory is kept
RESIDENT_SHARE = 0.5
"""Of what a process may still take of a GPU's memory: more of it goes to activations, weights and views of images."""


def free_bytes(device: torch.device) -> int | None:
    """What this process may still take of a device's memory; None for a CPU, where nothing has to be copied."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    share = torch.cuda.get_per_process_memory_fraction(device.index) * total  # which refuses a device without a number
    return min(free + held - used, int(share) - used)


def fits(size: int, device: torch.device) -> bool:
    """Whether images of so many bytes are kept on a device as a whole; see `RESIDENT_SHARE`."""
    room = free_bytes(device)
    return room is None or size <= RESIDENT_SHARE * room


@dataclass(frozen=True)
class _Order:
    """Positions on the device, held so that their memory is not used for others, and their copy in main memory."""

    number: int
    on_device: Tensor
    version: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Piece:
    """Some of the rows of an order, which counts the positions of a subset where there is one."""

    order: _Order
    start: int
    stop: int
    subset: _Order | None = None
    subset_start: int = 0

    @property
    def key(self) -> tuple[int, ...]:
        """Of two pieces that are the same."""
        subset = -1 if self.subset is None else self.subset.number
        return self.order.number, self.start, self.stop, subset, self.subset_start

    @property
    def rows(self) -> NDArray[np.int64]:
        """Positions int64 [n] of images."""
        rows = self.order.rows[self.start : self.stop]
        return rows if self.subset is None else self.subset.rows[self.subset_start :][rows]

    def following(self) -> Iterator["_Piece"]:
        """The pieces of the same size behind it, the last of them shorter."""
        size = max(1, self.stop - self.start)
        for start in range(self.stop, len(self.order.rows), size):
            yield replace(self, start=start, stop=min(start + size, len(self.order.rows)))


@dataclass(frozen=True)
class _Arrival:
    """A batch on the device, and what tells that it is there; None where it is there already."""

    batch: Tensor
    event: "torch.cuda.Event | None"


class StreamedImages:
    """Images uint8 [N, H, W, 3] in main memory or in a file, for a device that takes them batch by batch.

    Args:
        images: uint8 [N, H, W, 3].
        device: where batches are wanted.
        beside: uint8 [M, H, W, 3], more images that `select` finds under the numbers N to N + M - 1.

    Attributes:
        fetched_ahead: batches so far that were on their way when they were asked for.
    """

    def __init__(
        self, images: NDArray[np.uint8], device: torch.device, beside: NDArray[np.uint8] | None = None
    ) -> None:
        self._images, self._beside = images, images[:0] if beside is None else beside
        self.device, self.shape = device, torch.Size(images.shape)
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="images")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._every = _Order(0, torch.empty(0), 0, np.arange(len(images)))
        self._orders: OrderedDict[int, _Order] = OrderedDict()
        self._read = 0
        self._waiting: OrderedDict[tuple[int, ...], Future[_Arrival]] = OrderedDict()
        self.fetched_ahead = 0

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Tensor:
        """Consecutive images uint8 [n, H, W, 3] on the device; those that follow are fetched meanwhile."""
        start, stop, _ = rows.indices(len(self))
        return self._batch(_Piece(self._every, start, max(start, stop)))

    def select(self, index: Tensor, among: Tensor | None = None) -> Tensor:
        """The chosen images uint8 [n, H, W, 3] on the device.

        Args:
            index: int64 [n] on the device: a piece of an order, or any other positions.
            among: int64 [m] on the device: the positions that the index counts; by default all.

        Raises:
            IndexError: a position below 0, or beyond the last image.
            RuntimeError: a CUDA graph is being captured, which nothing from main memory can be a part of.
        """
        if self._stream is not None and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("images that are streamed from main memory cannot be read in a captured step")
        order, start = self._order(index)
        subset, first = (None, 0) if among is None else self._order(among)
        return self._batch(_Piece(order, start, start + len(index), subset, first))

    def _order(self, index: Tensor) -> tuple[_Order, int]:
        """The positions that an index is a piece of, in main memory, and where it begins in them.

        Reading them waits for the device; so an order is read once, and not once a batch.
        """
        self._read += 1
        if not index.is_contiguous() or index.is_inference():  # changes of the latter are not counted
            return _Order(self._read, index, 0, index.cpu().numpy()), 0
        storage = index.untyped_storage()
        known = self._orders.get(storage.data_ptr())
        if known is None or known.version != index._version:
            whole = index.as_strided((storage.nbytes() // index.element_size(),), (1,), 0)
            known = _Order(self._read, whole, index._version, whole.cpu().numpy().copy())
            self._orders[storage.data_ptr()] = known
        self._orders.move_to_end(storage.data_ptr())
        while len(self._orders) > _ORDERS:
            self._orders.popitem(last=False)
        return known, int(index.storage_offset())

    def _batch(self, piece: _Piece) -> Tensor:
        """The images of a piece of an order; the next pieces are on their way then."""
        arriving = self._waiting.pop(piece.key, None)
        if arriving is None:
            arriving = self._pool.submit(self._fetch, piece)
        else:
            self.fetched_ahead += 1
        for next_one in islice(piece.following(), _AHEAD):
            if next_one.key not in self._waiting:
                self._waiting[next_one.key] = self._pool.submit(self._fetch, next_one)
        while len(self._waiting) > 2 * _AHEAD:  # guesses that nobody asked for
            self._waiting.popitem(last=False)[1].cancel()
        return self._arrived(arriving.result())

    def _fetch(self, piece: _Piece) -> _Arrival:
        """Gathers images in main memory, and sends them off."""
        rows = piece.rows
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self) + len(self._beside):
            raise IndexError(
                f"positions must lie in [0, {len(self) + len(self._beside)}), got {rows.min()}, {rows.max()}"
            )
        gathered = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8, pin_memory=self._stream is not None)
        pixels = gathered.numpy()
        np.take(self._images, rows, axis=0, out=pixels, mode="clip")  # the other modes make a copy first
        late = np.flatnonzero(rows >= len(self))
        if len(late):
            pixels[late] = self._beside[rows[late] - len(self)]
        if self._stream is None:
            return _Arrival(gathered.to(self.device), None)
        with torch.cuda.stream(self._stream):
            batch = gathered.to(self.device, non_blocking=True)
            return _Arrival(batch, self._stream.record_event())

    def _arrived(self, arrival: _Arrival) -> Tensor:
        if arrival.event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrival.event)
            arrival.batch.record_stream(stream)
        return arrival.batch


DeviceImages = Tensor | StreamedImages
"""A stage's images uint8 [N, H, W, 3]: on its device as a whole, or streamed to it."""


def select(images: DeviceImages, index: Tensor, among: Tensor | None = None) -> Tensor:
    """The chosen images uint8 [n, H, W, 3] on the device.

    Args:
        images: uint8 [N, H, W, 3].
        index: int64 [n].
        among: int64 [m], the positions that the index counts; by default all.
    """
    if isinstance(images, StreamedImages):
        return images.select(index, among)
    return images.index_select(0, index if among is None else among[index])
