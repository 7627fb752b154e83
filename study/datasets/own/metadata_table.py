"""The table beside images that Hugging Face's imagefolder reads: a file name and a label in each row."""

import csv
import io
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defenses.registry import UserError
from study.datasets.own.source import choose_column

METADATA = ("metadata.csv", "metadata.jsonl")
_FILE = "file_name"


@dataclass(frozen=True)
class MetadataTable:
    """A table that was read.

    Attributes:
        path: of the table.
        columns: of a CSV table.
        records: its rows as they stand there: fields, or a line of JSON.
        rows: file name and label of each; None for a row without a label.
    """

    path: Path
    label_column: str
    columns: tuple[str, ...]
    records: tuple[dict[str, str] | str, ...]
    rows: tuple[tuple[str, str | int | None], ...]

    def write_part(self, path: Path, files: Collection[str]) -> None:
        """Writes a table of the rows whose files are among the given paths."""
        left = set(files)
        kept = []
        for record, (file, _) in zip(self.records, self.rows, strict=True):
            place = os.path.join(self.path.parent, file)
            if place in left:
                left.discard(place)  # a second row of the same file is not a sample
                kept.append(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as stream:
            if self.columns:
                writer = csv.DictWriter(stream, self.columns)
                writer.writeheader()
                writer.writerows(record for record in kept if isinstance(record, dict))
            else:
                stream.writelines(f"{record}\n" for record in kept)


def read_metadata(path: Path, label_column: str | None) -> MetadataTable:
    """A ``metadata.csv`` or ``metadata.jsonl``.

    Raises:
        UserError: it cannot be read, or has no column of file names or none of labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        parsed, columns, records = _csv(text) if path.suffix == ".csv" else _json_lines(text)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"{path} must be a table of UTF-8 text with a column {_FILE}: {error}") from error
    names = columns or tuple(dict.fromkeys(name for row in parsed for name in row))
    if _FILE not in names:
        raise UserError(f"{path} must have a column {_FILE}, got {', '.join(names) or 'none'}: add the names of files")
    column = choose_column(label_column, names, [name for name in names if name != _FILE], "labels", "--label-column")
    rows = tuple((str(row.get(_FILE) or ""), _label(row.get(column))) for row in parsed)
    return MetadataTable(path, column, columns, records, rows)


def _csv(text: str) -> tuple[list[dict[str, Any]], tuple[str, ...], tuple[dict[str, str] | str, ...]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = list(reader)
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row has more or fewer fields than the first line")
    return rows, tuple(reader.fieldnames or ()), tuple(rows)


def _json_lines(text: str) -> tuple[list[dict[str, Any]], tuple[str, ...], tuple[dict[str, str] | str, ...]]:
    lines = tuple(line for line in text.split("\n") if line.strip())
    rows = [json.loads(line) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    return rows, (), lines


def _label(value: Any) -> str | int | None:
    """A label, or None where there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return value if value != "" else None
