"""A ledger in other tools: what optuna-dashboard shows of it, and that opening it while a study runs harms nothing."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from small_study import empty_ledger, scenario_record

from search_spaces.space import Float, SearchSpace
from study.config.objectives import Goal
from study.ledger.dashboard import Attributes, Shown, metric_names, trial_attributes
from study.ledger.ledger import Ledger
from study.ledger.snapshot import read_ledger

SPACE = SearchSpace("toy", "pipd", {"beta": Float(0.0, 6.0, "why")})
TRIALS = 60

DASHBOARD = """
import optuna, pathlib, sys
from optuna.storages import RDBStorage
optuna.logging.set_verbosity(optuna.logging.ERROR)
path, stop = map(pathlib.Path, sys.argv[1:])
opened = 0
while not stop.exists():
    storage = RDBStorage(f"sqlite:///{path}", skip_compatibility_check=True, skip_table_creation=opened % 2 == 1)
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    storage.set_study_system_attr(study._study_id, f"dashboard:note_ver:{opened}", opened)
    storage.set_study_user_attr(study._study_id, "seen", len(trials))
    storage.remove_session()
    opened += 1
    print(opened, flush=True)
"""
"""What optuna-dashboard does when it starts, when its page asks for news, and when a person writes a note."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "study.db"
    found.write_bytes(empty_ledger("maximize"))
    return found


def open_ledger(path: Path, attributes_of: Callable[[str], Attributes] | None = None) -> Ledger:
    shown = None if attributes_of is None else Shown(("overall score",), attributes_of)
    return Ledger(path, "toy", SPACE, "maximize", "random", 0, 12, lambda point: repr(point["beta"]), shown=shown)


def run_trial(ledger: Ledger, value: float | None = 0.5) -> str:
    number, _, key = ledger.ask()
    assert ledger.number_of(key) == number
    ledger.tell(number, (value, "" if value is not None else "broken"))
    return key


def seen(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="toy", storage=f"sqlite:///{path}")


def test_trials_say_what_they_reached(path: Path) -> None:
    ledger = open_ledger(path, lambda _: {"TPR": 0.9987, "attack failed on": "sig-0.1-s0"})
    key = run_trial(ledger)
    study = seen(path)
    assert study.metric_names == ["overall score"]
    assert study.trials[0].user_attrs == {"point_key": key, "TPR": 0.9987, "attack failed on": "sig-0.1-s0"}
    assert (ledger.rows()[0].state, ledger.rows()[0].value) == ("complete", 0.5)


def test_a_study_that_an_earlier_version_began_says_it_when_it_goes_on(path: Path) -> None:
    ledger = open_ledger(path)
    first = run_trial(ledger)
    run_trial(ledger, None)
    assert seen(path).metric_names is None
    asked: list[str] = []

    def attributes(key: str) -> Attributes:
        asked.append(key)
        return {"TPR": 1.0}

    before = ledger.rows()
    later = open_ledger(path, attributes)
    assert later.rows() == before
    assert asked == [first], "nothing is read of a trial that failed"
    second = run_trial(later)
    assert [trial.user_attrs.get("TPR") for trial in seen(path).trials] == [1.0, None, 1.0]
    assert asked == [first, second]
    open_ledger(path, attributes)
    assert asked == [first, second], "each says it once"


def test_what_a_trial_reached_in_words() -> None:
    good = scenario_record("a", {"tpr": 1.0, "fpr": 0.0, "ca": 2 / 3, "asr": 0.25, "flagged_share": 0.1})
    bad = scenario_record("b", {"tpr": 0.5, "fpr": 0.0, "ca": 2 / 3, "asr": None})
    failed = scenario_record("c", {"tpr": 0.0, "fpr": 1.0, "ca": 0.0, "asr": 0.0}, attack_failed=True)
    goal = Goal(("overall_score",))
    reached = {"TPR": 0.75, "FPR": 0.0, "CA": 0.6667, "ASR": 0.25}
    assert trial_attributes([good, bad], goal) == reached
    assert trial_attributes([good, bad, failed], goal) == {**reached, "attack failed on": "c"}
    assert trial_attributes([good, bad], Goal(("tpr",), "worst"))["TPR"] == 0.5
    assert trial_attributes([], goal) == {}
    assert metric_names(goal) == ("overall score",)
    assert metric_names(Goal(("asr", "ca"), "worst")) == ("ASR (worst scenario)", "CA (worst scenario)")


@contextmanager
def dashboard(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that opens a ledger again and again; it must end well."""
    stop = path.with_name("stop")
    command = [sys.executable, "-c", DASHBOARD, str(path), str(stop)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "1\n", process.stderr and process.stderr.read()
        yield process
        stop.touch()
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert len(rest.splitlines()) >= 3, "it was open while the driver wrote"
    finally:
        process.kill()
        process.wait(timeout=30)


def test_opening_it_while_a_study_runs_harms_nothing(path: Path) -> None:
    ledger = open_ledger(path, lambda key: {"TPR": float(key)})
    with dashboard(path):
        started = time.monotonic()
        for done in range(1, TRIALS + 1):
            run_trial(ledger)
            assert [trial.state for trial in read_ledger(path).trials] == ["complete"] * done
        assert time.monotonic() - started < 60
    rows, file = ledger.rows(), read_ledger(path)
    assert [row.number for row in rows] == list(range(TRIALS))
    assert [(trial.number, trial.key, trial.values) for trial in file.trials] == [
        (row.number, row.key, row.values) for row in rows
    ]
    assert [trial.user_attrs["TPR"] for trial in seen(path).trials] == [float(row.key) for row in rows]
    assert open_ledger(path).rows() == rows, "and the study goes on"
