"""The driver dies between two steps that belong together: F3, F4."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from study_process import make_workplace

from faults.conftest import Measured
from faults.studies import complete_keys, finish, results, start, trials_of, waiting

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

KILLS = 10


def test_a_result_that_was_not_told_is_taken_in(tmp_path: Path, record_property: Measured) -> None:
    """F3: SIGKILL between a result on disk and the ledger's tell; ten drivers, one after the other, die of it."""
    folder = make_workplace(tmp_path, train=64, test=16)
    study = folder / "runs" / "untold"
    target = 3 * KILLS
    drawn = random.Random(0)
    kept: dict[str, int] = {}
    untold: dict[int, str] = {}
    for _ in range(KILLS):
        with start(folder, "untold", target, hook=f"kill-before-tell={drawn.randint(1, 2)}") as driver:
            assert driver.wait() == -signal.SIGKILL, driver.printed
        found = results(study)
        assert kept.items() <= found.items(), "a finished point was run again"
        trials = trials_of(study)
        assert all(trials[number].state == "complete" for number in untold)
        fresh = {trial.number: trial.key for trial in trials if trial.state == "running" and trial.key in found}
        assert fresh, "the driver died at another moment"
        kept, untold = found, untold | fresh
    finish(folder, "untold", target)
    trials = trials_of(study)
    assert {number: trials[number].key for number in untold if trials[number].state == "complete"} == untold
    assert kept.items() <= results(study).items(), "a finished point was run again"
    assert complete_keys(study).total() == len(complete_keys(study)) == target
    record_property("F3", f"{KILLS} kills, {len(untold)} results taken in, 0 run again")


def test_a_point_is_queued_once(tmp_path: Path, record_property: Measured) -> None:
    """F4: SIGKILL between queueing an interrupted point and failing its trial, in ten copies of a killed study."""
    folder = make_workplace(tmp_path, train=64, test=16)
    study = folder / "runs" / "lost"
    with start(folder, "lost", 6, "--cpus-per-trial", "0.5", hook="runner=Sleeper") as driver:
        driver.wait_for(lambda: len(list(study.glob("started/*/*"))) >= 2)
        os.kill(driver.process.pid, signal.SIGKILL)
        driver.wait()
    lost = {trial.key for trial in trials_of(study) if trial.state == "running"}
    assert len(lost) >= 2
    for case in range(KILLS):
        copy = tmp_path / f"case{case}"
        shutil.copytree(study, copy / "runs" / "lost")
        queued_and_killed(copy, folder, nth=1 + case % 2)
        with start(copy, "lost", 6, hook="only-sweep", data=folder) as driver:
            assert driver.wait() == 0, driver.printed
        queued = waiting(copy / "runs" / "lost")
        assert len(queued) == len(set(queued))
        assert set(queued) == lost
        assert "running" not in {trial.state for trial in trials_of(copy / "runs" / "lost")}
    finish(copy, "lost", 6, data=folder)
    complete = complete_keys(copy / "runs" / "lost")
    assert complete.total() == len(complete) == 6
    assert lost <= complete.keys()
    record_property("F4", f"{KILLS} kills, {len(lost)} interrupted points each, 0 duplicate keys")


def queued_and_killed(folder: Path, data: Path, nth: int) -> None:
    """Runs a driver that dies in its sweep; the point is queued then, and its trial has not failed."""
    study = folder / "runs" / "lost"
    with start(folder, "lost", 6, hook=f"kill-before-fail={nth}", data=data) as driver:
        assert driver.wait() == -signal.SIGKILL, driver.printed
    running = {trial.key for trial in trials_of(study) if trial.state == "running"}
    assert len(running & set(waiting(study))) == 1


def test_a_driver_that_cannot_keep_its_books_stops(workplace: Path) -> None:
    """Beside F3: Ray Tune takes an error of the driver's for the trial's, and would go on with it unsettled."""
    study = workplace / "runs" / "bookless"
    with start(workplace, "bookless", 4, hook="break-settle=2") as driver:
        assert driver.wait() not in (0, 130, 143), driver.printed
    assert "no room left on disk below" in driver.printed
    assert "running" in {trial.state for trial in trials_of(study)}
    finish(workplace, "bookless", 4)
    assert {trial.state for trial in trials_of(study) if trial.finished} == {"complete"}
    assert complete_keys(study).total() == len(complete_keys(study)) == 4
