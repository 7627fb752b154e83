"""Files of tables that pyarrow reads: Parquet, and Arrow streams as Hugging Face's ``save_to_disk`` writes them.

Tables are read a few rows at a time. Arrow's own format is read as it lies in the file, so what it says of lengths and
offsets is checked first.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from defenses.registry import UserError

ROWS = 64  # that are in memory at a time
_PARQUET = ".parquet"


@dataclass(frozen=True)
class Shard:
    """A file of a table.

    Attributes:
        name: its path in the input, with ``/``.
        schema: pyarrow's, with Hugging Face's features in its metadata.
        rows: how many it has.
    """

    path: Path
    name: str
    schema: Any
    rows: int

    def batches(self, columns: Sequence[str] | None, wanted: NDArray[np.int64] | None = None) -> Iterator[Any]:
        """(first row, pyarrow's record batch) in order.

        Args:
            columns: that are read; None for all.
            wanted: ascending rows int64 [n]; what holds none of them may be left out.

        Raises:
            UserError: the file is damaged.
        """
        with _readable(self.path):
            if self.path.suffix.lower() == _PARQUET:
                yield from _parquet_batches(self.path, columns, wanted)
            else:
                yield from _arrow_batches(self.path, columns)

    def write_part(self, path: Path, kept: NDArray[np.bool_]) -> None:
        """Writes a file of the same kind with the kept rows, bool [rows]."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write = _write_parquet if self.path.suffix.lower() == _PARQUET else _write_arrow
        with _readable(self.path):
            write(self, path, kept)


def open_shard(path: Path, name: str) -> Shard:
    """A file of a table.

    Raises:
        UserError: it is damaged, or no such file.
    """
    with _readable(path):
        if path.suffix.lower() == _PARQUET:
            with pq.ParquetFile(path) as file:
                return Shard(path, name, file.schema_arrow, file.metadata.num_rows)
        with _opened_arrow(path) as (schema, batches):
            return Shard(path, name, schema, sum(batch.num_rows for batch in batches))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # pyarrow raises what it stumbles on in a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} must be a file that pyarrow can read: {reason}; write it again, or remove it"
        ) from error


def _parquet_batches(path: Path, columns: Sequence[str] | None, wanted: NDArray[np.int64] | None) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if wanted is None or np.searchsorted(wanted, first) < np.searchsorted(wanted, first + rows):
                start = first
                for batch in file.iter_batches(ROWS, [group], None if columns is None else list(columns)):
                    yield start, batch
                    start += batch.num_rows
            first += rows


def _arrow_batches(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    with _opened_arrow(path) as (_, batches):
        first = 0
        for batch in batches:
            batch.validate(full=True)
            chosen = batch if columns is None else batch.select(list(columns))
            for start in range(0, batch.num_rows, ROWS):
                yield first + start, chosen.slice(start, ROWS)
            first += batch.num_rows


@contextmanager
def _opened_arrow(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Schema and batches of a stream, or of a file with an index."""
    with pa.memory_map(str(path)) as mapped:
        if mapped.size() >= 6 and mapped.read_at(6, 0) == b"ARROW1":
            file = pa.ipc.open_file(mapped)
            yield file.schema, (file.get_batch(position) for position in range(file.num_record_batches))
        else:
            stream = pa.ipc.open_stream(mapped)
            yield stream.schema, iter(stream)


def _write_parquet(shard: Shard, path: Path, kept: NDArray[np.bool_]) -> None:
    with pq.ParquetFile(shard.path) as file:
        groups = file.metadata.num_row_groups
        columns = file.metadata.num_columns
        compression = file.metadata.row_group(0).column(0).compression if groups and columns else "SNAPPY"
        first = 0
        with pq.ParquetWriter(path, shard.schema, compression=compression) as writer:
            for group in range(groups):
                rows = file.metadata.row_group(group).num_rows
                chosen = pa.array(kept[first : first + rows])
                if kept[first : first + rows].any():
                    writer.write_table(file.read_row_group(group).filter(chosen))
                first += rows


def _write_arrow(shard: Shard, path: Path, kept: NDArray[np.bool_]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, shard.schema) as writer:
        for first, batch in _arrow_batches(shard.path, None):
            chosen = kept[first : first + batch.num_rows]
            if chosen.any():
                writer.write_batch(batch.filter(pa.array(chosen)))


def features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's metadata say of each column; empty where there are none, or what they say is none."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {name: one for name, one in told.items() if isinstance(one, dict)} if isinstance(told, dict) else {}


def class_names(feature: dict[str, Any]) -> tuple[str, ...] | None:
    """The names of a ``ClassLabel``; None of another feature."""
    names = feature.get("names")
    known = feature.get("_type") == "ClassLabel" and isinstance(names, list) and bool(names)
    return tuple(map(str, names)) if known and names is not None else None


def looks_like_images(schema: Any, name: str) -> bool:
    """Whether a column can hold encoded images: bytes, or a struct with them."""
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        return any(kind.field(place).name == "bytes" and _is_bytes(kind.field(place).type) for place in _places(kind))
    return _is_bytes(kind)


def _places(kind: Any) -> range:
    return range(kind.num_fields)


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def looks_like_labels(schema: Any, name: str) -> bool:
    """Whether a column can hold labels: whole numbers or text."""
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests: tuple[Callable[[Any], Any], ...] = (
        pa.types.is_integer,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_boolean,
    )
    return any(test(kind) for test in tests)
