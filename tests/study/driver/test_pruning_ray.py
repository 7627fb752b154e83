"""Stopping trials early with Ray for real: which trials are stopped, and that a kill changes none of it."""

import csv
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import PYTHONPATH
from fake_runs import Graded
from small_images import make_images
from small_study import TINY_PIPD, empty_ledger, save_npz, small_plan
from study_process import command, states, wait_for
from test_gpu_memory import fake_gpus
from test_study_end_to_end import workplace

from study.driver import tune_runner
from study.driver.mlflow_records import MlflowRecords
from study.driver.pruner import Pruner
from study.driver.settlement import Settlement
from study.ledger.ledger import Ledger
from study.ledger.records import read_trial
from study.ledger.result_reader import ResultReader
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from tracking.outbox import Outbox

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's and MLflow's own
__all__ = ["workplace"]

ATTACKS = ("badnets", "blended_random", "blended_image", "trojan_square")
# By Graded's grades, one trial at a time. The rungs hold the grades of the trials that came to them:
#   0  0.5    the paper's default: all four
#   1  0.25   rung 1 holds 0.5: stopped after one
#   2  0.75   rung 1 (0.5, 0.25) and rung 2 (0.5) let it go on
#   3  0.375  rung 1 (0.5, 0.25, 0.75) has 0.5 in the middle: stopped after one
#   4  0.5    rung 1 (0.5, 0.25, 0.75, 0.375) lets it go on, rung 2 (0.5, 0.75) does not: stopped after two
#   5  1.0    the best so far everywhere
JUDGED = [4, 1, 4, 1, 2, 4]
STATES = ["complete", "pruned", "complete", "pruned", "pruned", "complete"]


def graded_plan(folder: Path, pruner: str = "asha") -> Plan:
    dataset = folder / "data.npz"
    name = f"npz:{dataset}" if dataset.exists() else save_npz(dataset, make_images(32, 16))
    options = {"pruner": "asha", "pruner_grace": 1} if pruner == "asha" else {}
    return small_plan(
        name, folder, attacks=ATTACKS, objective="tpr", set=TINY_PIPD, trials=6, cpus_per_trial=8.0, **options
    )


def drive(plan: Plan, folder: Path, die: bool = False) -> tuple[list[TrialRow], tuple[int, int]]:
    """A driver's life: what it found left over, and the ledger's rows at its end. It may die once a trial is stopped,
    before the ledger is told."""
    path = folder / "study.db"
    if not path.exists():
        path.write_bytes(empty_ledger("maximize"))
    ledger = Ledger(path, "toy", plan.space, "maximize", "random", 0, 6, plan.point_key)
    reader = ResultReader(folder / "points", plan.scenarios, plan.goal)
    records = MlflowRecords(plan, reader.points, Outbox(folder / "outbox.jsonl"))
    settlement = Settlement(plan, reader, ledger, records)
    swept = ledger.recover_interrupted(reader.outcome)
    ledger.enqueue_default(plan.default_point)

    def settle(number: int, key: str, error: str) -> None:
        record = read_trial(reader.points / key / "result.json")
        if die and record is not None and record.stopped:
            os.kill(os.getpid(), signal.SIGKILL)
        settlement.finish_trial(number, key, error)

    tune_runner.run_trials(
        plan,
        ledger,
        reader.points,
        folder / "ray",
        settle,
        settlement.finish_scenario,
        tune_runner.StudyStopper(),
        Graded,
        Pruner(plan, reader, ledger.rows()) if plan.pruning else None,
    )
    return ledger.rows(), swept


def judged(folder: Path, rows: list[TrialRow]) -> list[int]:
    """How often each trial was started on a scenario."""
    return [len(list((folder / "started" / row.key).iterdir())) for row in rows]


@pytest.fixture(scope="module")
def eight_cpus() -> Iterator[None]:
    """Ray, on which one trial at a time fits."""
    yield from fake_gpus(0)


