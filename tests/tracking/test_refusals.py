"""What MLflow refuses for good is no outage: it is named with its way out, waits, and holds up nothing else."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_answers import answering
from mlflow_servers import empty_database

from tracking import mlflow_log, names
from tracking.delivery import deliver
from tracking.mlflow_log import RunLog, Sender
from tracking.mlflow_rows import DatabaseRows
from tracking.outbox import Outbox, Record, look
from tracking.refusals import AddressRefused, RecordRefused

pytestmark = pytest.mark.filterwarnings("ignore")

STUDY = Record("study/x", None, "x", 1_000)
TRIALS = [Record(f"trial/{number}", "study/x", f"trial {number}", 2_000, status="FINISHED") for number in range(3)]
REFUSED = "trial/1"


@pytest.fixture(autouse=True)
def client_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written to a database file at once goes through MLflow's client, which refuses what it does."""
    monkeypatch.setattr(DatabaseRows, "write", lambda self, records: [])


@pytest.fixture
def uri(tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    return (tmp_path / "mlflow-artifacts").as_uri()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    filled = Outbox(tmp_path / "study" / "outbox.jsonl")
    for record in (STUDY, *TRIALS):
        filled.append(record)
    return filled


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.name.startswith("tracking.")]


def keys(log: RunLog) -> set[str]:
    return {run.data.tags[names.TAG_RUN_KEY] for run in log.client.search_runs([log.experiment_id])}


def refusing(record: str, error: Callable[[], Exception]) -> Callable[..., str]:
    """`RunLog._take` that fails for one record."""
    take = RunLog._take

    def refuse(self: RunLog, given: Record) -> str:
        if given.run == record:
            raise error()
        return take(self, given)

    return refuse


def too_long() -> Exception:
    from mlflow import MlflowException

    return MlflowException.invalid_parameter_value("'name' exceeds the maximum length of 500 characters")


