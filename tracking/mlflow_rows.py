"""Writes a record into an MLflow database file as MLflow itself would, in one transaction.

Through MLflow's own client a record takes some forty statements and ten commits, each of which waits for the disk: with
thousands of records that was the greater part of what a short trial cost. What is written here is, row for row, what
those calls write (`tests/tracking/test_mlflow_rows.py` compares the tables); where the database has another schema than
the one that this was written for, or the record is out of the ordinary, nothing is written and the client is asked.
"""

import math
import os
import re
import shutil
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tracking import names
from tracking.artifact_root import local_folder
from tracking.outbox import Record
from tracking.run_tags import (
    DATASET_LENGTH,
    DIGEST_LENGTH,
    NAME_LENGTH,
    PARAM_LENGTH,
    TAG_LENGTH,
    hash_key,
    new_run_tags,
    storable,
)

SCHEMA = "dc11669786a5"
"""The last change of MLflow's tables that this knows, as MLflow names it in the table ``alembic_version``."""

_LOCK_SECONDS = 20.0  # as long as MLflow waits
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- /]{0,200}")
_STATES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
_OFF_PATH = re.compile(r"//|\.\.|/\.|/$|\./")  # what MLflow refuses in a name that looks like a path


class DatabaseRows:
    """The tables of a database file of MLflow's.

    Args:
        database: the file.
        experiment: id of the experiment.
    """

    def __init__(self, database: Path, experiment: str) -> None:
        self._database, self._experiment = database, int(experiment)

    def write(self, records: Sequence[Record]) -> list[str]:
        """Writes records and gives their runs' ids; none where nothing of any was written."""
        if not all(map(is_plain, records)) or not self._database.is_file():
            return []
        try:
            with closing(sqlite3.connect(self._database, timeout=_LOCK_SECONDS)) as connection, connection:
                connection.execute("pragma foreign_keys = on")
                connection.execute("begin immediate")
                self._check(connection)
                known = self._find(connection, records)
                return [self._write(connection, record, known) for record in records]
        except (sqlite3.Error, OSError, _NotHere):  # MLflow says what is wrong
            return []

    def _write(self, connection: sqlite3.Connection, record: Record, known: dict[str, str]) -> str:
        run = known.get(record.run) or self._make(connection, record, known)
        metrics = [(key, value, record.time_ms, 0) for key, value in record.metrics.items()]
        for key, values in record.series.items():
            metrics += [(key, value, record.time_ms, step) for step, value in enumerate(values)]
        _add_metrics(connection, run, metrics)
        told = [(key, storable(value, PARAM_LENGTH), run) for key, value in record.params.items()]
        # The first value of a param stands.
        connection.executemany(
            "insert into params (key, value, run_uuid) values (?, ?, ?) on conflict do nothing", told
        )
        set_tags = {key: storable(value, TAG_LENGTH) for key, value in record.tags.items()}
        _set_tags(connection, run, set_tags)
        if record.dataset is not None:
            self._add_dataset(connection, run, *record.dataset)
        if record.artifacts and Path(record.artifacts).is_dir():
            _copy(Path(record.artifacts), _artifacts(connection, run))
        if record.status != "RUNNING":
            ended = (record.status, record.time_ms, run)
            connection.execute("update runs set status = ?, end_time = ? where run_uuid = ?", ended)
        return run

    def _check(self, connection: sqlite3.Connection) -> None:
        """Sees that the tables are the known ones, and that the experiment takes runs."""
        if connection.execute("select version_num from alembic_version").fetchall() != [(SCHEMA,)]:
            raise _NotHere
        query = "select lifecycle_stage from experiments where experiment_id = ?"
        if connection.execute(query, (self._experiment,)).fetchall() != [("active",)]:
            raise _NotHere

    def _make(self, connection: sqlite3.Connection, record: Record, known: dict[str, str]) -> str:
        """A new run for a record, which is known from then on."""
        parent = {}
        if record.parent is not None:
            if record.parent not in known:
                raise _NotHere
            parent = {names.TAG_PARENT: known[record.parent]}
        title = storable(record.name, NAME_LENGTH)
        own = {**new_run_tags(record.run), names.TAG_NAME: title, **parent}
        run = uuid.uuid4().hex
        (place,) = connection.execute(
            "select artifact_location from experiments where experiment_id = ?", (self._experiment,)
        ).fetchone()
        if local_folder(str(place)) is None or re.search(r"[?#;]", str(place)):
            raise _NotHere
        connection.execute(
            "insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, "
            "start_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
            "values (?, ?, 'UNKNOWN', '', '', ?, 'RUNNING', ?, '', 'active', ?, ?)",
            (
                run,
                title,
                own.get(names.TAG_USER, "unknown"),
                record.start_ms or record.time_ms,
                f"{str(place).rstrip('/')}/{run}/artifacts",
                self._experiment,
            ),
        )
        _set_tags(connection, run, own)
        known[record.run] = run
        return run

    def _find(self, connection: sqlite3.Connection, records: Sequence[Record]) -> dict[str, str]:
        """The runs that records and their parents have, by their keys.

        All at once: MLflow keeps no index by which a run would be found, so that each search goes through all runs.
        """
        keys = {key for record in records for key in (record.run, record.parent) if key is not None}
        by_hash = {hash_key(key): key for key in keys}
        query = (
            "select tags.value, runs.run_uuid from tags join runs on runs.run_uuid = tags.run_uuid where tags.key = ? "
            f"and tags.value in ({', '.join('?' * len(by_hash))}) and runs.experiment_id = ? "
            "and runs.lifecycle_stage = 'active'"
        )
        rows = connection.execute(query, (names.TAG_RUN_HASH, *by_hash, self._experiment)).fetchall()
        return {by_hash[digest]: str(run) for digest, run in reversed(rows)}  # of several the first, as ever

    def _add_dataset(self, connection: sqlite3.Connection, run: str, name: str, digest: str) -> None:
        dataset = (self._experiment, storable(name[-DATASET_LENGTH:], DATASET_LENGTH), digest[:DIGEST_LENGTH])
        connection.execute(
            "insert into datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source) "
            "values (?, ?, ?, ?, 'local', '{}') on conflict do nothing",
            (uuid.uuid4().hex, *dataset),
        )
        query = "select dataset_uuid from datasets where experiment_id = ? and name = ? and digest = ?"
        (known,) = connection.execute(query, dataset).fetchone()
        connection.execute(
            "insert into inputs (input_uuid, source_type, source_id, destination_type, destination_id) "
            "values (?, 'DATASET', ?, 'RUN', ?) on conflict do nothing",
            (uuid.uuid4().hex, known, run),
        )


