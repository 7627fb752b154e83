"""Studies whose trials take an instant, as a driver of their own, whole or with a fault built in."""

import hashlib
import json
import sqlite3
import sys
from collections import Counter
from pathlib import Path

from checkout import PYTHONPATH
from study_process import Driver

from study.ledger.records import read_trial
from study.ledger.snapshot import SnapshotTrial, read_ledger

OPTIONS = [
    *["--space", "pipd", "--attacks", "badnets", "--width", "4", "--blocks", "1,1", "--precision", "fp32"],
    *["--asr-floor", "0", "--until", "isolate"],
    *["--set", "pre_isolation_epochs=1", "selective_epochs=1", "batch_size=32"],
]


def start(folder: Path, name: str, trials: int, *options: str, hook: str = "", data: Path | None = None) -> Driver:
    """Starts a study of a workplace.

    Args:
        hook: a function of `faults.hooked`, with ``=`` and what it is given.
        data: folder of the dataset, whose place is part of what a study is; by default the workplace.
    """
    module = ["faults.hooked", hook] if hook else ["study.run"]
    dataset = f"npz:{(data or folder) / 'data.npz'}"
    places = ["--dataset", dataset, "--out", str(folder / "runs"), "--store", str(folder / "store")]
    control = [] if "--clean-control" in options else ["--clean-control", "none"]
    settings = [*OPTIONS, *control, *places, "--name", name, "--trials", str(trials), *options]
    command = [sys.executable, "-m", *module, *settings]
    return Driver(command, folder / f"{name}.log", {"PYTHONPATH": PYTHONPATH})


def finish(folder: Path, name: str, trials: int, *options: str, hook: str = "", data: Path | None = None) -> str:
    """Runs a study to its end, which has to be a good one; what it printed."""
    with start(folder, name, trials, *options, hook=hook, data=data) as driver:
        assert driver.wait() == 0, driver.printed
        return driver.printed


def trials_of(study: Path) -> tuple[SnapshotTrial, ...]:
    """The ledger's trials, also those of a driver that was killed in the middle of a write."""
    return read_ledger(study / "study.db").trials


def complete_keys(study: Path) -> Counter[str]:
    """How often each point is complete."""
    return Counter(trial.key for trial in trials_of(study) if trial.state == "complete")


def results(study: Path) -> dict[str, int]:
    """Point key -> when its result was written, for the points that have one."""
    found = {path.parent.name: path for path in study.glob("points/*/result.json")}
    return {key: path.stat().st_mtime_ns for key, path in found.items() if read_trial(path) is not None}


def best_on_disk(study: Path) -> float:
    """The best isolation score over all result files."""
    records = [json.loads(path.read_text())["record"] for path in study.glob("points/*/badnets-0.1-s0.json")]
    return max(record["metrics"]["tpr"] - record["metrics"]["fpr"] for record in records)


def waiting(study: Path) -> list[str]:
    """Keys of the queued points."""
    query = """select value_json from trial_user_attributes join trials using (trial_id)
               where state = 'WAITING' and key = 'point_key'"""
    with sqlite3.connect(study / "study.db") as database:
        return [json.loads(text) for (text,) in database.execute(query)]


def fingerprint(folder: Path) -> dict[str, str]:
    """Everything in a folder: path -> hash of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
