"""F12: trials that log all at once neither wait for MLflow nor lock its database."""

import logging
import threading
import time
from pathlib import Path

import pytest
from mlflow_servers import empty_database

from tracking.mlflow_log import RunLog, Sender
from tracking.outbox import Outbox, Record

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

TRIALS, EPOCHS, METRICS = 8, 100, 5
EPOCH_SECONDS = 0.01


def train(number: int, outbox: Outbox) -> None:
    """A trial of 100 epochs: what the driver writes when it starts, when its scenario was judged, and at its end."""
    trial = f"trial/k{number}"
    outbox.append(Record(trial, "study/x", "trial", 1_000))
    series: dict[str, list[float]] = {f"stage.m{metric}": [] for metric in range(METRICS)}
    for epoch in range(EPOCHS):
        time.sleep(EPOCH_SECONDS)
        for values in series.values():
            values.append(epoch / EPOCHS)
    name = f"scenario/k{number}/badnets"
    outbox.append(Record(name, trial, "badnets", 2_000, series=series, status="FINISHED"))
    outbox.append(Record(trial, "study/x", "trial", 3_000, metrics={"tpr": 0.5}, status="FINISHED"))


def train_all(outbox: Outbox) -> None:
    """All trials, at once; over when each has logged all that it had to."""
    threads = [threading.Thread(target=train, args=(number, outbox)) for number in range(TRIALS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a trial waits"


@pytest.mark.parametrize("stands_still", [False, True])
def test_eight_trials_log_a_hundred_epochs_and_wait_for_nothing(
    stands_still: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F12: 0 lock errors, every point arrives, and trials end while MLflow is in the middle of taking a record."""
    began, goes_on, writes = threading.Event(), threading.Event(), RunLog.take

    def take(this: RunLog, record: Record) -> str:
        began.set()
        assert goes_on.wait(120)
        return writes(this, record)

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    outbox = Outbox(tmp_path / "outbox.jsonl")
    outbox.append(Record("study/x", None, "study", 500))
    caplog.set_level(logging.WARNING)
    if stands_still:
        monkeypatch.setattr(RunLog, "take", take)
        monkeypatch.setattr(RunLog, "can_join", lambda *_: False)  # each record by `take`
    sender = Sender(outbox, uri, "pipd", (tmp_path / "artifacts").as_uri())
    assert not stands_still or began.wait(120)
    train_all(outbox)
    assert not stands_still or outbox.sent == 0
    goes_on.set()
    assert sender.close(120)
    assert not caplog.records, "a lock error would be told as an outage"
    log = RunLog(uri, "pipd", None)
    found = [run for run in log.client.search_runs([log.experiment_id]) if "stage.m0" in run.data.metrics]
    assert len(found) == TRIALS
    for run in found:
        for metric in range(METRICS):
            history = log.client.get_metric_history(run.info.run_id, f"stage.m{metric}")
            assert [point.value for point in history] == [epoch / EPOCHS for epoch in range(EPOCHS)]