@pytest.mark.parametrize("kind", ["refused", "never works"])
def test_the_other_records_go_on(
    kind: str,
    uri: str,
    artifacts: str,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = too_long if kind == "refused" else lambda: ConnectionError("it broke")
    monkeypatch.setattr(mlflow_log, "_AGAIN_SECONDS", (0.01,))
    with monkeypatch.context() as broken:
        broken.setattr(RunLog, "_take", refusing(REFUSED, error))
        assert not Sender(outbox, uri, "pipd", artifacts).close(60)
        (warning,) = told(caplog)
        assert f"refuses 'trial 1': {error()}; it waits in {outbox.path}" in warning
        assert "cannot be reached" not in warning
        assert [record.run for record, _ in Outbox(outbox.path).pending()] == [REFUSED]
        assert look(outbox.path).records == 1
        assert keys(RunLog(uri, "pipd", artifacts)) == {"study/x", "trial/0", "trial/2"}
    late = replace(TRIALS[0], run="trial/3", parent=REFUSED)
    outbox.append(late)
    assert Sender(outbox, uri, "pipd", artifacts).close(60), "the next start tries it again"
    assert keys(RunLog(uri, "pipd", artifacts)) == {"study/x", *(f"trial/{number}" for number in range(4))}
    assert list(outbox.pending()) == []


def test_a_record_that_fails_once_is_sent_in_its_place(
    uri: str, artifacts: str, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_log, "_AGAIN_SECONDS", (0.01,))
    failed: list[str] = []
    take = RunLog._take

    def fail_once(self: RunLog, record: Record) -> str:
        if record.run == REFUSED and not failed:
            failed.append(record.run)
            raise ConnectionError("database is locked")
        return take(self, record)

    monkeypatch.setattr(RunLog, "_take", fail_once)
    assert Sender(outbox, uri, "pipd", artifacts).close(60)
    assert not told(caplog)


def test_a_child_of_what_was_refused_is_nested_all_the_same(uri: str, artifacts: str) -> None:
    log = RunLog(uri, "pipd", artifacts)
    child = log.take(Record("scenario/1/a", REFUSED, "a", 3_000))
    parent = log.take(TRIALS[1])
    assert log.client.get_run(child).data.tags[names.TAG_PARENT] == parent
    assert log.client.get_run(parent).info.run_name == "trial"
    assert log.client.get_run(parent).info.status == "FINISHED"


def test_what_is_too_long_or_no_text_is_sent_as_far_as_mlflow_takes_it(uri: str, artifacts: str) -> None:
    name = f"npz:/{'long/' * 200}data.npz badnets-0.1-s0"
    torn, long = "caf\udce9", "x" * 10_000
    record = Record(f"trial/{torn}", None, long + torn, 1, {"a": torn, "b": long}, {"c": torn, "d": long})
    log = RunLog(uri, "pipd", artifacts)
    run = log.client.get_run(log.take(replace(record, dataset=(name, "f" * 64), status="FINISHED")))
    assert run.data.params == {"a": "caf\\udce9", "b": "x" * 6_000}
    assert run.data.tags["c"] == "caf\\udce9"
    assert len(run.data.tags["d"]) == 8_000
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == name[-500:]
    assert run.info.run_id == RunLog(uri, "pipd", artifacts).take(record), "found again"


def test_a_deleted_experiment_is_told_with_the_command_that_restores_it(
    uri: str, artifacts: str, outbox: Outbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "_RETRY_SECONDS", (0.05,))
    log = RunLog(uri, "pipd", artifacts)
    log.client.delete_experiment(log.experiment_id)
    with pytest.raises(AddressRefused, match=f"mlflow experiments restore --experiment-id {log.experiment_id}"):
        RunLog(uri, "pipd", artifacts)
    with pytest.raises(AddressRefused, match="was deleted"):
        log.take(STUDY)
    assert not Sender(outbox, uri, "pipd", artifacts).close(60)
    (warning,) = told(caplog)
    assert "cannot be reached" not in warning
    assert f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore" in warning
    log.client.restore_experiment(log.experiment_id)
    assert Sender(outbox, uri, "pipd", artifacts).close(60)
    assert len(keys(log)) == 4


def test_a_run_that_somebody_deleted_is_made_anew(uri: str, artifacts: str) -> None:
    log = RunLog(uri, "pipd", artifacts)
    first = log.take(STUDY)
    log.client.delete_run(first)
    with pytest.raises(RecordRefused, match="active"):
        log.take(replace(STUDY, tags={"a": "b"}))
    assert log.take(STUDY) != first


REFUSALS = {
    403: ("PERMISSION_DENIED", "MLFLOW_TRACKING_USERNAME"),
    401: ("", "MLFLOW_TRACKING_TOKEN"),
    404: ("", "is it an MLflow server's address?"),
    200: ("", "is it an MLflow server's address?"),
    400: ("INVALID_PARAMETER_VALUE", "INVALID_PARAMETER_VALUE: no"),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_server_that_refuses_everything_is_no_outage(status: int) -> None:
    code, way_out = REFUSALS[status]
    body = json.dumps({"error_code": code, "message": "no"}) if code else "<html>no</html>"
    with answering(status, body) as server, pytest.raises(AddressRefused) as refusal:
        RunLog(server.uri, "pipd", None)
    assert way_out in str(refusal.value)


def test_one_call_that_a_server_does_not_know_refuses_one_record(uri: str, artifacts: str) -> None:
    from mlflow import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, PERMISSION_DENIED

    log = RunLog(uri, "pipd", artifacts)
    for code, refusal in ((ENDPOINT_NOT_FOUND, RecordRefused), (PERMISSION_DENIED, AddressRefused)):
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(RunLog, "_take", refusing("study/x", lambda code=code: MlflowException("no", code)))  # type: ignore[misc]
            with pytest.raises(refusal):
                log.take(STUDY)


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_is_ill_is_an_outage(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status) as server, pytest.raises(Exception, match=str(status)) as outage:
        RunLog(server.uri, "pipd", None)
    assert not isinstance(outage.value, AddressRefused)


def experiment(location: str) -> str:
    told: dict[str, Any] = {"experiment_id": "1", "name": "pipd", "lifecycle_stage": "active"}
    return json.dumps({"experiment": told | {"artifact_location": location}})


def test_a_server_s_folder_that_is_not_here_is_refused(tmp_path: Path) -> None:
    for location in ((tmp_path / "theirs").as_uri(), str(tmp_path / "theirs"), "mlruns/1"):
        with answering(200, experiment(location)) as server, pytest.raises(AddressRefused, match="--artifacts-destin"):
            RunLog(server.uri, "pipd", None)
    (tmp_path / "theirs").mkdir()
    for location in ((tmp_path / "theirs").as_uri(), "mlflow-artifacts:/1", "s3://bucket/1"):
        with answering(200, experiment(location)) as server:
            assert RunLog(server.uri, "pipd", None).experiment_id == "1"


def test_an_empty_variable_is_one_that_is_not_set(
    uri: str, artifacts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = (
        "TRACKING_URI",
        "HTTP_REQUEST_TIMEOUT",
        "HTTP_REQUEST_MAX_RETRIES",
        "TRACKING_INSECURE_TLS",
        "ARTIFACT_ROOT",
    )
    for name in empty:
        monkeypatch.setenv(f"MLFLOW_{name}", "")
    before = set(tmp_path.iterdir())
    RunLog(uri, "pipd", artifacts).take(STUDY)
    with answering(200, experiment("mlflow-artifacts:/1")) as server:
        RunLog(server.uri, "pipd", None)
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"mlflow.db.lock"}


def test_a_variable_that_mlflow_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")
    with answering(200, "{}") as server, pytest.raises(AddressRefused, match="MLFLOW_HTTP_REQUEST_TIMEOUT"):
        RunLog(server.uri, "pipd", None)


def test_files_that_are_nowhere_keep_their_record_waiting(uri: str, artifacts: str, outbox: Outbox) -> None:
    log = RunLog(uri, "pipd", artifacts)
    for record, position in outbox.pending():
        assert not deliver(log, outbox, record, position).refused
    outbox.append(replace(TRIALS[0], artifacts="points/0", metrics={"tpr": 0.5}))
    ((record, position),) = outbox.pending()
    assert "points/0" in deliver(log, outbox, record, position).refused
    assert [record.artifacts for record, _ in outbox.pending()] == ["points/0"]
    (run,) = (run for run in log.client.search_runs([log.experiment_id]) if run.data.metrics)
    assert run.data.metrics == {"tpr": 0.5}, "its numbers have arrived"
    files = outbox.path.parent / "points" / "0"
    files.mkdir(parents=True)
    (files / "a.txt").write_text("a")
    ((record, position),) = outbox.pending()
    assert not deliver(log, outbox, record, position).refused
    assert list(outbox.pending()) == []
    assert not files.exists()
    assert [item.path for item in log.client.list_artifacts(run.info.run_id)] == ["a.txt"]


def test_files_of_an_earlier_record_do_not_stand_for_those_of_a_later_one(
    uri: str, artifacts: str, outbox: Outbox
) -> None:
    log = RunLog(uri, "pipd", artifacts)
    for name in ("summary", "report"):
        (outbox.path.parent / name).mkdir()
        (outbox.path.parent / name / f"{name}.txt").write_text(name)
        outbox.append(replace(STUDY, artifacts=name, keep_artifacts=True))
    (outbox.path.parent / "report").rename(outbox.path.parent / "away")
    refused = [deliver(log, outbox, *waiting).refused for waiting in outbox.pending()]
    assert [bool(reason) for reason in refused] == [False] * 5 + [True]
    (outbox.path.parent / "away").rename(outbox.path.parent / "report")
    assert [deliver(log, outbox, *waiting).refused for waiting in outbox.pending()] == [""]


def test_an_older_mark_counts(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    positions = [position for _, position in outbox.pending()]
    outbox.path.with_name("outbox.jsonl.sent").write_text(str(positions[1]))
    assert [record.run for record, _ in outbox.pending()] == ["trial/1", "trial/2"]
    outbox.refuse(positions[2])
    assert [record.run for record, _ in outbox.pending(refused=False)] == ["trial/2"]
    assert [record.run for record, _ in Outbox(outbox.path).pending()] == ["trial/1", "trial/2"]
    outbox.mark(positions[3])
    outbox.mark(positions[2])
    assert list(outbox.pending()) == []
    assert outbox.path.with_name("outbox.jsonl.sent").read_text() == str(positions[3])
