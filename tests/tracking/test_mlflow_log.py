"""MLflow on a real sqlite file: what a record becomes, that replaying changes nothing, what an outage costs."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_servers import empty_database

from tracking import mlflow_log, names
from tracking.destination import sqlite_url
from tracking.mlflow_log import RunLog, Sender
from tracking.outbox import Outbox, Record

# What MLflow, alembic and SQLAlchemy warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

STUDY = Record("study/x", None, "my study", 1_000, params={"space": "pipd"}, tags={names.TAG_KIND: "study"})
TRIAL = Record("trial/k", "study/x", "paper default", 2_000, params={"beta": "3.0"}, tags={names.TAG_KIND: "trial"})
Log = Callable[[], RunLog]


def scenario(artifacts: Path | None) -> Record:
    return Record(
        run="scenario/k/badnets-0.1-s0",
        parent="trial/k",
        name="badnets-0.1-s0",
        time_ms=3_000,
        params={"n_poison": "12"},
        tags={names.TAG_KIND: "scenario"},
        metrics={"tpr": 0.75, "fpr": 0.125},
        series={"isolate.tpr": [0.25, 0.5, 0.75]},
        artifacts=str(artifacts) if artifacts else "",
        status="FINISHED",
    )


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A database in this test's folder."""
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def open_log(uri: str, tmp_path: Path) -> Log:
    """Opens the database as a driver does."""
    return lambda: RunLog(uri, "pipd", (tmp_path / "artifacts").as_uri())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Artifacts of a scenario."""
    folder = tmp_path / "points" / "badnets-0.1-s0"
    (folder / "flags").mkdir(parents=True)
    (folder / "flags" / "flagged.csv").write_text("index,score\n")
    (folder / "config.yaml").write_text("beta: 3.0\n")
    return folder


def test_records_become_nested_runs(open_log: Log, files: Path) -> None:
    log = open_log()
    study, trial, found = (log.take(record) for record in (STUDY, TRIAL, scenario(files)))
    runs = {run_id: log.client.get_run(run_id) for run_id in (study, trial, found)}
    assert len(runs) == 3
    assert names.TAG_PARENT not in runs[study].data.tags
    assert runs[trial].data.tags[names.TAG_PARENT] == study
    assert runs[found].data.tags[names.TAG_PARENT] == trial
    assert [runs[run].info.run_name for run in (study, trial, found)] == ["my study", "paper default", "badnets-0.1-s0"]
    assert [runs[run].data.tags[names.TAG_KIND] for run in (study, trial, found)] == ["study", "trial", "scenario"]
    assert [runs[run].info.status for run in (study, trial, found)] == ["RUNNING", "RUNNING", "FINISHED"]
    assert runs[study].data.params == {"space": "pipd"}
    assert runs[found].data.params == {"n_poison": "12"}
    assert {name: runs[found].data.metrics[name] for name in ("tpr", "fpr")} == {"tpr": 0.75, "fpr": 0.125}
    series = log.client.get_metric_history(found, "isolate.tpr")
    assert [(point.step, point.value) for point in series] == [(0, 0.25), (1, 0.5), (2, 0.75)]
    assert (runs[found].info.start_time, runs[found].info.end_time) == (3_000, 3_000)
    assert sorted(file.path for file in log.client.list_artifacts(found)) == ["config.yaml", "flags"]
    assert [file.path for file in log.client.list_artifacts(found, "flags")] == ["flags/flagged.csv"]


def test_taking_records_again_changes_nothing(open_log: Log, files: Path) -> None:
    records = [STUDY, TRIAL, scenario(files), Record("trial/k", "study/x", "trial", 4_000, status="FAILED")]
    log = open_log()
    before = [log.take(record) for record in records]
    again = [log.take(record) for record in records]
    other = open_log()  # a new driver finds the runs by their keys
    assert before == again == [other.take(record) for record in records]
    assert before[1] == before[3], "two records of one key are one run"
    assert len(other.client.search_runs([other.experiment_id])) == 3
    assert len(other.client.get_metric_history(before[2], "isolate.tpr")) == 3
    assert len(other.client.get_metric_history(before[2], "tpr")) == 1
    assert other.client.get_run(before[1]).info.status == "FAILED"
    assert other.client.get_run(before[1]).info.run_name == "paper default", "a later record renames nothing"


def test_no_folder_is_made_beside_that_of_a_database(tmp_path: Path) -> None:
    folder = tmp_path / "100% é?"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database())
    log = RunLog(sqlite_url(folder / "mlflow.db"), "pipd", (folder / "artifacts").as_uri())
    log.take(STUDY)
    assert list(tmp_path.iterdir()) == [folder], "a URL spells the folder otherwise: MLflow would make that one too"


def test_a_database_that_was_interrupted_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    database = tmp_path / "mlflow.db"

    def interrupt(engine: Any) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE review_queues (id INTEGER)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", interrupt)
        with pytest.raises(KeyboardInterrupt):
            RunLog(sqlite_url(database), "pipd", None)
    assert not database.exists(), "half of the tables are nowhere that MLflow looks"
    RunLog(sqlite_url(database), "pipd", None).take(STUDY)
    assert not (tmp_path / "mlflow.db.new").exists()


def test_a_long_series_is_sent_in_batches(open_log: Log) -> None:
    values = [step / 4 for step in range(2_500)]
    log = open_log()
    run = log.take(Record("trial/long", None, "long", 1_000, series={"loss": values}, params={"text": "x" * 7_000}))
    history = log.client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in history] == list(enumerate(values))
    assert log.client.get_run(run).data.params["text"] == "x" * 6_000


def test_an_extended_study_is_logged(open_log: Log) -> None:
    log = open_log()
    run = log.take(Record("study/x", None, "x", 1_000, params={"space": "pipd", "trials": "12"}))
    assert log.take(Record("study/x", None, "x", 2_000, params={"space": "pipd", "trials": "20"})) == run


def test_a_key_may_hold_an_apostrophe(open_log: Log) -> None:
    log = open_log()
    record = Record("scenario/k/blended_image.image__it's.png-0.1-s0", None, "x", 1_000)
    assert log.take(record) == open_log().take(record)


class Down:
    """A server that does not answer, and counts how often it was asked."""

    asked = 0

    def __init__(self, *_target: object) -> None:
        type(self).asked += 1
        raise ConnectionError("connection refused\nand more lines")


def until(condition: Callable[[], bool]) -> None:
    """Waits for another thread, at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [found.getMessage() for found in caplog.records if found.name == "tracking.mlflow_log"]


