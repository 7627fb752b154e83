"""A record written straight into a database file leaves the rows that MLflow's own client leaves."""

import re
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow_servers import empty_database

from tracking import mlflow_rows, names
from tracking.delivery import deliver_pending
from tracking.mlflow_log import RunLog
from tracking.mlflow_rows import DatabaseRows
from tracking.outbox import Outbox, Record

pytestmark = pytest.mark.filterwarnings("ignore")

STUDY = Record("study/x", None, "x", 1_000, params={"space": "pipd"}, tags={names.TAG_KIND: "study"})
TRIAL = Record("trial/1", "study/x", "x #1", 2_000, start_ms=1_500, tags={names.TAG_KIND: "trial"})
SCENARIO = Record(
    "scenario/1",
    "trial/1",
    "x #1 badnets",
    3_000,
    params={"rate": "0.1", "long": "p" * 7000},
    tags={names.TAG_KIND: "scenario", "long": "t" * 9000},
    metrics={"tpr": 1, "system/cost.built_seconds": 0.25},
    series={"isolate.tpr": [0.5, 1.0, 1.0]},
    dataset=("digits badnets", "f" * 64),
    status="FINISHED",
)
ENDED = replace(
    TRIAL,
    time_ms=4_000,
    params={"beta": "3.0"},
    tags={names.TAG_NAME: "x #1 paper default", names.TAG_KIND: "trial"},
    metrics={"tpr": 1.0},
    status="FAILED",
)
LATER = [
    replace(ENDED, time_ms=5_000, params={"beta": "4.0"}, metrics={"tpr": 0.5}, status="FINISHED"),
    replace(TRIAL, time_ms=4_500, metrics={"tpr": 0.75}),
    replace(
        SCENARIO, run="scenario/2", name="x #1 sig", metrics={}, series={}, params={}, dataset=("digits sig", "e" * 64)
    ),
]
RECORDS = [STUDY, TRIAL, SCENARIO, ENDED, *LATER, SCENARIO]
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics", "datasets", "inputs", "input_tags")


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], RunLog]:
    def log(name: str) -> RunLog:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mlflow.db").write_bytes(empty_database())
        return RunLog(f"sqlite:///{tmp_path}/{name}/mlflow.db", "pipd", (tmp_path / name / "art").as_uri())

    return log


