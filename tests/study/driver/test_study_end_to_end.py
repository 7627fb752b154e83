"""The command as a user types it: Ray, Optuna and MLflow for real, on data that trains in a second."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_process import ONE_AT_A_TIME, TINY, run, states
from watched_process import WatchedRun

from study import evaluate, load_study
from study.analysis.results import read_results
from study.sync import main as sync

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def workplace(whole_study: WatchedRun) -> Path:
    """A folder with a small npz dataset; studies of this module share its store."""
    return whole_study.folder


@pytest.fixture(scope="module")
def finished(whole_study: WatchedRun) -> tuple[Path, str]:
    """A study of three trials that ran to its end: its folder, and what it printed."""
    return whole_study.folder / "runs" / "whole", whole_study.out


def test_prints_the_answer_beside_the_paper_default(finished: tuple[Path, str]) -> None:
    study, printed = finished
    for expected in ("undefended", "paper default", "best (#", "TPR", "ASR", "badnets-0.1-s0", "trojan_square-0.1-s0"):
        assert expected in printed
    assert "FPR when nothing is poisoned" in printed
    assert "epoch-equivalents" in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{study.parent / 'mlflow.db'}" in printed
    assert states(study) == {"COMPLETE": 3}


def test_the_first_trial_is_the_paper_default(finished: tuple[Path, str]) -> None:
    study, _ = finished
    with (study / "summary" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2
    default = next(row for row in rows if row["trial"] == "0")
    assert default["paper_default"] == "1"
    expected = {"isolation_rate": 0.01, "clean_rate": 0.2, "beta": 3.0, "channels_per_tap": 0.04, "rounds": 8.0}
    assert {name: float(default[name]) for name in expected} == expected
    assert default["channel_statistic"] == "max"


def test_shared_stages_are_built_once(finished: tuple[Path, str], workplace: Path) -> None:
    study, _ = finished
    store = workplace / "runs" / "store"
    built = {stage: len(list((store / stage).glob("*/meta.json"))) for stage in ("poison", "pre_isolation")}
    assert built == {"poison": 3, "pre_isolation": 3}  # two scenarios, and the clean control
    activations = len(list((store / "channel_activations").glob("*/meta.json")))
    assert activations - 4 in (1, 2)  # two scenarios, max and mean; the control's are those of default and best
    for path in (study / "points").glob("*/badnets-0.1-s0.json"):
        stages = {stage["stage"]: stage for stage in json.loads(path.read_text())["record"]["stages"]}
        assert stages["pre_isolation"]["hit"]
        assert stages["pre_isolation"]["built_seconds"] > stages["pre_isolation"]["wall_seconds"]


def test_a_cell_gives_what_the_study_gave_whoever_built_its_stages(
    finished: tuple[Path, str], workplace: Path, tmp_path: Path
) -> None:
    """`study.evaluate` of the paper's default, with a store of its own and with the study's."""
    study, _ = finished
    tiny = [*TINY[: TINY.index("--attacks")], *TINY[TINY.index("--attacks") + 2 :], "--attack", "badnets"]
    cell = ["--dataset", f"npz:{workplace / 'data.npz'}", "--out", str(tmp_path), "--poison-rate", "0.1", *tiny]
    own, shared = tmp_path / "own.json", tmp_path / "shared.json"
    assert evaluate.main([*cell, "--json", str(own)]) == 0
    assert evaluate.main([*cell, "--store", str(study.parent / "store"), "--json", str(shared)]) == 0
    records = [
        json.loads(path.read_text(encoding="utf-8"))["record"] for path in study.glob("points/*/badnets-0.1-s0.json")
    ]
    key = next(row["key"] for row in load_study(study).trials.to_dict("records") if row["paper_default"])
    ours = next(record for record in records if Path(record["artifacts"]).parent.name == key)
    for path, built in ((own, True), (shared, False)):
        report = json.loads(path.read_text(encoding="utf-8"))
        assert report["metrics"] == ours["metrics"]
        assert {stage["key"] for stage in report["stages"]} == {stage["key"] for stage in ours["stages"]}
        assert any(not stage["hit"] and stage["stage"] == "pre_isolation" for stage in report["stages"]) == built


def test_the_default_and_the_best_are_run_on_the_data_unpoisoned(finished: tuple[Path, str], workplace: Path) -> None:
    study, printed = finished
    results = read_results(study.parent, study.name)
    shown = {results.default, results.best}
    assert set(results.clean_fpr) == shown
    assert all(set(shares) == {0} for shares in results.clean_fpr.values())
    for trial in shown:
        assert f"{results.clean_fpr[trial][0]:.3f}" in printed
    cost = results.evaluations.query(f"trial == {results.default}").iloc[0]
    assert cost["defense_built_epochs"] == pytest.approx(3 + 2 / 3 + 1)  # LGA, two readings, selective training
    assert cost["defense_spent_epochs"] == pytest.approx(1)
    with (study / "summary" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["trial"] for row in rows if row["fpr_clean"]} == {str(trial) for trial in shown}
    cell = ["--dataset", f"npz:{workplace / 'data.npz'}", "--out", str(study.parent), "--attack", "clean"]
    tiny = [*TINY[: TINY.index("--attacks")], *TINY[TINY.index("--attacks") + 2 :], "--until", "isolate"]
    path = study.parent.parent / "clean.json"
    assert evaluate.main([*cell, *tiny, "--json", str(path)]) == 0
    fpr = json.loads(path.read_text(encoding="utf-8"))["metrics"]["fpr"]
    assert fpr == results.clean_fpr[results.default][0]  # the same data, and the same stages from the store


@pytest.mark.filterwarnings("ignore")  # what MLflow and SQLAlchemy warn of is theirs
def test_a_notebook_reads_it_whole(finished: tuple[Path, str]) -> None:
    study = load_study(finished[0])
    assert list(study.trials["state"]) == ["complete"] * 3
    assert len(study.evaluations) == 3 * 2
    flags = study.flags(1, "badnets-0.1-s0")  # the driver has sent it to MLflow and removed it here
    assert not list(finished[0].glob("points/*/*/flags"))
    assert flags.scores is not None
    assert flags.is_poison is not None
    assert len(flags.flagged) == len(flags.scores) == 320
    row = study.evaluations.query("trial == 1 and scenario == 'badnets-0.1-s0'").iloc[0]
    assert flags.flagged[flags.is_poison].mean() == pytest.approx(row["tpr"])
    assert "pre_isolation.loss" in study.series(1, "badnets-0.1-s0")


@pytest.mark.filterwarnings("ignore")  # what MLflow and SQLAlchemy warn of is theirs
def test_mlflow_holds_every_trial(finished: tuple[Path, str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    study, _ = finished
    client = MlflowClient(f"sqlite:///{study.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pipd")
    found = client.search_runs([experiment.experiment_id], "tags.`study.name` = 'whole'", max_results=100)
    kinds = Counter(found_run.data.tags["study.kind"] for found_run in found)
    assert kinds == {"study": 1, "trial": 3, "scenario": 6}
    assert {found_run.info.status for found_run in found} == {"FINISHED"}
    by_id = {found_run.info.run_id: found_run for found_run in found}
    for found_run in found:
        parent = found_run.data.tags.get("mlflow.parentRunId")
        above = by_id[parent].data.tags["study.kind"] if parent else None
        assert above == {"study": None, "trial": "study", "scenario": "trial"}[found_run.data.tags["study.kind"]]
    default = next(r for r in found if r.data.tags.get("study.paper_default") == "true")
    assert default.data.params["beta"] == "3.0"
    assert default.info.run_name == "whole #0 paper default"
    assert {r.info.run_name for r in found if r.data.tags["study.kind"] == "trial"} == {
        "whole #0 paper default",
        "whole #1",
        "whole #2",
    }
    assert default.data.metrics["overall_score"] == default.data.metrics["objective"]
    results = read_results(study.parent, study.name)
    for trial, shares in results.clean_fpr.items():
        run = next(r for r in found if r.data.tags["study.kind"] == "trial" and f"#{trial}" in r.info.run_name)
        assert run.data.metrics["fpr_clean"] == shares[0]
    assert default.data.metrics["system/cost.built_epochs"] == pytest.approx(2 * (3 + 2 / 3 + 1))  # two scenarios
    check_study_run(client, next(r for r in found if r.data.tags["study.kind"] == "study"), found)
    scenario = next(r for r in found if r.data.tags["study.kind"] == "scenario")
    flags = Path(client.download_artifacts(scenario.info.run_id, "flags", str(tmp_path)))
    check_flags(flags, scenario.data.metrics)
    check_plots(client, found, study, results.best)
    assert [item.path for item in client.list_artifacts(scenario.info.run_id, "attack")] == ["attack/preview.png"]
    assert [item.path for item in client.list_artifacts(default.info.run_id)] == ["config.yaml"]


def check_plots(client: Any, runs: list[Any], study: Path, best: int) -> None:
    """The paper's default and the best trial have theirs, and any other that is asked for."""
    scenarios = {run.info.run_name: run.info.run_id for run in runs if run.data.tags["study.kind"] == "scenario"}

    def plotted() -> dict[str, set[str]]:
        return {name: {item.path for item in client.list_artifacts(run, "plots")} for name, run in scenarios.items()}

    both, none = {"plots/roc.png", "plots/score_histogram.png"}, set[str]()
    assert plotted() == {name: both if f"#{best} " in name or "#0 " in name else none for name in scenarios}
    others = [str(trial) for trial in range(3) if trial not in (0, best)]
    assert sync(["whole", "--out", str(study.parent), "--plots", *others]) == 0
    assert set(map(frozenset, plotted().values())) == {frozenset(both)}


