"""The ledger: what is asked, told, and settled after a crash."""

import math
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from small_study import empty_ledger

from search_spaces.space import Choice, Float, Int, SearchSpace
from study.ledger.ledger import Ledger
from study.ledger.selection import best_over_all, front
from study.ledger.snapshot import KEY, LOST, RETRY_OF, read_ledger
from study.ledger.storage import LedgerStorage
from study.ledger.trial_row import Outcome, TrialRow

SPACE = SearchSpace(
    "toy",
    "pipd",
    {"beta": Float(0.0, 6.0, "why"), "rounds": Int(1, 12, "why"), "statistic": Choice(("max", "mean"), "why")},
)
DEFAULT: dict[str, Any] = {"beta": 3.0, "rounds": 8, "statistic": "max"}
OpenLedger = Callable[..., Ledger]


def key_of(point: Mapping[str, Any]) -> str:
    """As the plan's: what a point leaves out has the paper's value."""
    return repr(sorted({**DEFAULT, **point}.items()))


def nothing(_key: str) -> Outcome | None:
    """No result lies on disk."""
    return None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The ledger's file."""
    return tmp_path / "study.db"


@pytest.fixture
def reopen(path: Path) -> OpenLedger:
    """Opens the ledger as a driver does; called again, it is the next driver after a crash."""

    def make(direction: Any = "maximize", sampler: str = "random", seed: int = 0) -> Ledger:
        if not path.exists():
            path.write_bytes(empty_ledger(direction))
        return Ledger(path, "toy", SPACE, direction, sampler, seed, 12, key_of)

    return make


def study_at(path: Path) -> optuna.Study:
    """The file as Optuna sees it, to do what a killed driver had done."""
    return optuna.load_study(study_name="toy", storage=f"sqlite:///{path}")


def in_state(path: Path, *states: TrialState) -> list[int]:
    return [trial.number for trial in study_at(path).get_trials(states=states)]


def ask_all(ledger: Ledger, count: int, value: float = 0.5) -> list[dict[str, Any]]:
    """Some trials, asked and told one after the other; their points."""
    points = []
    for _ in range(count):
        number, point, _ = ledger.ask()
        ledger.tell(number, (value, ""))
        points.append(point)
    return points


def row(ledger: Ledger, number: int) -> TrialRow:
    return next(found for found in ledger.rows() if found.number == number)


def test_a_kill_between_the_default_and_the_calibrated_point_loses_neither(reopen: OpenLedger, path: Path) -> None:
    calibrated = {**DEFAULT, "beta": 1.0}
    reopen().enqueue_default(DEFAULT)  # and killed before the second
    for _ in range(2):
        reopen().enqueue_default(DEFAULT, calibrated)
    assert in_state(path, TrialState.WAITING) == [0, 1]
    ledger = reopen()
    assert [ledger.ask()[1] for _ in range(2)] == [DEFAULT, calibrated]
    ledger.enqueue_default(DEFAULT, calibrated)
    assert in_state(path, TrialState.WAITING) == []


def test_a_study_that_was_begun_without_a_calibrated_point_stays_without_it(reopen: OpenLedger, path: Path) -> None:
    ledger = reopen()
    ledger.enqueue_default(DEFAULT)
    ledger.tell(ledger.ask()[0], (0.5, ""))
    reopen().enqueue_default(DEFAULT, {**DEFAULT, "beta": 1.0})
    assert in_state(path, TrialState.WAITING) == []


def test_the_default_comes_first_and_once(reopen: OpenLedger) -> None:
    ledger = reopen()
    ledger.enqueue_default(DEFAULT)
    ledger.enqueue_default(DEFAULT)
    assert ledger.rows() == [], "what is only queued was not started"
    number, point, key = ledger.ask()
    assert (number, point, key) == (0, DEFAULT, key_of(DEFAULT))
    ledger.tell(number, (0.5, ""))
    reopen().enqueue_default(DEFAULT)
    second = reopen().ask()
    assert second[1] != DEFAULT
    assert [found.paper_default for found in reopen().rows()] == [True, False]


def test_ask_and_tell(reopen: OpenLedger) -> None:
    ledger = reopen()
    number, point, key = ledger.ask()
    assert key == key_of(point)
    assert all(value in SPACE.ranges[name] for name, value in point.items())
    assert row(ledger, number) == TrialRow(number, "running", point, key, (), "", False)
    ledger.tell(number, (0.75, ""))
    assert row(ledger, number) == TrialRow(number, "complete", point, key, (0.75,), "", False)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, None, "0.9", "", [0.9], np.float32(0.9)], ids=lambda value: repr(value)
)
def test_what_is_no_finite_number_fails_with_a_reason(value: Any, reopen: OpenLedger, path: Path) -> None:
    ledger = reopen()
    number, _, _ = ledger.ask()
    ledger.tell(number, (value, ""))
    found = row(ledger, number)
    assert (found.state, found.value) == ("fail", None)
    assert found.reason == f"the objective must be a finite number, got {value!r}"
    assert in_state(path, TrialState.RUNNING) == []
    assert ledger.front() == []
    # The reason outlives the driver.
    assert row(reopen(), number).reason == found.reason


