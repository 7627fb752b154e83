"""F9 and F10: a real MLflow server that goes away, or was never there, costs a study nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_servers import free_port, server

from faults.parts import command, dataset, environment, run, states
from study.analysis.results import read_results
from study.ledger.records import read_scenario
from tracking import names
from tracking.mlflow_log import RunLog
from tracking.outbox import Outbox, look

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

KILLS, TRIALS = 5, 25
PATIENCE = 20.0  # s that a restarted server is given to be found again before it is killed once more


def sync(study: Path) -> None:
    """Sends what waits."""
    done = run([sys.executable, "-m", "study.sync", study.name, "--out", str(study.parent)])
    assert done.returncode == 0, done.stderr
    assert list(Outbox(study / "outbox.jsonl").pending()) == []


def check_all_of_it(study: Path, uri: str, trials: int) -> None:
    """Every run once, finished, with all metrics, all series and all files.

    Plots have the paper's default, the best trial, and what was the best when an earlier sitting ended.
    """
    log = RunLog(uri, "pipd", None)
    found = log.client.search_runs([log.experiment_id], max_results=1000)
    runs = {one.data.tags[names.TAG_RUN_KEY]: one for one in found}
    assert len(found) == len(runs), "one run a point"
    plotted = {0, read_results(study.parent, study.name).best}
    kinds = Counter(one.data.tags[names.TAG_KIND] for one in found)
    assert kinds == {"study": 1, "trial": trials, "scenario": trials}
    assert Counter(one.info.status for one in found) == {"FINISHED": 1 + 2 * trials}
    for key, one in runs.items():
        kind, files = one.data.tags[names.TAG_KIND], {item.path for item in log.client.list_artifacts(one.info.run_id)}
        assert (
            files
            == {
                "study": {names.SUMMARY_TXT, names.RESULTS_CSV, names.BEST} | (files & {names.REPORT_HTML}),
                "trial": {names.CONFIG_YAML},
                "scenario": {"flags", "attack"} | ({"plots"} if _number(one) in plotted else files & {"plots"}),
            }[kind]
        ), key
        if kind == "scenario":
            *_, point, scenario = key.split("/")
            record = read_scenario(study / "points" / point / f"{scenario}.json")
            assert record is not None
            wanted = {names.in_mlflow(name): value for name, value in record.metrics.items() if value is not None}
            assert {name: one.data.metrics[name] for name in wanted} == pytest.approx(wanted)
            for name, values in record.series.items():
                history = log.client.get_metric_history(one.info.run_id, name)
                assert [point.value for point in history] == pytest.approx(values)


def _number(run: Any) -> int:
    """Of the trial that a scenario's run belongs to: its name ends with it, what it is, and the scenario."""
    return int(run.info.run_name.partition("#")[2].split()[0])


def wait_for_news(study: Path, process: "subprocess.Popen[str]") -> bool:
    """Waits a little for the server to be sent something; whether it was."""
    mark = study / "outbox.jsonl.sent"
    before, deadline = mark.read_text() if mark.exists() else "", time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if mark.exists() and mark.read_text() != before:
            return True
        time.sleep(0.1)
    return False


class Driver:
    """A study that is longer than this test is patient: a sitting that ends is followed by one with more trials."""

    def __init__(self, arguments: list[str]) -> None:
        self.trials, self.warnings, self.sittings = 0, 0, 0
        self._arguments = arguments
        self.process = self._sit()

    def _sit(self) -> "subprocess.Popen[str]":
        self.trials += TRIALS
        self.sittings += 1
        return subprocess.Popen(
            [*self._arguments, "--trials", str(self.trials)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> None:
        """Waits for the sitting's end, which must be a good one."""
        _, told = self.process.communicate(timeout=400)
        assert self.process.returncode == 0, told
        self.warnings += told.count("cannot be reached")

    def go_on(self) -> None:
        """Sees to it that a driver runs."""
        if self.process.poll() is not None:
            self.end()
            self.process = self._sit()

    def kill(self) -> None:
        """For when the test failed."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def test_a_server_that_is_killed_five_times(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """F9: 0 failed trials; after the replay all metrics and files, one run a point, and none RUNNING."""
    port, chance, kills, news = free_port(), random.Random(9), 0, 0
    uri, study = f"http://127.0.0.1:{port}", tmp_path / "runs" / "there"
    options = ["--out", str(tmp_path / "runs"), "--name", "there", "--tracking-uri", uri]
    driver = Driver(command(dataset(tmp_path), *options))
    try:
        while kills < KILLS:
            with server(tmp_path / "server", port):
                driver.go_on()
                heard = wait_for_news(study, driver.process)
                time.sleep(chance.uniform(0, 1))
                hit = driver.process.poll() is None
            kills += hit  # a server that dies while nobody runs the study is no fault
            news += hit and heard
        assert news, "at least one of them had begun to take records"
        with server(tmp_path / "server", port):
            driver.end()
            assert driver.warnings <= driver.sittings, "one warning a sitting"
            assert states(study) == {"COMPLETE": driver.trials}
            sync(study)
            check_all_of_it(study, uri, driver.trials)
    finally:
        driver.kill()
    record_property("figures", f"{kills} kills, {news} while it took records, {driver.trials} trials")


def test_a_server_that_is_not_there_at_the_start(tmp_path: Path) -> None:
    """F10: the study runs, says so in one warning, and `study.sync` sends all of it later."""
    port = free_port()
    uri, study = f"http://127.0.0.1:{port}", tmp_path / "runs" / "there"
    options = ["--out", str(tmp_path / "runs"), "--name", "there", "--trials", "3", "--tracking-uri", uri]
    done = run(command(dataset(tmp_path), *options))
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "WARN" in line.upper() or "rror" in line]
    assert warning.startswith(f"WARNING: MLflow at {uri} cannot be reached (")
    assert states(study) == {"COMPLETE": 3}
    assert look(study / "outbox.jsonl").records == len((study / "outbox.jsonl").read_text().splitlines())
    with server(tmp_path / "server", port):
        sync(study)
        check_all_of_it(study, uri, 3)