def check_study_run(client: Any, study: Any, runs: list[Any]) -> None:
    """It has what its best trial reached, and what that flagged."""
    trials = [run for run in runs if run.data.tags["study.kind"] == "trial"]
    best = max(trials, key=lambda run: run.data.metrics["overall_score"])
    for name in ("overall_score", "objective", "tpr", "fpr", "ca", "asr"):
        assert study.data.metrics[name] == best.data.metrics[name]
    assert {name.partition("/")[0] for name in study.data.metrics if "/" in name} == {"system"}
    files = {item.path for item in client.list_artifacts(study.info.run_id)}
    assert files == {"summary.txt", "results.csv", "best"} | (files & {"report.html"})
    scenarios = {item.path for item in client.list_artifacts(study.info.run_id, "best")}
    assert scenarios == {"best/badnets-0.1-s0", "best/trojan_square-0.1-s0"}
    flags = client.list_artifacts(study.info.run_id, "best/badnets-0.1-s0")
    assert [item.path for item in flags] == ["best/badnets-0.1-s0/flagged.csv"]


def check_flags(folder: Path, metrics: dict[str, float]) -> None:
    """The logged TPR and FPR follow from the logged flags."""
    table = np.genfromtxt(folder / "flagged.csv", delimiter=",", names=True)
    assert len(table) == 320
    assert list(table["score"]) == sorted(table["score"], reverse=True)
    table = np.sort(table, order="index")
    poison, flagged = table["is_poison"] == 1, table["flagged"] == 1
    assert poison.sum() == 32
    assert metrics["tpr"] == pytest.approx(flagged[poison].mean())
    assert metrics["fpr"] == pytest.approx(flagged[~poison].mean())
    with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["flagged"], flagged)
        assert np.allclose(arrays["scores"], table["score"], rtol=1e-6)


