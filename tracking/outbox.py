"""An append-only list of what MLflow must be told. Writing to it never waits for a server and survives a crash.

Each line is one `Record`, flushed to disk before the study goes on. A second file holds how far MLflow has taken them,
and which of those it refused, so that one that is refused holds up no other. Replaying a record that was taken already
changes nothing, so a crash between the two costs no more than time.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from defenses.storage.atomic_files import write_atomic
from tracking.names import TAG_NAME

_SENT, _EARLIER = ".sent", ".earlier"


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
        artifacts: folder whose content becomes the run's artifacts, as a path within the outbox's own, which may be
            moved; whole in records of earlier versions; empty for none.
        keep_artifacts: leave the local folder where it is once it was sent.
        status: ``RUNNING``, or a final ``FINISHED``, ``FAILED`` or ``KILLED``.
        views: tags of the experiment by name, which make a page of MLflow's UI: `tracking.ui_address`.
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
    views: dict[str, str] = field(default_factory=dict)


class Outbox:
    """The list, in a file. One process writes; the same process, or a later one, reads.

    Args:
        path: of the JSON-lines file; its neighbour ``<path>.sent`` holds what was taken, and what was refused.
        other: a server that is not the study's own and has a count of its own; empty for the study's.
    """

    def __init__(self, path: Path, other: str = "") -> None:
        self.path = path
        suffix = "-" + hashlib.sha256(other.encode()).hexdigest()[:12] if other else ""
        self._sent_path = path.with_name(path.name + _SENT + suffix)
        self._own_path = path.with_name(path.name + _SENT)
        self._earlier_path = path.with_name(path.name + _SENT + _EARLIER)
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

    def records(self) -> Iterator[Record]:
        """All that can be read, sent or not."""
        return (record for record, _ in _records(self.path, 0) if record is not None)

    def shown_names(self) -> dict[str, str]:
        """What each run is called in MLflow, by its key, once all of it was sent."""
        shown: dict[str, str] = {}
        for record in self.records():
            shown[record.run] = record.tags.get(TAG_NAME) or shown.get(record.run, record.name)
        return shown

    @property
    def sent(self) -> int:
        """How many bytes of the file were passed on: MLflow has taken them, but for what it refused."""
        return _read_marks(self.path, self._sent_path).sent

    def pending(self, refused: bool = True) -> Iterator[tuple[Record, int]]:
        """What is still to be sent, each with the mark to set once it was.

        Args:
            refused: also what was refused before, in its place, which is before all else.
        """
        marks = _read_marks(self.path, self._sent_path)
        for record, position in _waiting(self.path, marks if refused else Marks(marks.sent)):
            if record is not None:  # what a damaged line said is passed on anew when the study goes on
                yield record, position

    def mark(self, position: int) -> None:
        """A record was taken, and so was everything before it unless it was refused."""
        marks = _read_marks(self.path, self._sent_path)
        again = position in marks.refused
        self._write(Marks(marks.sent if again else position, marks.refused - {position}))

    def refuse(self, position: int) -> None:
        """A record was refused: it keeps waiting, and what comes after it is sent."""
        marks = _read_marks(self.path, self._sent_path)
        self._write(Marks(max(marks.sent, position), marks.refused | {position}))

    def start_over(self) -> None:
        """Sends all of it again, to a place that has none of it; files that went elsewhere are still known to have."""
        earlier = _read_marks(self.path, self._sent_path)
        if self._sent_path == self._own_path and earlier.sent > _read_marks(self.path, self._earlier_path).sent:
            write_atomic(self._earlier_path, earlier.text)
        self._sent_path.unlink(missing_ok=True)

    def passed_on(self) -> Iterator[Record]:
        """What MLflow has taken, in order."""
        marks = _read_marks(self.path, self._sent_path)
        for record, position in _records(self.path, 0):
            if position > marks.sent:
                return
            if record is not None and position not in marks.refused:
                yield record

    def was_sent(self, position: int) -> bool:
        """Whether a record was taken before: by the study's own server, or by one that the study had earlier."""
        known = [_read_marks(self.path, path) for path in (self._own_path, self._earlier_path)]
        return any(0 < position <= marks.sent and position not in marks.refused for marks in known)

    def _write(self, marks: "Marks") -> None:
        write_atomic(self._sent_path, marks.text)

    def _mend(self) -> None:
        """Cuts off a last line that a crash left unfinished: what it would have said was never acknowledged."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)


@dataclass(frozen=True)
class Marks:
    """What the neighbour of an outbox holds.

    Attributes:
        sent: how many bytes were passed on.
        refused: ends of the lines among them that were refused.
    """

    sent: int
    refused: frozenset[int] = frozenset()

    @property
    def text(self) -> str:
        """As it stands in the file. A version that knows no refusals sends all of it again, which changes nothing."""
        return "\n".join([str(self.sent), *([" ".join(map(str, sorted(self.refused)))] if self.refused else [])])


@dataclass(frozen=True)
class Waiting:
    """How much of an outbox MLflow has not taken.

    Attributes:
        damaged: lines among them that cannot be read.
    """

    records: int
    damaged: int


def find_files(place: str, folder: Path) -> Path | None:
    """The folder of a record's artifacts; None where it is not there, or does not lie within the outbox's folder.

    Records of earlier versions have the whole path that it had when they were written, also after the outbox's folder
    was moved: of that path the longest end counts that lies in the folder now.
    """
    parts = Path(place).parts
    whole = [Path(place)] if Path(place).is_absolute() else []
    ends = [folder.joinpath(*parts[start:]) for start in range(len(whole), len(parts))]
    return next((path for path in (*whole, *ends) if _below(path, folder) and path.is_dir()), None)


def _below(path: Path, folder: Path) -> bool:
    return path.resolve() != folder.resolve() and path.resolve().is_relative_to(folder.resolve())


def finished_runs(path: Path) -> set[str]:
    """Keys of the runs that an outbox reports with a final status, sent or not; changes nothing."""
    records = (record for record, _ in _records(path, 0))
    return {record.run for record in records if record is not None and record.status != "RUNNING"}


def look(path: Path) -> Waiting:
    """What waits in an outbox that another process may be writing; changes nothing."""
    marks = _read_marks(path, path.with_name(path.name + _SENT))
    readable = [record is not None for record, _ in _waiting(path, marks)]
    return Waiting(sum(readable), len(readable) - sum(readable))


def _waiting(path: Path, marks: Marks) -> Iterator[tuple[Record | None, int]]:
    """What is still to be sent: the lines that were refused, then those that were not passed on."""
    if marks.refused:
        yield from ((record, position) for record, position in _records(path, 0) if position in marks.refused)
    yield from _records(path, marks.sent)


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


def _read_marks(path: Path, sent_path: Path) -> Marks:
    """What was passed on; nothing where that cannot be told, since taking a record again changes nothing."""
    try:
        first, *rest = sent_path.read_text(encoding="utf-8").split("\n")
        position = int(first)
        with path.open("rb") as file:
            file.seek(max(0, position - 1))
            if position <= 0 or file.read(1) != b"\n":
                return Marks(0)
        return Marks(position, frozenset(map(int, " ".join(rest).split())))
    except (OSError, ValueError, OverflowError):
        return Marks(0)
