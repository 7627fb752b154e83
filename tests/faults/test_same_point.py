"""A point gives the same wherever and beside whatever it runs: F21."""

import json
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


def outcome(folder: Path, data: Path, cpus: str) -> dict[str, Any]:
    """Runs a study with a store of its own: metrics and flags by point, outputs by stage and key."""
    folder.mkdir()
    options = ["--sampler", "random", "--cpus-per-trial", cpus]
    finish(folder, "same", TRIALS, *options, hook="two-cores", data=data)
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
    tables = [*(folder / "runs").glob("mlflow-artifacts/*/artifacts/flags/flagged.csv")]
    return {"flags/" + run_keys[path.parents[2].name]: path.read_text() for path in tables}


def test_a_point_gives_the_same_alone_and_beside_three_others(tmp_path: Path, record_property: Measured) -> None:
    """F21: the same points one at a time and four at a time (shares of a core), each study with its own store."""
    data = make_workplace(tmp_path, train=64, test=16)
    # Of two cores; both leave a trial one thread, since sums in another order differ in their last bits.
    alone, beside = outcome(tmp_path / "one", data, cpus="1.5"), outcome(tmp_path / "four", data, cpus="0.5")
    assert sum(name.startswith("flags/") for name in alone) == TRIALS
    assert alone == beside
    stages = len(alone) - 2 * TRIALS
    record_property("F21", f"{TRIALS} points, {stages} stages: metrics, outputs, flags the same at concurrency 1 and 4")
