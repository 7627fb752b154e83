"""F12: trials that log all at once neither wait for MLflow nor lock its database."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_servers import empty_database

from tracking.mlflow_log import RunLog, Sender
from tracking.outbox import Outbox, Record

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

TRIALS, EPOCHS, METRICS = 8, 100, 5
EPOCH_SECONDS = 0.05


class Clock:
    """How long callers spent inside a call, all together."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def append(self, outbox: Outbox, record: Record) -> None:
        started = time.perf_counter()
        outbox.append(record)
        with self._lock:
            self.seconds += time.perf_counter() - started


def train(number: int, outbox: Outbox, clock: Clock) -> None:
    """A trial of 100 epochs: what the driver writes when it starts, when its scenario was judged, and at its end."""
    trial = f"trial/k{number}"
    clock.append(outbox, Record(trial, "study/x", "trial", 1_000))
    series: dict[str, list[float]] = {f"stage.m{metric}": [] for metric in range(METRICS)}
    for epoch in range(EPOCHS):
        time.sleep(EPOCH_SECONDS)
        for values in series.values():
            values.append(epoch / EPOCHS)
    name = f"scenario/k{number}/badnets"
    clock.append(outbox, Record(name, trial, "badnets", 2_000, series=series, status="FINISHED"))
    clock.append(outbox, Record(trial, "study/x", "trial", 3_000, metrics={"tpr": 0.5}, status="FINISHED"))


def test_eight_trials_log_a_hundred_epochs_and_wait_for_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    """F12: 0 lock errors, every point arrives, and the callers are blocked for less than 1 % of the time."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    outbox, clock = Outbox(tmp_path / "outbox.jsonl"), Clock()
    outbox.append(Record("study/x", None, "study", 500))
    caplog.set_level(logging.WARNING)
    sender = Sender(outbox, uri, "pipd", (tmp_path / "artifacts").as_uri())
    threads = [threading.Thread(target=train, args=(number, outbox, clock)) for number in range(TRIALS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    assert sender.close(120)
    assert not caplog.records, "a lock error would be told as an outage"
    blocked = clock.seconds / (TRIALS * wall)
    record_property("blocked", blocked)
    assert blocked < 0.01
    log = RunLog(uri, "pipd", None)
    found = [run for run in log.client.search_runs([log.experiment_id]) if "stage.m0" in run.data.metrics]
    assert len(found) == TRIALS
    for run in found:
        for metric in range(METRICS):
            history = log.client.get_metric_history(run.info.run_id, f"stage.m{metric}")
            assert [point.value for point in history] == [epoch / EPOCHS for epoch in range(EPOCHS)]
