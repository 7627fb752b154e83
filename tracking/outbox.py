"""An append-only list of what MLflow must be told. Writing to it never waits for a server and survives a crash.

Each line is one `Record`, flushed to disk before the study goes on. A second file holds how many records MLflow has
taken. Replaying a record that was taken already changes nothing, so a crash between the two costs no more than time.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from defenses.storage.atomic_files import write_atomic

_SENT = ".sent"


@dataclass(frozen=True)
class Record:
    """Something to be logged to one run.

    Attributes:
        run: a key that names the run across restarts, e.g. ``trial/<point>``.
        parent: key of the run it is nested in; None for the top.
        name: shown in the UI.
        time_ms: milliseconds since 1970; metrics logged twice with one time are one point.
        start_ms: when the run began, where that was earlier.
        params, tags: text.
        metrics: value by name.
        series: values by name; the position is the step.
        dataset: name and digest of the data, shown in a column of their own.
        artifacts: local folder whose content becomes the run's artifacts; empty for none.
        keep_artifacts: leave the local folder where it is once it was sent.
        status: ``RUNNING``, or a final ``FINISHED``, ``FAILED`` or ``KILLED``.
    """

    run: str
    parent: str | None
    name: str
    time_ms: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    start_ms: int = 0
    dataset: tuple[str, str] | None = None
    artifacts: str = ""
    keep_artifacts: bool = False
    status: str = "RUNNING"


class Outbox:
    """The list, in a file. One process writes; the same process, or a later one, reads.

    Args:
        path: of the JSON-lines file; its neighbour ``<path>.sent`` counts what was taken.
        other: a server that is not the study's own and has a count of its own; empty for the study's.
    """

    def __init__(self, path: Path, other: str = "") -> None:
        self.path = path
        suffix = "-" + hashlib.sha256(other.encode()).hexdigest()[:12] if other else ""
        self._sent_path = path.with_name(path.name + _SENT + suffix)
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()

    def append(self, record: Record) -> None:
        """Adds a record; it is on the disk when this returns."""
        rest = memoryview((json.dumps(asdict(record), allow_nan=False) + "\n").encode())
        with self._lock, self.path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)  # a part of a line would spoil the next one too
                raise

    def finished(self) -> set[str]:
        """Keys of the runs that were reported with a final status, sent or not."""
        return finished_runs(self.path)

    @property
    def sent(self) -> int:
        """How many bytes of the file MLflow has taken."""
        return _position(self.path, self._sent_path)

    def pending(self) -> Iterator[tuple[Record, int]]:
        """What is still to be sent, each with the mark to set once it was."""
        for record, position in _records(self.path, self.sent):
            if record is not None:  # what a damaged line said is passed on anew when the study goes on
                yield record, position

    def mark(self, position: int) -> None:
        """Everything before a position was taken."""
        write_atomic(self._sent_path, str(position))

    def _mend(self) -> None:
        """Cuts off a last line that a crash left unfinished: what it would have said was never acknowledged."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)


@dataclass(frozen=True)
class Waiting:
    """How much of an outbox MLflow has not taken.

    Attributes:
        damaged: lines among them that cannot be read.
    """

    records: int
    damaged: int


def finished_runs(path: Path) -> set[str]:
    """Keys of the runs that an outbox reports with a final status, sent or not; changes nothing."""
    records = (record for record, _ in _records(path, 0))
    return {record.run for record in records if record is not None and record.status != "RUNNING"}


def look(path: Path) -> Waiting:
    """What waits in an outbox that another process may be writing; changes nothing."""
    readable = [record is not None for record, _ in _records(path, _position(path, path.with_name(path.name + _SENT)))]
    return Waiting(sum(readable), len(readable) - sum(readable))


def _records(path: Path, start: int) -> Iterator[tuple[Record | None, int]]:
    """The whole lines from a position on, each with the position behind it; None where one is damaged."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        while line := file.readline():
            if not line.endswith(b"\n"):
                return  # being written this moment
            yield _record(line), file.tell()


def _record(line: bytes) -> Record | None:
    try:
        return Record(**json.loads(line))
    except (ValueError, TypeError):  # no JSON, or not the fields of a record
        return None


def _position(path: Path, sent_path: Path) -> int:
    """What was taken; 0 where that cannot be told, since taking a record again changes nothing."""
    try:
        position = int(sent_path.read_text())
        with path.open("rb") as file:
            file.seek(max(0, position - 1))
            return position if position > 0 and file.read(1) == b"\n" else 0
    except (OSError, ValueError, OverflowError):
        return 0
