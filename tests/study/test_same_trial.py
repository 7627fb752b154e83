"""Whatever tells of a study of two objectives names the same trial, the knee of the front, and says that it is."""

import json
from pathlib import Path

import pytest
from told_study import DEFAULT, key_of, write_study

from search_spaces.pipd import PIPD_SPACE
from study import analyze, compare, status
from study.analysis.results import read_results
from study.config.config import StudyConfig, resolve
from study.driver.progress import TrialProgress
from study.ledger.ledger import Ledger
from study.planning.plan import make_plan
from study.report.elements import Scatter, Section, Table
from study.report.sections import pareto, summary
from study.report.sections.closing import Closing

KNEE = 4
"""Of the front of trials 0, 4 and 12; 0 is the first of it, and 12 the best by the first objective."""
CALLED = f"knee of the front (#{KNEE})"
OPTIONS = {"attacks": ("badnets", "blended_random"), "seeds": (0,), "objective": "asr,ca"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs")
    write_study(folder / "two", trials=16, rates=(0.1,), **OPTIONS)  # type: ignore[arg-type]
    return folder


def only(sections: list[Section]) -> Section:
    (section,) = sections
    return section


def test_the_rules_would_disagree(out: Path) -> None:
    results = read_results(out, "two")
    assert results.front == [0, KNEE, 12]
    assert results.complete["value"].idxmin() == 12
    assert results.best == KNEE


def test_the_report(out: Path) -> None:
    results = read_results(out, "two")
    section = only(summary.sections(results))
    assert "3 of 16 trials lie on the Pareto front of asr, ca" in section.lead
    assert f"the knee of the front, the trial nearest to the ideal point, is #{KNEE}" in section.lead
    tables = {item.name: item for item in section.items if isinstance(item, Table)}
    assert [row[0] for row in tables["outcome"].rows] == ["undefended", "paper default", CALLED]
    assert tables["settings"].header[1:3] == ("paper default", CALLED)
    assert CALLED in [row[1] for row in summary.overview([results, results]).items[0].rows]  # type: ignore[union-attr]
    scatter = next(figure for figure in only(pareto.sections(results)).figures() if figure.name == "front-asr-ca")
    assert isinstance(scatter, Scatter)
    (point,) = [point for point in scatter.points if point.group == "knee of the front"]
    assert point.label == f"#{KNEE}"
    assert (point.x, point.y) in scatter.front


def test_analyze(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze.main(["two", "--out", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"The knee of the front (#{KNEE}) gives up" in text
    assert CALLED in text
    assert "best single" not in text


def test_compare(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = out / "answer.json"
    assert compare.main(["two:best", "two", "--out", str(out), "--json", str(file)]) == 0
    how = f"knee of the front of 16 by asr, ca, an oracle: trial {KNEE}"
    assert how in " ".join(capsys.readouterr().out.split())
    found = json.loads(file.read_text())["a"]
    assert (found["trial"], found["how"], found["oracle"]) == (KNEE, how, True)


def test_status(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["two", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Pareto front: trial #0 (paper default), ASR 0.1560, CA 0.9848\n" in text
    assert f"\ntrial #{KNEE} (knee of the front), ASR 0.0687, CA 0.9805\n" in text
    assert text.count("knee of the front") == 1
    assert "knee CA" in text
    assert status.main(["two", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ([trial["number"] for trial in found["best"]], found["knee"]) == ([0, KNEE, 12], KNEE)
    reached = read_results(out, "two").evaluations.set_index(["trial", "scenario"])["tpr"]
    assert {s["name"]: s["best"]["tpr"] for s in found["scenarios"]} == reached[KNEE].to_dict()
    assert status.main(["--out", str(out)]) == 0
    assert "0.0687 0.9805" in capsys.readouterr().out


def test_the_driver(out: Path) -> None:
    config = resolve(StudyConfig, {"name": "two", "out": out, "poison_rates": (0.1,), **OPTIONS})
    plan = make_plan(config, "cpu", 0.0, "fp32")
    assert plan.default_point == DEFAULT
    ledger = Ledger(out / "two" / "study.db", "two", PIPD_SPACE, plan.goal.directions, "random", 0, 16, key_of)  # type: ignore[arg-type]
    told = Closing(read_results(out, "two"))
    line = f"Knee of the front, the trial nearest to the ideal point: #{KNEE}, asr 0.0687, ca 0.9805"
    assert line in told.text()
    assert f"front (#{KNEE})" in told.text()
    progress = TrialProgress(plan, ledger, 0, lambda: "1 of 2 CPUs")
    assert progress._best == f"Pareto front of 3, its knee #{KNEE}"
    progress.close()


def test_a_damaged_record_takes_its_trial_out_of_every_face(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "one", trials=8, objective="overall_score")
    best = read_results(tmp_path, "one").best
    assert best is not None
    key = str(read_results(tmp_path, "one").trials.at[best, "key"])
    next(path for path in sorted((folder / "points" / key).glob("*.json")) if path.name != "result.json").write_text(
        "{"
    )
    second = read_results(tmp_path, "one").best
    assert second not in (None, best)
    assert status.main(["one", "--out", str(tmp_path), "--json"]) == 0
    assert [trial["number"] for trial in json.loads(capsys.readouterr().out)["best"]] == [second]
    assert Closing(read_results(tmp_path, "one")).text().startswith(f"Best of 7 trials: #{second}, ")