def test_a_failure_keeps_the_reason_it_came_with(reopen: OpenLedger) -> None:
    ledger = reopen()
    number, _, _ = ledger.ask()
    ledger.tell(number, (None, "badnets-0.1-s0: out of memory"))
    assert row(ledger, number).reason == "badnets-0.1-s0: out of memory"


def test_a_settled_trial_is_not_settled_again(reopen: OpenLedger) -> None:
    ledger = reopen()
    good, _, _ = ledger.ask()
    bad, _, _ = ledger.ask()
    ledger.tell(good, (0.5, ""))
    ledger.tell(bad, (None, "broken"))
    for number in (good, bad):
        ledger.tell(number, (0.9, ""))
        ledger.tell(number, (None, "late"))
    assert (row(ledger, good).value, row(ledger, good).reason) == (0.5, "")
    assert (row(ledger, bad).value, row(ledger, bad).reason) == (None, "broken")


def test_what_remains(reopen: OpenLedger) -> None:
    ledger = reopen()
    assert ledger.remaining(3) == 3
    ledger.enqueue_default(DEFAULT)
    assert ledger.remaining(3) == 3  # queued is not done
    first, _, _ = ledger.ask()
    assert ledger.remaining(3) == 3  # nor is running
    ledger.tell(first, (0.5, ""))
    assert ledger.remaining(3) == 2
    second, _, _ = ledger.ask()
    ledger.tell(second, (None, "broken"))  # it would fail again, so it is not tried again
    assert (ledger.remaining(3), ledger.remaining(2), ledger.remaining(1)) == (1, 0, 0)
    assert ledger.finished() == 2


def test_a_finished_result_is_taken_in_after_a_crash(reopen: OpenLedger, path: Path) -> None:
    number, point, key = reopen().ask()
    after = reopen()
    assert after.recover_interrupted(lambda found: (0.75, "") if found == key else None) == (1, 0)
    assert row(after, number) == TrialRow(number, "complete", point, key, (0.75,), "", False)
    assert in_state(path, TrialState.RUNNING, TrialState.WAITING) == []
    assert after.recover_interrupted(nothing) == (0, 0)


def test_a_finished_failure_is_taken_in_after_a_crash(reopen: OpenLedger) -> None:
    number, _, _ = reopen().ask()
    after = reopen()
    assert after.recover_interrupted(lambda _: (None, "broken")) == (1, 0)
    assert row(after, number).reason == "broken"
    assert after.remaining(3) == 2


def test_an_unfinished_trial_is_queued_once_more(reopen: OpenLedger, path: Path) -> None:
    number, point, key = reopen().ask()
    after = reopen()
    assert after.recover_interrupted(nothing) == (0, 1)
    assert (row(after, number).state, row(after, number).reason) == ("fail", LOST)
    assert after.remaining(3) == 3, "a lost trial is not a finished one"
    assert reopen().recover_interrupted(nothing) == (0, 0), "a second start before it ran queues nothing"
    assert len(in_state(path, TrialState.WAITING)) == 1
    again = reopen().ask()
    assert again == (number + 1, point, key)


def test_a_trial_is_known_by_its_values_until_its_key_is_noted(reopen: OpenLedger, path: Path) -> None:
    reopen()
    point = study_at(path).ask(SPACE.distributions()).params  # killed before the key was written
    results: dict[str, Outcome] = {key_of(point): (0.75, "")}
    after = reopen()
    assert after.recover_interrupted(results.get) == (1, 0)
    assert row(after, 0).value == 0.75


def test_a_trial_that_is_lost_twice_is_queued_twice(reopen: OpenLedger, path: Path) -> None:
    first = reopen().ask()
    for lost in (1, 2):
        after = reopen()
        assert after.recover_interrupted(nothing) == (0, 1)
        assert in_state(path, TrialState.RUNNING) == []
        assert after.ask() == (lost, *first[1:])


def test_a_crash_between_queueing_and_failing_makes_no_duplicate(reopen: OpenLedger, path: Path) -> None:
    number, point, key = reopen().ask()
    study_at(path).enqueue_trial(point, user_attrs={KEY: key, RETRY_OF: number})  # and then the driver was killed
    after = reopen()
    assert after.recover_interrupted(nothing) == (0, 0)
    assert in_state(path, TrialState.RUNNING) == []
    assert after.ask() == (number + 1, point, key)
    assert in_state(path, TrialState.WAITING) == []