@pytest.mark.usefixtures("eight_cpus")
def test_those_that_fall_behind_are_stopped_and_the_others_complete(tmp_path: Path) -> None:
    rows, _ = drive(graded_plan(tmp_path), tmp_path)
    assert [row.state for row in rows] == STATES
    assert judged(tmp_path, rows) == JUDGED
    assert [row.value for row in rows] == [0.5, None, 0.75, None, None, 1.0]


@pytest.mark.slow
@pytest.mark.usefixtures("eight_cpus")
def test_a_kill_between_stopping_and_telling_changes_nothing(tmp_path: Path) -> None:
    graded_plan(tmp_path)  # writes the data
    script = (
        "import sys\nfrom pathlib import Path\nfrom test_gpu_memory import fake_gpus\n"
        "from test_pruning_ray import drive, graded_plan\nfolder = Path(sys.argv[1])\n"
        "next(fake_gpus(0))\ndrive(graded_plan(folder), folder, die=True)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{PYTHONPATH}:{Path(__file__).parent}", "RAY_ADDRESS": "local"}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert states(tmp_path) == {"COMPLETE": 1, "RUNNING": 1}
    rows, swept = drive(graded_plan(tmp_path), tmp_path)
    assert swept == (1, 0), "the stopped trial is taken in, and not queued again"
    assert [row.state for row in rows] == STATES
    assert judged(tmp_path, rows) == JUDGED, "none was judged twice, and the rungs hold what the first driver saw"


@pytest.mark.slow
@pytest.mark.usefixtures("eight_cpus")
def test_without_a_pruner_every_trial_completes(tmp_path: Path) -> None:
    rows, _ = drive(graded_plan(tmp_path, "none"), tmp_path)
    assert [row.state for row in rows] == ["complete"] * 6
    assert judged(tmp_path, rows) == [4] * 6


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["asha", "median"])
def test_the_command_killed_and_given_again(rule: str, workplace: Path) -> None:
    name = f"pruned-{rule}"
    options = ["--name", name, "--trials", "14", "--pruner", rule, "--pruner-grace", "1", "--until", "isolate"]
    attacks = ["--attacks", *ATTACKS]
    words = command(workplace, *options)
    words[words.index("--attacks") : words.index("--attacks") + 2] = attacks
    study = workplace / "runs" / name
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: stopped_on_disk(study) or process.poll() is not None)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in study.glob("points/*/*-s0.json")}
    again = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    found = states(study)
    assert found["COMPLETE"] + found["PRUNED"] == 14
    assert found["PRUNED"] >= 1
    assert not {"RUNNING", "WAITING"} & set(found)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "nothing was judged again"
    assert f"{found['PRUNED']} stopped early ({rule})" in again.stdout
    check_books(study, found["PRUNED"])


def stopped_on_disk(study: Path) -> bool:
    """Whether a trial was stopped."""
    return any('"stopped": true' in path.read_text() for path in study.glob("points/*/result.json"))


def check_books(study: Path, stopped: int) -> None:
    """results.csv, the ledger and MLflow tell the same of the stopped trials."""
    from mlflow import MlflowClient

    with (study / "summary" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    scenarios = Counter(line["trial"] for line in lines)
    early = {line["trial"] for line in lines if line["stopped_early"] == "1"}
    assert len(early) == stopped
    assert {trial for trial, count in scenarios.items() if count < len(ATTACKS)} == early
    with sqlite3.connect(study / "study.db") as database:
        pruned = "select number from trials where state = 'PRUNED'"
        assert {str(number) for (number,) in database.execute(pruned)} == early
    client = MlflowClient(f"sqlite:///{study.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pipd")
    query = f"tags.`study.name` = '{study.name}' and tags.`study.stopped_early` = 'true'"
    runs = client.search_runs([experiment.experiment_id], query, max_results=100)
    assert {run.info.run_name for run in runs} == {f"{study.name} #{number}" for number in early}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [run for run in runs if "objective" in run.data.metrics or "tpr" in run.data.metrics]