@pytest.mark.slow  # `test_a_stopped_study_goes_on` extends a study as well
def test_same_command_again_adds_nothing_and_more_trials_extend(finished: tuple[Path, str], workplace: Path) -> None:
    study, _ = finished

    def told_of_trials() -> int:
        return (study / "outbox.jsonl").read_text().count('"run": "trial/')

    before, controls = told_of_trials(), json.loads((study / "clean_control.json").read_bytes())
    again = run(workplace, "--clean-control", "run", "--name", "whole", "--trials", "3")
    assert again.returncode == 0
    assert states(study) == {"COMPLETE": 3}
    assert told_of_trials() == before
    assert json.loads((study / "clean_control.json").read_bytes()) == controls
    (study / "clean_control.json").unlink()  # as of a study that an earlier version ran: its control is run as well
    more = run(workplace, "--clean-control", "run", "--name", "whole", "--trials", "4", *ONE_AT_A_TIME)
    assert more.returncode == 0, more.stderr
    assert states(study) == {"COMPLETE": 4}
    results = read_results(study.parent, study.name)
    assert set(results.clean_fpr) >= {results.default, results.best}
    control = json.loads((study / "clean_control.json").read_bytes())["trials"]
    both = control.keys() & controls["trials"].keys()
    assert both
    assert {key: control[key] for key in both} == {key: controls["trials"][key] for key in both}


def test_other_settings_under_the_same_name_are_refused(finished: tuple[Path, str], workplace: Path) -> None:
    other = run(workplace, "--clean-control", "run", "--name", "whole", "--trials", "3", "--seeds", "5")
    assert other.returncode == 2
    assert "was started with other settings (seeds was [0])" in other.stderr


def test_other_images_under_the_same_name_are_refused(finished: tuple[Path, str], workplace: Path) -> None:
    path = workplace / "data.npz"
    before = path.read_bytes()
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "test_images": arrays["test_images"][::-1]})
    try:
        other = run(workplace, "--clean-control", "run", "--name", "whole", "--trials", "5")
    finally:
        path.write_bytes(before)
    assert other.returncode == 2
    assert "was started with other images than its files hold now" in other.stderr
