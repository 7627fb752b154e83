"""Writes a trial into Optuna's tables as Optuna's storage would, in one statement a table.

Optuna asks for each row before it writes it. A ledger has one writer, which knows what is there.
"""

import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from study.ledger.dashboard import LOCK_SECONDS
from study.ledger.snapshot import SCHEMA


class TrialRows:
    """The tables of a ledger.

    Args:
        path: of the sqlite file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(self._connect()) as database:
            row = database.execute("select schema_version from version_info").fetchone()
        self.known = row == (SCHEMA,)
        """Whether the tables are those that this was written for."""

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=LOCK_SECONDS)

    def add(self, study: int, trial: FrozenTrial) -> int:
        """Adds a trial that runs, with its number, hyperparameters and attributes. Gives its id in the file."""
        started = _time(trial.datetime_start)
        with closing(self._connect()) as database, database:
            row = database.execute(
                "insert into trials (number, study_id, state, datetime_start) values (?, ?, 'RUNNING', ?)",
                (trial.number, study, started),
            )
            identity = int(row.lastrowid or 0)
            params = [
                (identity, name, kind.to_internal_repr(trial.params[name]), distribution_to_json(kind))
                for name, kind in trial.distributions.items()
            ]
            columns = "trial_id, param_name, param_value, distribution_json"
            database.executemany(f"insert into trial_params ({columns}) values (?, ?, ?, ?)", params)
            for table, attributes in (("user", trial.user_attrs), ("system", trial.system_attrs)):
                rows = [(identity, name, json.dumps(value)) for name, value in attributes.items()]
                add = f"insert into trial_{table}_attributes (trial_id, key, value_json) values (?, ?, ?)"
                database.executemany(add, rows)
        return identity


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(" ", "microseconds")
