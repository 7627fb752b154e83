"""The tables of a cleaning: who is flagged and why, and the list that a person may edit."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError, nearest
from defenses.storage.atomic_files import disk_errors, write_atomic
from study.cleaning.votes import Votes
from study.cli.terminal import printable

FLAGGED_CSV, DECISIONS_CSV, SCORES_PARQUET = "flagged.csv", "decisions.csv", "scores.parquet"
KEEP, DROP = "keep", "drop"
_DECISION = ("id", "class", "score", "rank", "votes", "flagged", "decision")
_SHOWN = 80  # characters of a wrong value


def write_tables(folder: Path, ids: Sequence[str], classes: Sequence[str], votes: Votes, drop: bool) -> None:
    """Writes who is flagged, the scores of all samples, and the decisions as they are proposed.

    Args:
        ids, classes: N names of samples, and K of classes.
        drop: whether the flagged are proposed to be dropped.
    """
    flagged = votes.order[votes.flagged[votes.order]]
    listed = votes.order[(votes.flagged | votes.borderline)[votes.order]]
    ballot = [vote.name for vote in votes.votes]
    rows = [(*_sample(row, ids, classes, votes), *(int(vote.flagged[row]) for vote in votes.votes)) for row in flagged]
    with disk_errors(folder):
        write_atomic(folder / FLAGGED_CSV, _csv((*_DECISION[:6], *ballot), rows))
        proposed = [DROP if drop and votes.flagged[row] else KEEP for row in listed]
        decisions = [(*_sample(row, ids, classes, votes), word) for row, word in zip(listed, proposed, strict=True)]
        write_atomic(folder / DECISIONS_CSV, _csv(_DECISION, decisions))
        _write_scores(folder / SCORES_PARQUET, ids, classes, votes)


def _sample(row: int, ids: Sequence[str], classes: Sequence[str], votes: Votes) -> tuple[Any, ...]:
    return (
        ids[row],
        classes[int(votes.labels[row])],
        f"{votes.scores[row]:.6g}",
        int(votes.ranks[row]),
        int(votes.counts[row]),
        int(votes.flagged[row]),
    )


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _write_scores(path: Path, ids: Sequence[str], classes: Sequence[str], votes: Votes) -> None:
    """A row a sample, in the order of the input."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {
        "id": list(ids),
        "class": [classes[label] for label in votes.labels],
        "score": votes.scores,
        "rank": votes.ranks,
        "votes": votes.counts,
        "flagged": votes.flagged,
    }
    for vote in votes.votes:
        columns[f"{vote.name}_flagged"] = vote.flagged
        columns[f"{vote.name}_score"] = vote.flagged.astype(np.float64) if vote.scores is None else vote.scores
    partial = path.with_name(f".{path.name}.partial")
    pyarrow.parquet.write_table(pyarrow.table(columns), partial)
    partial.replace(path)


def read_decisions(path: Path, ids: Sequence[str]) -> NDArray[np.bool_]:
    """Which samples an edited table keeps: bool [N]; what it does not name is kept.

    Only the columns ``id`` and ``decision`` count; the others, and the order of rows and columns, may be anything.

    Args:
        ids: N names, in the order of the input.

    Raises:
        UserError: the file cannot be read, names what is not in the data, names something twice, or says anything else
            than keep or drop.
    """
    place = {name: row for row, name in enumerate(ids)}
    kept, named = np.ones(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool)
    for line, cells in _rows(path):
        name, word = cells
        if name not in place:
            raise UserError(
                f"{path}, line {line}: an id must be one of the data's, got {_quoted(name)}: "
                f"{nearest(name, place) if len(place) < 20_000 else ''}take it from {FLAGGED_CSV}, or remove the line"
            )
        row, decision = place[name], word.strip().lower()
        if decision not in (KEEP, DROP):
            raise UserError(
                f"{path}, line {line}: a decision must be {KEEP} or {DROP}, got {_quoted(word)}: write one of the two"
            )
        if named[row]:
            raise UserError(
                f"{path}, line {line}: an id stands once, got {_quoted(name)} again: remove one of the lines"
            )
        named[row], kept[row] = True, decision == KEEP
    if not kept.any():
        raise UserError(f"{path}: some images must be kept, and it drops all {len(ids)}: write {KEEP} at some of them")
    return kept


def _rows(path: Path) -> list[tuple[int, tuple[str, str]]]:
    """Line and (id, decision) of each row; empty lines are passed over."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets write a mark before the text
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} must be a table in UTF-8, and byte {error.start} is none: save it as CSV UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"--apply must name an edited {DECISIONS_CSV}, got {path}: {error.strerror}") from error
    first = text.partition("\n")[0]
    # Spreadsheets of some countries write semicolons.
    delimiter = ";" if first.count(";") > first.count(",") else "\t" if first.count("\t") > first.count(",") else ","
    rows = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [cell.strip().lower() for cell in next(reader, [])]
        for column in ("id", "decision"):
            if header.count(column) != 1:
                raise UserError(
                    f"{path} must have one column {column!r}, and has {header.count(column) or 'none'}: begin from the "
                    f"{DECISIONS_CSV} that was written"
                )
        at = header.index("id"), header.index("decision")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) <= max(at):
                raise UserError(
                    f"{path}, line {reader.line_num}: a row must have an id and a decision, got {len(cells)} cells: "
                    "complete it, or remove the line"
                )
            rows.append((reader.line_num, (cells[at[0]], cells[at[1]])))
    except csv.Error as error:
        raise UserError(f"{path} must be a table of comma-separated values, and is none: {error}") from None
    return rows


def _quoted(text: str) -> str:
    text = printable(text).replace("\n", "\\n")
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
