"""A point gives the same wherever and beside whatever it runs: F21."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from study_process import make_workplace

from faults.conftest import Measured
from faults.studies import finish, trials_of
from tracking import names

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

TRIALS = 8


def outcome(folder: Path, at_once: int) -> dict[str, Any]:
    """Runs a study with a store of its own: metrics and flags by point, outputs by stage and key."""
    make_workplace(folder, train=64, test=16)
    cores = len(os.sched_getaffinity(0))
    finish(folder, "same", TRIALS, "--sampler", "random", "--cpus-per-trial", f"{cores / at_once:g}")
    study = folder / "runs" / "same"
    found: dict[str, Any] = {}
    for trial in trials_of(study):
        record = json.loads((study / "points" / trial.key / "badnets-0.1-s0.json").read_text())["record"]
        found[trial.key] = (trial.values, record["metrics"], record["series"], record["meta"])
    for path in (folder / "store").glob("*/*/meta.json"):
        entry = f"{path.parent.parent.name}/{path.parent.name}"
        found[entry] = json.loads(path.read_text())["digests"]
    return found | flags(folder)


def flags(folder: Path) -> dict[str, Any]:
    """The flagged indices and scores of each point, as MLflow has them."""
    with sqlite3.connect(folder / "runs" / "mlflow.db") as database:
        run_keys = dict(database.execute("select run_uuid, value from tags where key = ?", [names.TAG_RUN_KEY]))
    tables = [*(folder / "runs").glob("mlflow-artifacts/**/flagged.csv")]
    return {"flags/" + run_keys[path.parents[2].name]: path.read_text() for path in tables}


def test_a_point_gives_the_same_alone_and_beside_three_others(tmp_path: Path, record_property: Measured) -> None:
    """F21: the same points one at a time and four at a time (shares of a core), each study with its own store."""
    folders = [tmp_path / "one", tmp_path / "four"]
    for folder in folders:
        folder.mkdir()
    alone, beside = outcome(folders[0], at_once=1), outcome(folders[1], at_once=4)
    assert sum(name.startswith("flags/") for name in alone) == TRIALS
    assert alone == beside
    stages = len(alone) - 2 * TRIALS
    record_property("F21", f"{TRIALS} points, {stages} stages: metrics, outputs, flags the same at concurrency 1 and 4")
