"""The door for Python users: two lines give a study's tables, curves, flags and best trials."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from checkout import ROOT
from mlflow_servers import empty_database
from written_study import Metrics, write_study

import study
from defenses.registry import UserError
from study import load_study, sync
from study.notebook import Study
from tracking import names
from tracking.artifacts import Flags, write_flags
from tracking.outbox import Outbox, Record

BADNETS, BLENDED = ("badnets", 0.1, 0), ("blended_random", 0.1, 0)
SCENARIO = "badnets-0.1-s0"
GAP = names.signal("cut_gap")
SCORES = np.array([0.5, 0.25, 2.0, -1.0])
FLAGGED = np.array([False, False, True, False])


def metrics(tpr: float, gap: float) -> Metrics:
    return {"tpr": tpr, "fpr": 0.0, "ca": 0.9, "asr": 0.1, GAP: gap}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Trial 1 is the best on average, trial 2 on its worst scenario; trial 3 failed."""
    trials = [
        (0.3, {BADNETS: metrics(0.3, 1.0), BLENDED: metrics(0.3, 1.0)}),
        (0.7, {BADNETS: metrics(1.0, 3.0), BLENDED: metrics(0.4, 2.0)}),
        (0.6, {BADNETS: metrics(0.6, 2.0), BLENDED: metrics(0.6, 3.0)}),
        (None, {}),
    ]
    return write_study(tmp_path / "runs" / "mine", trials, objective="tpr")


def opened(folder: Path) -> Study:
    return load_study(folder)


def write_own_flags(folder: Path, trial: int = 0) -> Path:
    """Flags as a worker leaves them, and the record by which the driver has them sent."""
    key = opened(folder).trials.loc[trial, "key"]
    place = folder / "points" / str(key) / SCENARIO
    labels, poison = np.array([1, 0, 1, 0]), np.array([True, False, True, False])
    write_flags(place, Flags(FLAGGED, SCORES, labels, poison, "f" * 64))
    run = names.run_key("scenario", "mine", "0" * 64, str(key), SCENARIO)
    Outbox(folder / "outbox.jsonl").append(Record(run, None, SCENARIO, 1, artifacts=str(place), status="FINISHED"))
    return place


def check_flags(flags: Flags) -> None:
    assert flags.flagged.tolist() == FLAGGED.tolist()
    assert flags.scores is not None
    assert flags.scores.tolist() == SCORES.tolist()
    assert flags.indices.tolist() == [2]
    assert flags.labels.tolist() == [1, 0, 1, 0]
    assert flags.is_poison is not None
    assert flags.is_poison.tolist() == [True, False, True, False]
    assert flags.fingerprint == "f" * 64


@pytest.mark.parametrize("module", ["study", "study.notebook"])
def test_importing_it_is_quick(module: str) -> None:
    heavy = "('torch', 'ray', 'mlflow', 'pandas', 'optuna')"
    code = f"import sys, {module}; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_reading_a_study_loads_neither_ray_nor_mlflow(folder: Path) -> None:
    use = f"s = load_study({str(folder)!r}); s.trials; s.evaluations; s.series(0, {SCENARIO!r}); s.best()"
    code = f"import sys; from study import load_study; {use}; sys.exit(str({{'ray', 'mlflow'}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "set()"


def test_the_package_offers_nothing_else() -> None:
    with pytest.raises(AttributeError, match="module 'study' has no attribute 'load_stduy'"):
        study.load_stduy  # type: ignore[attr-defined]  # noqa: B018


def test_tables(folder: Path) -> None:
    mine = opened(folder)
    assert repr(mine) == "<study 'mine': 4 trials, 2 scenarios>"
    assert isinstance(mine.trials, pandas.DataFrame)
    assert list(mine.trials["state"]) == ["complete", "complete", "complete", "fail"]
    assert mine.trials["value"].tolist()[:3] == [0.3, 0.7, 0.6]
    assert len(mine.evaluations) == 6
    row = mine.evaluations.query(f"trial == 1 and scenario == '{SCENARIO}'").iloc[0]
    assert (row["tpr"], row["attack"], row["poison_rate"], row["seed"]) == (1.0, "badnets", 0.1, 0)