def test_a_result_that_comes_after_its_point_was_queued_again_counts_once(reopen: OpenLedger, path: Path) -> None:
    number, point, key = reopen().ask()
    study_at(path).enqueue_trial(point, user_attrs={KEY: key, RETRY_OF: number})  # and then the driver was killed
    after = reopen()
    assert after.recover_interrupted({key: (0.75, "")}.get) == (0, 0)
    assert row(after, number).state == "fail"
    assert after.ask() == (number + 1, point, key), "the copy reads the result back"
    after.tell(number + 1, (0.75, ""))
    assert [found.key for found in after.rows() if found.state == "complete"] == [key]


def test_the_default_is_not_lost_before_its_first_value(reopen: OpenLedger, path: Path) -> None:
    reopen().enqueue_default(DEFAULT)
    study_at(path).ask()  # takes it from the queue; the driver is killed before a value was suggested
    assert in_state(path, TrialState.RUNNING) == [0]
    after = reopen()
    assert after.recover_interrupted(nothing) == (0, 1)
    after.enqueue_default(DEFAULT)  # a driver does this on every start
    assert after.ask() == (1, DEFAULT, key_of(DEFAULT))
    after.tell(1, (0.5, ""))
    assert row(after, 1).paper_default
    assert after.ask()[1] != DEFAULT


def test_a_trial_without_all_its_values_is_dropped(reopen: OpenLedger, path: Path) -> None:
    reopen()
    study_at(path).ask().suggest_float("beta", 0.0, 6.0)  # and then the driver was killed
    after = reopen()
    assert after.recover_interrupted(nothing) == (0, 0)
    assert row(after, 0).reason == LOST
    assert after.remaining(3) == 3
    assert in_state(path, TrialState.WAITING, TrialState.RUNNING) == []


def test_a_trial_without_values_does_not_get_the_default_s_result(reopen: OpenLedger, path: Path) -> None:
    ledger = reopen()
    ledger.enqueue_default(DEFAULT)
    ask_all(ledger, 1, value=0.25)
    study_at(path).ask()  # killed before its first value
    after = reopen()
    on_disk: dict[str, Outcome] = {key_of(DEFAULT): (0.25, "")}
    assert after.recover_interrupted(on_disk.get) == (0, 0)
    assert row(after, 1).state == "fail"
    assert after.remaining(3) == 2


def test_many_running_trials_are_settled_together(reopen: OpenLedger, path: Path) -> None:
    ledger = reopen()
    keys = [ledger.ask()[2] for _ in range(4)]
    done: dict[str, Outcome] = {keys[1]: (0.5, ""), keys[3]: (math.nan, "")}
    after = reopen()
    assert after.recover_interrupted(done.get) == (2, 2)
    assert [found.state for found in after.rows()] == ["fail", "complete", "fail", "fail"]
    assert (row(after, 0).reason, row(after, 2).reason) == (LOST, LOST)
    assert "finite" in row(after, 3).reason
    assert {after.ask()[2], after.ask()[2]} == {keys[0], keys[2]}
    assert in_state(path, TrialState.WAITING) == []


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_a_resumed_sampler_does_not_repeat_itself(sampler: str, reopen: OpenLedger) -> None:
    first = ask_all(reopen(sampler=sampler), 3)
    second = ask_all(reopen(sampler=sampler), 3)
    betas = [point["beta"] for point in [*first, *second]]
    assert len(set(betas)) == 6
    assert len(betas) == 6


def test_the_same_seed_searches_the_same_points(reopen: OpenLedger, path: Path) -> None:
    first = ask_all(reopen(sampler="tpe"), 4)
    path.unlink()
    assert ask_all(reopen(sampler="tpe"), 4) == first
    path.unlink()
    assert ask_all(reopen(sampler="tpe", seed=1), 4) != first


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [
        ("maximize", [0.2, 0.9, 0.9, None], 1),  # of equals the earliest
        ("minimize", [0.2, 0.1, 0.1, None], 1),
        ("maximize", [None, -0.5, 0.0], 2),  # zero is a value
        ("minimize", [0.5, 0.0, 0.0, 0.1], 1),
        ("maximize", [-0.5, -0.25], 1),
        ("maximize", [None, None], None),
    ],
)
def test_the_best(direction: str, values: list[float | None], best: int | None, reopen: OpenLedger) -> None:
    ledger = reopen(direction=direction)
    assert best_over_all(ledger.rows(), (direction,)) is None  # type: ignore[arg-type]
    for value in values:
        number, _, _ = ledger.ask()
        ledger.tell(number, (value, "" if value is not None else "broken"))
    found = best_over_all(ledger.rows(), (direction,))  # type: ignore[arg-type]
    assert (found.number if found else None) == best
    assert found is None or found.value == values[found.number]


