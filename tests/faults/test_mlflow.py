"""F9 and F10: a real MLflow server that goes away, or was never there, costs a study nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from test_sync import free_port, server

from faults.parts import command, dataset, environment, run, states
from study.records import read_scenario
from tracking import names
from tracking.mlflow_log import RunLog
from tracking.outbox import Outbox, look

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

KILLS, TRIALS = 5, 60
PATIENCE = 20.0  # s that a restarted server is given to be found again before it is killed once more


def sync(study: Path) -> None:
    """Sends what waits."""
    done = run([sys.executable, "-m", "study.sync", study.name, "--out", str(study.parent)])
    assert done.returncode == 0, done.stderr
    assert list(Outbox(study / "outbox.jsonl").pending()) == []


def check_all_of_it(study: Path, uri: str, trials: int) -> None:
    """Every run once, finished, with all metrics, all series and all files."""
    log = RunLog(uri, "pipd", None)
    found = log.client.search_runs([log.experiment_id], max_results=1000)
    runs = {one.data.tags[names.TAG_RUN_KEY]: one for one in found}
    assert len(found) == len(runs), "one run a point"
    kinds = Counter(one.data.tags[names.TAG_KIND] for one in found)
    assert kinds == {"study": 1, "trial": trials, "scenario": trials}
    assert Counter(one.info.status for one in found) == {"FINISHED": 1 + 2 * trials}
    for key, one in runs.items():
        kind, files = one.data.tags[names.TAG_KIND], {item.path for item in log.client.list_artifacts(one.info.run_id)}
        assert (
            files
            == {
                "study": {names.SUMMARY_TXT, names.RESULTS_CSV},
                "trial": {names.CONFIG_YAML},
                "scenario": {"flags", "plots", "attack"},
            }[kind]
        ), key
        if kind == "scenario":
            _, point, scenario = key.split("/")
            record = read_scenario(study / "points" / point / f"{scenario}.json")
            assert record is not None
            wanted = {name: value for name, value in record.metrics.items() if value is not None}
            assert {name: one.data.metrics[name] for name in wanted} == pytest.approx(wanted)
            for name, values in record.series.items():
                history = log.client.get_metric_history(one.info.run_id, name)
                assert [point.value for point in history] == pytest.approx(values)


def wait_for_news(study: Path, process: "subprocess.Popen[str]") -> bool:
    """Waits a little for the server to be sent something; whether it was."""
    mark = study / "outbox.jsonl.sent"
    before, deadline = mark.read_text() if mark.exists() else "", time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if mark.exists() and mark.read_text() != before:
            return True
        time.sleep(0.1)
    return False


def test_a_server_that_is_killed_five_times(tmp_path: Path) -> None:
    """F9: 0 failed trials; after the replay all metrics and files, one run a point, and none RUNNING."""
    port, chance, hit = free_port(), random.Random(9), 0
    uri, study = f"http://127.0.0.1:{port}", tmp_path / "runs" / "there"
    options = ["--out", str(tmp_path / "runs"), "--name", "there", "--trials", str(TRIALS), "--tracking-uri", uri]
    arguments = command(dataset(tmp_path), *options)
    process: subprocess.Popen[str] | None = None
    try:
        for _ in range(KILLS):
            with server(tmp_path / "server", port):
                process = process or subprocess.Popen(
                    arguments,
                    env=environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                if not (study / "outbox.jsonl").exists():
                    time.sleep(10)  # the study's own start
                hit += wait_for_news(study, process)
                time.sleep(chance.uniform(0, 2))
                assert process.poll() is None, "the study has to be running when its server is killed"
        assert hit, "at least one of them had begun to take records"
        assert process is not None
        with server(tmp_path / "server", port):
            _, told = process.communicate(timeout=400)
            assert process.returncode == 0, told
            assert told.count("cannot be reached") == 1, told
            assert states(study) == {"COMPLETE": TRIALS}
            sync(study)
            check_all_of_it(study, uri, TRIALS)
    finally:
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


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