def test_an_outage_costs_one_warning_however_long_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_log, "RunLog", Down)
    monkeypatch.setattr(mlflow_log, "_RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(Down, "asked", 0)
    outbox = Outbox(tmp_path / "outbox.jsonl")
    sender = Sender(outbox, "http://mlflow.invalid", "pipd", None)
    outbox.append(STUDY)
    until(lambda: Down.asked >= 5)
    outbox.append(TRIAL)
    assert not sender.close(timeout=10)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("MLflow at http://mlflow.invalid cannot be reached (connection refused); ")
    assert str(outbox.path) in warning
    assert [record for record, _ in outbox.pending()] == [STUDY, TRIAL]


def test_what_an_outage_kept_is_sent_later(
    uri: str, open_log: Log, files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    caplog.set_level(logging.WARNING)
    outbox = Outbox(files.parent / "outbox.jsonl")
    kept = files.parent / "summary"
    shutil.copytree(files, kept)
    for record in (STUDY, TRIAL, scenario(files)):
        outbox.append(record)
    unreachable = Sender(outbox, "http://127.0.0.1:9", "pipd", None)
    assert not unreachable.close(timeout=30)
    assert len(warnings_of(caplog)) == 1
    assert len(list(outbox.pending())) == 3
    assert files.is_dir(), "artifacts stay until they were taken"

    outbox = Outbox(outbox.path)  # a later start, with a database that works
    location = (files.parent.parent / "artifacts").as_uri()
    sender = Sender(outbox, uri, "pipd", location)
    outbox.append(
        Record("study/x", None, "my study", 5_000, artifacts=str(kept), keep_artifacts=True, status="FINISHED")
    )
    assert sender.close(timeout=30)
    assert len(warnings_of(caplog)) == 1
    assert list(outbox.pending()) == []
    assert not files.exists(), "taken artifacts are not kept twice"
    assert kept.is_dir(), "unless the user is to find them there"
    log = open_log()
    runs = log.client.search_runs([log.experiment_id])
    assert {run.data.tags[names.TAG_RUN_KEY]: run.info.status for run in runs} == {
        "study/x": "FINISHED",
        "trial/k": "RUNNING",
        "scenario/k/badnets-0.1-s0": "FINISHED",
    }


def test_nothing_leaves_the_machine_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    for name in wanted:
        monkeypatch.delenv(name, raising=False)
    mlflow_log.quiet_mlflow()
    import os

    assert {name: os.environ[name] for name in wanted} == wanted
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    mlflow_log.quiet_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false", "the user's own setting stands"