def tables(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows, with what MLflow draws by chance told by where it first stands."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        runs = dict(database.execute("select run_uuid, value from tags where key = ?", (names.TAG_RUN_KEY,)))
        data = dict(database.execute("select dataset_uuid, name from datasets"))
        known = {**runs, **data, str(folder): "FOLDER"}
        known |= {uuid: "input" for (uuid,) in database.execute("select input_uuid from inputs")}
        plain = re.compile("|".join(map(re.escape, known)))

        def named(value: Any) -> Any:
            return plain.sub(lambda match: known[match[0]], value) if isinstance(value, str) else value

        def column(table: str) -> list[str]:
            return [row[1] for row in database.execute(f"pragma table_info({table})")]

        return {
            table: sorted(
                (
                    tuple(map(named, row))
                    for row in database.execute(f"select {', '.join(sorted(column(table)))} from {table}")
                ),
                key=repr,
            )
            for table in TABLES
        }


def files(folder: Path) -> set[str]:
    return {"/".join(path.relative_to(folder).parts[1:]) for path in folder.rglob("*") if path.is_file()}


def test_the_rows_are_those_that_the_client_writes(
    make: Callable[[str], RunLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = tmp_path / "sent"
    (sent / "flags").mkdir(parents=True)
    (sent / "flags" / "flagged.csv").write_text("1,2")
    records = [replace(record, artifacts=str(sent)) if record.dataset else record for record in RECORDS]
    rows = make("rows")
    with monkeypatch.context() as alone:
        alone.setattr(RunLog, "_take", lambda *_: pytest.fail("MLflow's client was asked"))
        assert rows.take_together(records[:3])
        for record in records[3:]:
            rows.take(record)
    monkeypatch.setattr(DatabaseRows, "write", lambda self, records: [])
    client = make("client")
    for record in records:
        client.take(record)
    wrote = tables(tmp_path / "rows")
    assert wrote == tables(tmp_path / "client")
    assert [len(wrote[table]) for table in ("runs", "datasets", "inputs")] == [4, 2, 2]
    assert files(tmp_path / "rows" / "art") == files(tmp_path / "client" / "art") == {"artifacts/flags/flagged.csv"}


@pytest.mark.parametrize(
    "record",
    [
        replace(TRIAL, metrics={"tpr": float("nan")}),
        replace(TRIAL, metrics={"a/../b": 1.0}),
        replace(TRIAL, params={"a\nb": "1"}),
        replace(TRIAL, views={"note": "x"}),
        replace(TRIAL, status="SCHEDULED"),
        replace(TRIAL, run="trial/2", parent="study/of which nothing is known"),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_client(make: Callable[[str], RunLog], record: Record) -> None:
    log = make("rows")
    log.take(STUDY)
    assert not log.take_together([TRIAL, record]), "and nothing of the others is written"
    assert not log.knows(TRIAL.run)


def test_other_tables_are_left_to_the_client(
    make: Callable[[str], RunLog], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = make("rows")
    assert log.take_together([STUDY]), "the installed MLflow has the schema that this was written for"
    monkeypatch.setattr(mlflow_rows, "SCHEMA", "another")
    assert not log.take_together([TRIAL])
    assert log.take(TRIAL)
    assert len(tables(tmp_path / "rows")["runs"]) == 2


def test_a_deleted_run_or_experiment_is_left_to_the_client(make: Callable[[str], RunLog]) -> None:
    log = make("rows")
    run = log.take(STUDY)
    log.client.delete_run(run)
    assert log.take_together([STUDY]), "a deleted run counts as none, as for the client"
    assert log.take(STUDY) != run
    log.client.delete_experiment(log.experiment_id)
    assert not log.take_together([STUDY])


def test_a_driver_killed_between_the_rows_and_the_mark_sends_nothing_twice(
    make: Callable[[str], RunLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "study" / "outbox.jsonl")
    place = tmp_path / "study" / "points" / "1"
    place.mkdir(parents=True)
    (place / "flagged.csv").write_text("1")
    for record in (STUDY, TRIAL, replace(SCENARIO, artifacts="points/1"), ENDED):
        outbox.append(record)
    log = make("rows")
    with monkeypatch.context() as killed:
        killed.setattr(Outbox, "mark", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            deliver_pending(log, outbox, True, lambda *_: None)
    assert place.is_dir(), "files are let go of once the records are marked"
    before = tables(tmp_path / "rows")
    deliver_pending(log, outbox, True, lambda *_: None)
    assert tables(tmp_path / "rows") == before
    assert not place.exists()
    assert list(outbox.pending()) == []


def test_records_that_wait_are_marked_together(
    make: Callable[[str], RunLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "outbox.jsonl")
    outbox.append(replace(STUDY, views={"a": "b"}))
    for number in range(50):
        outbox.append(replace(TRIAL, run=f"trial/{number}"))
    marks: list[int] = []
    mark = Outbox.mark
    monkeypatch.setattr(Outbox, "mark", lambda self, position: (marks.append(position), mark(self, position))[1])
    log = make("rows")
    deliver_pending(log, outbox, False, lambda *_: None)
    assert len(marks) == 4, "the study's by itself, then twenty, twenty and ten"
    assert len(tables(tmp_path / "rows")["runs"]) == 51
    busy = threading.Thread(target=lambda: log.take_together([replace(TRIAL, run="trial/of a thread")]))
    busy.start()
    busy.join(30)
    assert log.knows("trial/of a thread")
