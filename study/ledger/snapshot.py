"""A ledger as it lies on disk, read without Optuna and without disturbing the driver that writes it.

`study.ledger.ledger` writes the file through Optuna; the names of what it adds to a trial stand here, where both see
them.
"""

import json
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from study.config.objectives import Direction

KEY, REASON, RETRY_OF, PAPER_DEFAULT = "point_key", "reason", "retry_of", "paper_default"
CALIBRATED = "calibrated"
SHARED_SECONDS = "shared_seconds"
LOST = "the study was stopped while this trial ran"

SCHEMA = 12  # of Optuna's tables
_WAIT_SECONDS = 5.0  # for a driver in the middle of a write, which takes milliseconds
_BESIDES = ("-journal", "-wal", "-shm")


def is_finished(state: str, reason: str) -> bool:
    """Whether a trial counts as tried. One that was lost is tried again; one that failed would fail again."""
    return state in ("complete", "fail", "pruned") and reason != LOST


@dataclass(frozen=True)
class SnapshotTrial:
    """A trial of the ledger.

    Attributes:
        state: ``waiting``, ``running``, ``complete``, ``fail`` or ``pruned``.
        values: one an objective; None unless it is complete.
        calibrated: it has the values that suit the preset's scale; like the paper's default, no sampler drew it.
    """

    number: int
    state: str
    point: dict[str, Any]
    key: str
    values: tuple[float, ...] | None
    reason: str
    paper_default: bool
    calibrated: bool = False

    @property
    def interrupted(self) -> bool:
        """The study was stopped while it ran: it failed at nothing, and another trial runs its point."""
        return self.state == "fail" and self.reason == LOST

    @property
    def finished(self) -> bool:
        """It counts as tried."""
        return is_finished(self.state, self.reason)


@dataclass(frozen=True)
class LedgerSnapshot:
    """All that a ledger says at one moment.

    Attributes:
        directions: ``maximize`` or ``minimize``, one an objective.
        trials: by number.
    """

    directions: tuple[Direction, ...]
    trials: tuple[SnapshotTrial, ...]


def read_ledger(path: Path) -> LedgerSnapshot:
    """What a ledger says now; a driver may be writing it.

    Raises:
        ValueError: it is no ledger, or damaged; the message says how.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        try:
            return _read(path)
        except sqlite3.OperationalError as error:
            # A driver that was killed in the middle of a write leaves a journal, which only a writer can roll back.
            if not any(path.with_name(path.name + suffix).exists() for suffix in _BESIDES):
                raise
            return _read_copy(path, error)
    except (sqlite3.Error, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _read_copy(path: Path, error: sqlite3.Error) -> LedgerSnapshot:
    """Reads a copy in which sqlite may put things right: the original belongs to the next driver."""
    if "locked" in str(error) or "busy" in str(error):
        raise error  # a copy of what is being written would be torn
    with tempfile.TemporaryDirectory(prefix="status-") as folder:
        for suffix in ("", *_BESIDES):
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                shutil.copy(beside, Path(folder, beside.name))
        return _read(Path(folder, path.name), mode="rw")


def _read(path: Path, mode: str = "ro") -> LedgerSnapshot:
    address = f"file:{quote(str(path.resolve()))}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
        database.execute("begin")  # one moment for all tables; it ends with the connection
        return _ledger(database)


def _check_schema(database: sqlite3.Connection) -> None:
    """Optuna's tables are read as this version of its schema has them; another could mean something else by them.

    Raises:
        ValueError: they are of another.
    """
    row = database.execute("select schema_version, library_version from version_info").fetchone()
    if row is None or row[0] != SCHEMA:
        schema, library = row or ("none", "?")
        raise ValueError(
            f"its tables must be of Optuna's schema {SCHEMA}, got {schema} of Optuna {library}: use an Optuna and a "
            "release of this tool that belong together"
        )


def _ledger(database: sqlite3.Connection) -> LedgerSnapshot:
    _check_schema(database)
    rows = database.execute("select direction from study_directions order by objective").fetchall()
    directions: tuple[Direction, ...] = tuple("minimize" if name == "MINIMIZE" else "maximize" for (name,) in rows)
    reasons = dict(database.execute("select key, value_json from study_user_attributes").fetchall())
    keys = "select trial_id, key, value_json from trial_user_attributes"
    attributes = _by_trial(database, keys, lambda name, text: (name, json.loads(text)))
    params = "select trial_id, param_name, param_value, distribution_json from trial_params order by param_id"
    points = _by_trial(database, params, lambda name, value, text: (name, _external(value, json.loads(text))))
    values = _by_trial(database, "select trial_id, objective, value from trial_values", lambda *pair: pair)
    trials = []
    for trial_id, number, state in database.execute("select trial_id, number, state from trials order by number"):
        own = attributes.get(trial_id, {})
        reached = values.get(trial_id, {}) if state == "COMPLETE" else {}
        trials.append(
            SnapshotTrial(
                number=number,
                state=state.lower(),
                point=points.get(trial_id, {}),
                key=own.get(KEY, ""),
                values=tuple(float(reached[i]) for i in range(len(directions))) if reached else None,
                reason=str(json.loads(reasons.get(f"{REASON}/{number}", '""'))),
                paper_default=bool(own.get(PAPER_DEFAULT)),
                calibrated=bool(own.get(CALIBRATED)),
            )
        )
    return LedgerSnapshot(directions, tuple(trials))


def _by_trial(database: sqlite3.Connection, query: str, pair: Any) -> dict[int, dict[Any, Any]]:
    by_trial: dict[int, dict[Any, Any]] = {}
    for trial_id, *columns in database.execute(query):
        name, value = pair(*columns)
        by_trial.setdefault(trial_id, {})[name] = value
    return by_trial


def _external(value: float, distribution: dict[str, Any]) -> Any:
    """A stored number as the value that it stands for."""
    if distribution["name"] == "CategoricalDistribution":
        return distribution["attributes"]["choices"][int(value)]
    return int(value) if distribution["name"] == "IntDistribution" else value