class _NotHere(Exception):
    """MLflow itself has to be asked."""


def is_plain(record: Record) -> bool:
    """Whether a record is of the kind that MLflow takes as it is: nothing in it is refused or changed on the way."""
    keys = (*record.params, *record.metrics, *record.series, *record.tags)
    numbers = (*record.metrics.values(), *(value for values in record.series.values() for value in values))
    texts = (record.run, record.name, *record.params.values(), *record.tags.values(), *(record.dataset or ()))
    return (
        not record.views
        and all(_PLAIN.fullmatch(key) and not _OFF_PATH.search(key) for key in keys)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
        and all(isinstance(text, str) for text in texts)
        and record.status in _STATES
    )


def _add_metrics(connection: sqlite3.Connection, run: str, metrics: Sequence[tuple[str, float, int, int]]) -> None:
    """Adds values as key, value, time and step; of each key the latest stands in a table of its own."""
    connection.executemany(
        "insert into metrics (key, value, timestamp, step, run_uuid, is_nan) values (?, ?, ?, ?, ?, 0) "
        "on conflict do nothing",
        [(*metric, run) for metric in metrics],
    )
    latest: dict[str, tuple[int, int, float]] = {}
    for key, value, time_ms, step in metrics:
        latest[key] = max(latest.get(key, (step, time_ms, value)), (step, time_ms, value))
    connection.executemany(
        "insert into latest_metrics (key, step, timestamp, value, is_nan, run_uuid) values (?, ?, ?, ?, 0, ?) "
        "on conflict (key, run_uuid) do update set step = excluded.step, timestamp = excluded.timestamp, "
        "value = excluded.value, is_nan = 0 "
        "where (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)",
        [(key, *values, run) for key, values in latest.items()],
    )


def _set_tags(connection: sqlite3.Connection, run: str, tags: Mapping[str, str]) -> None:
    """Sets tags; one of them is the run's name, which has a column as well."""
    connection.executemany(
        "insert into tags (key, value, run_uuid) values (?, ?, ?) "
        "on conflict (key, run_uuid) do update set value = excluded.value",
        [(key, value, run) for key, value in tags.items()],
    )
    if names.TAG_NAME in tags:
        connection.execute("update runs set name = ? where run_uuid = ?", (tags[names.TAG_NAME], run))


def _artifacts(connection: sqlite3.Connection, run: str) -> Path:
    """The folder of a run's files."""
    (place,) = connection.execute("select artifact_uri from runs where run_uuid = ?", (run,)).fetchone()
    folder = local_folder(str(place))
    if folder is None or not folder.is_absolute():
        raise _NotHere
    return folder


def _copy(source: Path, target: Path) -> None:
    for folder, _, files in os.walk(source):
        here = target / os.path.relpath(folder, source)
        here.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy2(os.path.join(folder, file), here / file)