def test_a_study_is_named_by_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_study(".").results.name == "mine"
    assert load_study("../mine/").results.name == "mine"
    assert load_study(str(folder)).results.name == "mine"
    with pytest.raises(UserError, match=r"unknown study 'mne' in .*: did you mean 'mine'"):
        load_study(folder.with_name("mne"))


def test_series(folder: Path) -> None:
    assert opened(folder).series(0, SCENARIO) == {"isolate.tpr": [0.5, 0.75]}


def test_only_what_was_judged_can_be_asked_for(folder: Path) -> None:
    mine = opened(folder)
    for ask in (mine.series, mine.flags):
        with pytest.raises(UserError, match="study 'mine' has no trial 9"):
            ask(9, SCENARIO)
        with pytest.raises(UserError, match=r"trial 3 of study 'mine' was not judged on .* \(judged on: nothing\)"):
            ask(3, SCENARIO)
        with pytest.raises(UserError, match=r"not judged on 'badnet-0.1-s0': did you mean 'badnets-0.1-s0'"):
            ask(0, "badnet-0.1-s0")


def test_flags_from_the_folder(folder: Path) -> None:
    write_own_flags(folder)
    check_flags(opened(folder).flags(0, SCENARIO))


@pytest.mark.filterwarnings("ignore")  # what MLflow, alembic and SQLAlchemy warn of is theirs
def test_flags_from_mlflow_once_they_were_sent(folder: Path) -> None:
    (folder.parent / "mlflow.db").write_bytes(empty_database())
    place = write_own_flags(folder)
    assert sync.main(["mine", "--out", str(folder.parent)]) == 0
    assert not place.exists()
    check_flags(opened(folder).flags(0, SCENARIO))
    with pytest.raises(
        UserError, match=r"flags of trial 1 of study 'mine' on .* are neither in its folder nor in MLflow"
    ):
        opened(folder).flags(1, SCENARIO)


@pytest.mark.filterwarnings("ignore")
def test_flags_that_are_nowhere(folder: Path, tmp_path: Path) -> None:
    place = write_own_flags(folder)
    (place / names.SCORES_NPZ).unlink()
    with pytest.raises(UserError, match=r"neither in its folder nor in MLflow at sqlite:///.*mlflow.db"):
        opened(folder).flags(0, SCENARIO)
    assert not (folder.parent / "mlflow.db").exists(), "reading makes no database"
    (folder.parent / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="cannot be read from MLflow at sqlite:///"):
        opened(folder).flags(0, SCENARIO)


def test_damaged_flags_are_told(folder: Path) -> None:
    place = write_own_flags(folder)
    (place / names.SCORES_NPZ).write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(UserError, match=r"the flags of trial 0 are damaged: .*scores.npz cannot be read"):
        opened(folder).flags(0, SCENARIO)


def test_rules_that_take_ground_truth_and_one_that_does_not(folder: Path) -> None:
    mine = opened(folder)
    assert mine.best() == mine.best("best") == 1
    assert mine.best(rule="worst_case") == 2
    assert mine.best(rule="default") == 0
    assert mine.best(rule="visible", scenario=SCENARIO) == 1
    assert mine.best(rule="visible", scenario="blended_random-0.1-s0") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "bset"}, "unknown rule 'bset': did you mean 'best'"),
        ({"rule": "best", "scenario": SCENARIO}, "rule 'best' picks one trial for all scenarios"),
        ({"rule": "visible"}, "rule 'visible' picks a trial for each scenario: name one of badnets-0.1-s0, blended"),
        ({"rule": "visible", "scenario": "x"}, "unknown scenario 'x'"),
    ],
)
def test_rules_that_cannot_pick(folder: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(folder).best(**arguments)
