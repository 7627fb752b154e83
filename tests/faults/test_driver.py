"""The driver dies, is told to stop, or is started twice: F1, F5, F6."""

import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
from study_process import ONE_AT_A_TIME, make_workplace, wait_for

from faults.conftest import Measured
from faults.studies import best_on_disk, complete_keys, fingerprint, finish, results, start, trials_of
from study.ledger.activity import CONTROL

pytestmark = [pytest.mark.faults, pytest.mark.ray]

TRIALS, KILLS = 20, 10


def processor_seconds() -> float:
    """What processes that this one started have used up to their end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kill_points(seed: int) -> list[tuple[int, float]]:
    """Where each driver is killed: so many seconds after so many results of its own.

    Without a result it dies while it loads, sweeps, starts Ray or builds; with one in the middle of trials.
    """
    drawn = random.Random(seed)
    points = [(0, drawn.uniform(0, 6)) for _ in range(KILLS // 2)]
    points += [(drawn.randint(1, 2), drawn.uniform(0, 0.5)) for _ in range(KILLS - KILLS // 2)]
    drawn.shuffle(points)
    return points


@pytest.mark.slow
def test_ten_kills_lose_nothing(tmp_path: Path, record_property: Measured) -> None:
    """F1: SIGKILL of the driver at ten random points of twenty trials, each time followed by the same command."""
    folder = make_workplace(tmp_path, train=64, test=16)
    study = folder / "runs" / "killed"
    kept: dict[str, int] = {}
    hit = []
    for number, delay in kill_points(seed=0):
        with start(folder, "killed", TRIALS) as driver:
            wanted = min(len(kept) + number, TRIALS - 4)
            driver.wait_for(lambda wanted=wanted: len(results(study)) >= wanted)
            time.sleep(delay)
            os.kill(driver.process.pid, signal.SIGKILL)
            assert driver.wait() == -signal.SIGKILL, driver.printed
        found = results(study)
        hit.append(len(found))
        assert kept.items() <= found.items(), "a result was lost or made again"
        kept = found
    finish(folder, "killed", TRIALS)
    trials = trials_of(study)
    complete = complete_keys(study)
    assert sum(complete.values()) == TRIALS
    assert set(complete.values()) == {1}, "a point is complete twice"
    assert kept.keys() <= complete.keys() == results(study).keys(), "a finished result is not in the ledger"
    assert not {"running", "waiting"} & {trial.state for trial in trials}
    best = max(trial.values[0] for trial in trials if trial.values)
    assert best == pytest.approx(best_on_disk(study))
    assert f"{best:.4f}" in (study / "summary" / "summary.txt").read_text()
    record_property(
        "F1",
        f"{KILLS} kills, {sum(complete.values())} complete, {len(trials)} rows; results on disk at the kills: {hit}",
    )


@pytest.mark.parametrize(
    ("how", "code", "moment"),
    [
        (signal.SIGINT, 130, "trials"),
        pytest.param(signal.SIGTERM, 143, "stages", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "stages", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "trials at once", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "trials", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "control", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "control", marks=pytest.mark.slow),
    ],
    ids=["int-trials", "term-stages", "int-stages", "int-at-once", "term-trials", "int-control", "term-control"],
)
def test_a_stopped_study_goes_on(
    how: signal.Signals, code: int, moment: str, tmp_path: Path, record_property: Measured
) -> None:
    """F5: Ctrl-C, which every process of the terminal gets, and SIGTERM: in stages, trials and the clean control."""
    folder = make_workplace(tmp_path, train=64, test=16)
    study = folder / "runs" / "stopped"
    control = ("--clean-control", "run") if moment == "control" else ()
    options = control if moment == "trials at once" else (*control, *ONE_AT_A_TIME)
    begun = 3 if moment == "trials" else 4  # a larger number extends the study
    with start(folder, "stopped", begun, *options) as driver:
        if moment == "stages":
            driver.wait_for(lambda: "shared stages 1/" in driver.printed)
        elif moment == "control":
            activity = study / "activity.json"
            driver.wait_for(lambda: activity.exists() and f'"{CONTROL}"' in activity.read_text())
        else:
            driver.wait_for(lambda: results(study))
        told = time.monotonic()
        (os.killpg if how == signal.SIGINT else os.kill)(driver.process.pid, how)
        assert driver.wait() == code, driver.printed
        seconds = time.monotonic() - told
    assert seconds <= 10
    assert "the same command goes on from here" in driver.printed
    assert "Traceback" not in driver.printed
    kept = results(study)
    assert bool(kept) == (moment != "stages")
    finish(folder, "stopped", 4, *options)
    assert (study / "clean_control.json").exists() == (moment == "control")
    assert complete_keys(study).total() == 4
    assert not {"running", "waiting"} & {trial.state for trial in trials_of(study)}
    assert kept.items() <= results(study).items(), "what was finished before the stop was not run again"
    record_property("F5", f"{how.name} during {moment}: {code} after {seconds:.1f} s")


def test_a_second_driver_changes_nothing(tmp_path: Path, record_property: Measured) -> None:
    """F6: refused within two seconds of a processor, imports and all, while the first holds the study."""
    folder = make_workplace(tmp_path, train=64, test=16)
    study = folder / "runs" / "busy"
    with start(folder, "busy", 2) as first:
        first.wait_for((study / "study.db").exists)
        os.kill(first.process.pid, signal.SIGSTOP)  # it holds the study, and changes nothing itself
        wait_for(lambda: "T" in Path(f"/proc/{first.process.pid}/stat").read_text().rpartition(")")[2].split()[0])
        before = fingerprint(folder / "runs")
        used = processor_seconds()
        with start(folder, "busy", 2) as second:
            assert second.wait(30) == 2
        seconds = processor_seconds() - used
        assert f"error: study 'busy' is being run by process {first.process.pid}: wait for it" in second.printed
        assert fingerprint(folder / "runs") == before
        os.kill(first.process.pid, signal.SIGCONT)
        os.kill(first.process.pid, signal.SIGINT)
        assert first.wait(60) == 130, first.printed
    assert seconds <= 2
    record_property("F6", f"exit 2 after {seconds:.2f} s of a processor")
