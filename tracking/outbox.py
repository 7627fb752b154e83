"""An append-only list of what MLflow must be told. Writing to it never waits for a server and survives a crash.

Each line is one `Record`, flushed to disk before the study goes on. A second file holds how many records MLflow has
taken. Replaying a record that was taken already changes nothing, so a crash between the two costs no more than time.
"""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from defenses.files import write_atomic


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
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sent_path = path.with_name(path.name + ".sent")
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()

    def append(self, record: Record) -> None:
        """Adds a record; it is on the disk when this returns."""
        line = json.dumps(asdict(record), allow_nan=False) + "\n"
        with self._lock, self.path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def finished(self) -> set[str]:
        """Keys of the runs that were reported with a final status, sent or not."""
        if not self.path.exists():
            return set()
        with self.path.open() as file:
            records = [json.loads(line) for line in file if line.endswith("\n")]
        return {record["run"] for record in records if record["status"] != "RUNNING"}

    @property
    def sent(self) -> int:
        """How many bytes of the file MLflow has taken."""
        try:
            return int(self._sent_path.read_text())
        except FileNotFoundError:
            return 0

    def pending(self) -> Iterator[tuple[Record, int]]:
        """What is still to be sent, each with the mark to set once it was."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.sent)
            while line := file.readline():
                if not line.endswith(b"\n"):
                    return  # being written this moment
                found: dict[str, Any] = json.loads(line)
                yield Record(**found), file.tell()

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