def test_a_ledger_that_is_opened_later_has_all_that_was_written(reopen: OpenLedger) -> None:
    first = reopen()
    ask_all(first, 2, value=0.125)
    number, _, _ = first.ask()
    first.tell(number, (None, "broken"))
    second = reopen()
    assert second.rows() == first.rows()
    assert len(second.rows()) == 3
    ask_all(second, 1)
    third = reopen()
    assert third.rows() == second.rows()
    assert len(third.rows()) == 4


def test_a_folder_with_spaces_is_fine(reopen: OpenLedger, tmp_path: Path) -> None:
    folder = tmp_path / "my studies 100%"
    folder.mkdir()
    reopen()
    shutil.copy(tmp_path / "study.db", folder / "study.db")
    ledger = Ledger(folder / "study.db", "toy", SPACE, "maximize", "random", 0, 12, key_of)
    ask_all(ledger, 1)
    assert in_state(folder / "study.db", TrialState.COMPLETE) == [0]
    assert in_state(tmp_path / "study.db", TrialState.COMPLETE) == []


def test_a_folder_with_a_question_mark_is_fine(tmp_path: Path) -> None:
    folder = tmp_path / "why?"
    folder.mkdir()
    Ledger(folder / "study.db", "toy", SPACE, "maximize", "random", 0, 12, key_of)
    assert (folder / "study.db").exists()


def test_a_trial_that_is_handed_out_is_in_the_file_whole(reopen: OpenLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is killed while it asks leaves no trial; one that is killed afterwards leaves all of it."""
    ledger = reopen()
    with monkeypatch.context() as killed:
        killed.setattr(LedgerStorage, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ledger.ask()
    assert reopen().rows() == []
    later = reopen()
    number, point, key = later.ask()
    (row,) = reopen().rows()
    assert (row.number, row.point, row.key, row.state) == (number, point, key, "running")


def test_what_the_file_holds_is_what_the_ledger_says(reopen: OpenLedger, path: Path) -> None:
    ledger = reopen()
    ask_all(ledger, 3, value=0.5)
    number, _, _ = ledger.ask()
    ledger.tell(number, (None, "broken"))
    ledger.ask()
    snapshot = read_ledger(path)
    told = [(row.number, row.state, row.point, row.key, row.values, row.reason) for row in ledger.rows()]
    assert told == [(t.number, t.state, t.point, t.key, t.values or (), t.reason) for t in snapshot.trials]
    assert reopen().rows() == ledger.rows()


def test_a_trial_is_written_as_optuna_would(reopen: OpenLedger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once by the rows alone, once by Optuna's storage: its tables hold the same of both."""

    def columns(number: int) -> list[list[Any]]:
        tables = {
            "trials": "number - :number, study_id, state, datetime_complete, length(datetime_start)",
            "trial_params": "param_name, typeof(param_value), distribution_json",
            "trial_user_attributes": "key, typeof(value_json)",
            "trial_system_attributes": "key",
        }
        one = "select trial_id from trials where number = :number"
        with closing(sqlite3.connect(path)) as database:
            return [
                database.execute(
                    f"select {wanted} from {table} where trial_id in ({one})", {"number": number}
                ).fetchall()
                for table, wanted in tables.items()
            ]

    ledger = reopen(sampler="tpe")
    first, _, _ = ledger.ask()
    monkeypatch.setattr(ledger._storage._rows, "known", False)
    second, _, _ = ledger.ask()
    assert columns(first) == columns(second)
    assert len(columns(first)[1]) == 3


@pytest.mark.parametrize("directions", ["maximize", ("maximize", "minimize")])
def test_the_front_is_that_of_all_trials_at_each_moment(directions: Any, reopen: OpenLedger) -> None:
    ledger, rng = reopen(direction=directions), np.random.default_rng(0)
    count = 1 if isinstance(directions, str) else 2
    asked = [ledger.ask()[0] for _ in range(30)]
    for number in rng.permutation(asked).tolist():
        values = tuple(round(float(value), 1) for value in rng.random(count))
        ledger.tell(number, (values if count > 1 else values[0], ""))
        ledger.tell(number, (None, "told before"))
        whole = front(ledger.rows(), [directions] if count == 1 else list(directions))
        assert ledger.front() == whole
    assert reopen(direction=directions).front() == whole
