"""The report: what its sections say of a study whose numbers are known, and the command that writes it."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas
import pytest
from told_study import FAILED, write_study

from defenses.registry import UserError
from study.analysis.compared import compared_configurations
from study.analysis.finding import find
from study.analysis.results import Results, read_results
from study.ledger.clock import Clock, read_clock
from study.ledger.lock import study_lock
from study.ledger.snapshot import LOST, SHARED_SECONDS
from study.ledger.study_folder import LOCK
from study.report import plotly_figures
from study.report.__main__ import main
from study.report.elements import Bars, Facts, Heat, Note, Section, Table
from study.report.sections import contents, costs, failures, heatmap, pareto, reproduce, studied, summary
from tracking.outbox import Outbox


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three attacks of which one fails, two rates, two seeds, six trials of which two fail."""
    folder = tmp_path_factory.mktemp("runs")
    write_study(folder / "mine", trials=6, seeds=(0, 1), failed=(2, 4))
    return folder


@pytest.fixture(scope="module")
def mine(out: Path) -> Results:
    return read_results(out, "mine")


@pytest.fixture(autouse=True)
def _short_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotly_figures, "library", lambda: "window.Plotly = {};")


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that take no time."""
    monkeypatch.setattr("study.report.matplotlib_figures.png", lambda _: b"a picture")


@pytest.fixture
def light(no_drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow either."""
    monkeypatch.setattr("study.report.upload.log_pictures", lambda _: None)


@pytest.fixture
def copied(out: Path, tmp_path: Path) -> Path:
    """The study's folder, to be written to."""
    shutil.copytree(out / "mine", tmp_path / "runs" / "mine")
    return tmp_path / "runs" / "mine"


def only(found: list[Section]) -> Section:
    (section,) = found
    return section


def table(section: Section, name: str) -> Table:
    return next(item for item in section.items if isinstance(item, Table) and item.name == name)


def maps(section: Section) -> Iterator[Heat]:
    return (item for item in section.items if isinstance(item, Heat))


# What is compared


def test_the_best_is_the_ledgers(mine: Results) -> None:
    values = mine.complete["value"]
    assert mine.best == values.idxmax()
    cells = mine.compared.groupby("trial")["overall_score"].mean()
    pandas.testing.assert_series_equal(cells, values, check_names=False)


def test_configurations_stand_side_by_side(mine: Results) -> None:
    found = compared_configurations(mine)
    assert [one.label for one in found][:2] == ["undefended", "paper default"]
    assert mine.default == 0
    cells = mine.evaluations[(mine.evaluations["trial"] == 0) & (mine.evaluations["attack"] != FAILED)]
    assert found[1].mean("tpr") == pytest.approx(cells["tpr"].mean())
    of_seeds = cells.groupby("seed")["tpr"].mean()
    assert found[1].deviation("tpr") == pytest.approx(abs(of_seeds[0] - of_seeds[1]) / 2**0.5)
    own = next(one for one in found if one.label == "each scenario's own best")
    judged = mine.evaluations[mine.evaluations["trial"].isin(mine.complete.index)]
    assert own.cells["overall_score"].to_dict() == judged.groupby("scenario")["overall_score"].max().to_dict()


def test_a_trial_with_a_damaged_record_is_not_compared(copied: Path) -> None:
    before = read_results(copied.parent, "mine")
    key = before.trials.loc[before.best, "key"]
    victim = next((copied / "points" / str(key)).glob("badnets*.json"))
    victim.write_text(victim.read_text()[:-40])
    after = read_results(copied.parent, "mine")
    assert before.best not in after.complete.index
    assert after.best == before.complete["value"].drop(before.best).idxmax()
    assert victim.name in "".join(item.text for item in only(failures.sections(after)).items if isinstance(item, Note))


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    write_study(tmp_path / "two", trials=5, rates=(0.1,), seeds=(0,), objective="asr,ca")
    found = read_results(tmp_path, "two")
    reached = found.compared.groupby("trial")[["asr", "ca"]].mean()
    for number in reached.index:
        beaten = (
            (reached["asr"] <= reached.loc[number, "asr"]) & (reached["ca"] >= reached.loc[number, "ca"])
        ).sum() > 1
        assert (number in found.front) is not beaten
    assert found.best in found.front
    assert "each scenario's own best" not in [one.label for one in compared_configurations(found)]
    assert "beaten by no other in ASR and CA" in only(summary.sections(found)).lead


# Sections


def test_the_summary_says_what_limits_it(mine: Results, tmp_path: Path) -> None:
    section = only(summary.sections(mine))
    told = " ".join(item.text for item in section.items if isinstance(item, Note))
    (facts,) = [item.facts for item in section.items if isinstance(item, Facts)]
    assert [fact.value for fact in facts][1:] == ["8 of 12", "4"]
    assert facts[1].label == "scenarios whose attack works without a defense"
    assert section.uses_labels
    assert section.lead == find(mine).sentence
    assert all(caveat in told for caveat in find(mine).caveats)
    limits = [item.text for item in studied.section(mine).items if isinstance(item, Note)]
    assert f"{FAILED}-0.05-s0" in " ".join(limits)
    assert "One seed" not in told
    write_study(tmp_path / "one", trials=1, attacks=("badnets",), rates=(0.1,), seeds=(0,))
    one = only(summary.sections(read_results(tmp_path, "one")))
    told = " ".join(item.text for item in one.items if isinstance(item, Note))
    assert "One seed" in told
    assert "the only trial" in one.lead
    assert "flattered" not in told


def test_heat_maps_hold_the_mean_over_seeds(mine: Results) -> None:
    section = only(heatmap.sections(mine))
    tpr = next(found for found in maps(section) if found.name == "heat-tpr")
    assert tpr.rows[:2] == ("badnets at 0.05", "badnets at 0.1")
    assert tpr.columns[0] == "paper default"  # no defense flags nothing
    cells = mine.evaluations[(mine.evaluations["trial"] == 0) & (mine.evaluations["stratum"] == "badnets-0.05")]
    assert len(cells) == 2
    assert tpr.values[0][0] == pytest.approx(cells["tpr"].mean())


def test_failed_attacks_are_marked_and_no_win(mine: Results) -> None:
    for found in maps(only(heatmap.sections(mine))):
        failed = {at for at, name in enumerate(found.rows) if name.startswith(FAILED)}
        assert failed == {4, 5}
        assert found.marked == {(row, column) for row in failed for column in range(len(found.columns))}
        assert all(found.rows[row].endswith("†2/2") for row in failed)
    whole_lead = only(pareto.sections(mine)).items
    assert not [line for item in whole_lead if hasattr(item, "lines") for line in item.lines if FAILED in line.label]


def test_a_seed_whose_attack_failed_is_left_out_of_the_mean(mine: Results) -> None:
    cells = mine.evaluations.copy()
    cells.loc[cells["scenario"] == "badnets-0.05-s1", "attack_failed"] = True
    changed = _with(mine, evaluations=cells)
    tpr = next(found for found in maps(only(heatmap.sections(changed))) if found.name == "heat-tpr")
    alone = cells[(cells["trial"] == 0) & (cells["scenario"] == "badnets-0.05-s0")]
    assert tpr.values[0][0] == pytest.approx(alone["tpr"].iloc[0])
    assert tpr.rows[0] == "badnets at 0.05 †1/2"
    assert (0, 0) not in tpr.marked


def _with(results: Results, **changes: object) -> Results:
    import dataclasses

    return dataclasses.replace(results, **changes)  # type: ignore[arg-type]


def test_fronts_hold_what_no_trial_beats(mine: Results) -> None:
    section = only(pareto.sections(mine))
    means = mine.compared.groupby("trial")[["fpr", "tpr"]].mean()
    scatter = next(item for item in section.figures() if item.name == "front-fpr-tpr")
    unbeaten = {
        (row.fpr, row.tpr)
        for row in means.itertuples()
        if not ((means["fpr"] <= row.fpr) & (means["tpr"] >= row.tpr) & (means.index != row.Index)).any()
    }
    assert set(scatter.front) == unbeaten  # type: ignore[union-attr]
    assert len(scatter.points) == 4  # type: ignore[union-attr]


def stages(*rows: tuple[int, str, str, bool, float, float]) -> pandas.DataFrame:
    columns = ["trial", "scenario", "stage", "key", "hit", "wall_seconds", "built_seconds"]
    found = pandas.DataFrame([(row[0], f"s{at}", *row[1:]) for at, row in enumerate(rows)], columns=columns)
    return found.assign(training=found["key"], early=False)


def test_costs_count_each_key_as_often_as_it_was_needed(mine: Results) -> None:
    """Trial 0 builds a and uses it on two scenarios; trial 1 finds it; c was built before both."""
    found = stages(
        (0, "train", "a", False, 10.0, 10.0),
        (0, "train", "a", True, 0.5, 10.0),
        (1, "train", "a", True, 0.5, 10.0),
        (0, "poison", "c", True, 0.25, 4.0),
        (1, "poison", "c", True, 0.25, 4.0),
        (1, "isolate", "d", False, 1.0, 1.0),
    )
    cells = mine.evaluations.iloc[:2].assign(wall_seconds=[12.75, 3.75])
    changed = _with(mine, stages=found, evaluations=cells, folder=Path("nowhere"))
    # alone: a for each of two trials, c for each of two, d once, and 4 s that are no stage's
    assert costs.costs(changed).alone == pytest.approx(10 + 10 + 4 + 4 + 1 + 4)
    # spent: what trials computed and waited for, and the same 4 s; c was built before them, and is told apart
    cost = costs.costs(changed)
    assert (cost.spent, cost.earlier, cost.ready) == (pytest.approx(12.5 + 4), pytest.approx(4), 1)
    section = only(costs.sections(changed))
    rows = {row[0]: row for row in table(section, "costs").rows}
    assert rows["train"][1:] == (3, 1, 0, "10 s", "11 s", None, "20 s")
    assert rows["poison"][1:] == (2, 0, 1, "4 s", "<1 s", "4 s", "8 s")
    assert rows["isolate"][1:] == (1, 1, 0, "1 s", "1 s", None, "1 s")
    assert rows["all"][1:] == (6, 2, 1, None, "16 s", "4 s", "33 s")
    assert section.lead == (
        "All trials together computed for 16 s, and found 1 stage ready that had taken 4 s to build. Had they shared "
        "nothing, it would have been 33 s, 1.6 times as much."
    )


def test_the_study_s_own_time_is_told_apart_from_what_its_trials_added_up(mine: Results, copied: Path) -> None:
    """Trials 0 and 1 ran side by side, 2 a minute later; 3 was lost in a kill and closed the day after."""
    times = [("10:00:00", "10:04:00"), ("10:01:00", "10:06:00"), ("10:07:00", "10:10:00"), ("10:00:00", "23:00:00")]
    with closing(sqlite3.connect(copied / "study.db")) as database, database:
        database.execute("update trials set datetime_start = null, datetime_complete = null")
        for number, (start, end) in enumerate(times):
            sql = "update trials set datetime_start = ?, datetime_complete = ? where number = ?"
            database.execute(sql, (f"2026-01-01 {start}", f"2026-01-01 {end}", number))
        database.execute("delete from study_user_attributes where key = 'reason/3'")
        lost = "insert into study_user_attributes (study_id, key, value_json) values (1, ?, ?)"
        database.execute(lost, ("reason/3", json.dumps(LOST)))
    assert read_clock(copied / "study.db") == Clock(None, 9 * 60.0), "a study that is too old to tell of shared stages"
    found = stages((0, "train", "a", False, 10.0, 10.0), (1, "train", "a", True, 0.0, 10.0))
    changed = _with(mine, folder=copied, stages=found, evaluations=mine.evaluations.iloc[:2].assign(wall_seconds=5.0))
    assert only(costs.sections(changed)).lead.startswith("The trials took 9 min 0 s by the clock. All trials")
    with closing(sqlite3.connect(copied / "study.db")) as database, database:
        database.execute(lost, (SHARED_SECONDS, "66.4"))
    assert read_clock(copied / "study.db") == Clock(66.4, 9 * 60.0)
    assert only(costs.sections(changed)).lead.startswith(
        "The study took 10 min 6 s by the clock: 1 min 6 s for the stages that all trials share, then 9 min 0 s for "
        "the trials."
    )


def test_a_ledger_that_is_not_there_tells_no_time(tmp_path: Path) -> None:
    assert read_clock(tmp_path / "study.db") == Clock(None, None)
    (tmp_path / "study.db").write_bytes(b"no ledger")
    assert read_clock(tmp_path / "study.db") == Clock(None, None)


def test_of_one_training_its_last_read_counts(mine: Results) -> None:
    """Three trials find reads after 4, 12 and 30 epochs of one training ready; a fourth trains its own, looking early.

    What a read took is all that its training took up to there.
    """
    found = stages(
        (0, "train", "at 4", True, 0.1, 10.0),
        (1, "train", "at 30", True, 0.1, 75.0),
        (2, "train", "at 12", True, 0.1, 30.0),
        (3, "train", "own at 4", False, 11.0, 11.0),
        (3, "train", "own at 30", False, 65.0, 76.0),
    ).assign(training=["a", "a", "a", "b", "b"], early=[False, False, False, True, False])
    cells = mine.evaluations.iloc[:2].assign(trial=[0, 3], wall_seconds=[0.3, 77.0])
    cost = costs.costs(_with(mine, stages=found, evaluations=cells))
    assert (cost.earlier, cost.ready) == (75.0, 1)
    assert cost.alone == pytest.approx(10 + 75 + 30 + 76 + 1), "each trial alone, and a second of the rest"
    assert cost.spent == pytest.approx(0.3 + 11 + 65 + 1), "what was trained to look early, too"


def test_costs_of_a_study_that_shares_nothing(mine: Results) -> None:
    found = stages((0, "train", "a", False, 10.0, 10.0), (1, "train", "b", False, 10.0, 10.0))
    changed = _with(mine, stages=found, evaluations=mine.evaluations.iloc[:2].assign(wall_seconds=10.0))
    assert costs.costs(changed).factor == pytest.approx(1)
    assert "saved nothing" in only(costs.sections(changed)).lead


def test_failures_are_grouped_by_reason(mine: Results) -> None:
    section = only(failures.sections(mine))
    assert section.lead == "2 failed trials, 4 scenarios with a failed attack."
    assert table(section, "failed-trials").rows == (("RuntimeError: it broke", "#2, #4", 2),)
    assert {row[0] for row in table(section, "failed-attacks").rows} == {
        f"{FAILED}-{rate}-s{seed}" for rate in (0.05, 0.1) for seed in (0, 1)
    }


def test_no_more_is_said_to_have_finished_or_worked_than_did(tmp_path: Path) -> None:
    write_study(tmp_path / "sound", trials=2, rates=(0.1,), seeds=(0,))
    sound = read_results(tmp_path, "sound")
    sound = _with(sound, evaluations=sound.evaluations[sound.evaluations["attack"] != FAILED])
    assert only(failures.sections(sound)).lead == (
        "Nothing failed: every trial finished, and every attack works undefended."
    )
    begun = _with(sound, trials=sound.trials.assign(state="running"))
    assert only(failures.sections(begun)).lead == "Nothing failed, and every attack works undefended."
    unknown = _with(sound, evaluations=sound.evaluations.assign(asr_undefended=float("nan")))
    assert only(failures.sections(unknown)).lead == "Nothing failed: every trial finished."


def test_a_command_makes_the_study_again(mine: Results) -> None:
    section = only(reproduce.sections(mine))
    assert section.command.startswith("python -m study.run --space pipd --trials 6")
    assert "--attacks badnets blended_random sig" in section.command
    changes = {row[0]: row[1:3] for row in table(section, "preset").rows}
    assert changes["N1 pre_isolation_epochs"] == ("200", "30")
    assert changes["dataset"] == ("cifar10", "digits")
    assert changes["width"] == ("64", "16")


def test_a_study_at_the_papers_scale_changes_nothing(tmp_path: Path) -> None:
    write_study(tmp_path / "big", trials=1, attacks=("badnets",), rates=(0.1,), seeds=(0,), **_paper())
    section = only(reproduce.sections(read_results(tmp_path, "big")))
    assert "changes nothing" in section.lead


def _paper() -> dict[str, object]:
    return {"preset": "paper", "dataset": "cifar10", "width": 64, "blocks": (2, 2, 2, 2)}


def test_names_are_unique_on_a_page(mine: Results) -> None:
    sections = contents.sections(mine)
    named = [section.name for section in sections]
    items = [item.name for section in sections for item in section.items if not isinstance(item, Note | Facts)]
    assert len(named) == len(set(named))
    assert len(items) == len(set(items))
    assert any(isinstance(item, Bars) for section in sections for item in section.items)


# The command


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that MLflow is made of
def test_the_command_writes_page_markdown_and_pictures(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, document = tmp_path / "report.html", tmp_path / "report.md"
    assert main(["mine", "-o", str(page), "--markdown", str(document), "--out", str(copied.parent)]) == 0
    assert "paper default" in page.read_text(encoding="utf-8")
    pictures = sorted(path.name for path in (copied / "report" / "figures").iterdir())
    assert "heat-tpr.png" in pictures
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == pictures
    assert "(<report/heat-tpr.png>)" in document.read_text(encoding="utf-8")
    assert "logged to the study's run in MLflow" in capsys.readouterr().out
    assert _artifacts(copied) >= {"heat-tpr.png", "cost-stages.png"}
    records = [record for record, _ in Outbox(copied / "outbox.jsonl").pending()]
    assert not records


def _artifacts(folder: Path) -> set[str]:
    """Files of the study's run, as MLflow knows them."""
    from tracking import names
    from tracking.mlflow_log import RunLog

    run_log = RunLog(f"sqlite:///{folder.parent}/mlflow.db", "pipd", None)
    known = json.loads((folder / "study.json").read_text())
    run = run_log._find(names.run_key("study", folder.name, known["identity"]))
    assert run is not None
    return {Path(file.path).name for file in run_log.client.list_artifacts(run, names.FIGURES)}


@pytest.mark.usefixtures("no_drawing")
def test_a_study_that_is_being_run_is_reported_and_left_alone(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with study_lock(copied, "mine"):
        (copied / LOCK).write_text("1\n")  # as if another process held it
        assert main(["mine", "-o", str(tmp_path / "r.html"), "--out", str(copied.parent)]) == 0
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "MLflow was not told" in told[0]
    assert "is being run by process" in told[0]
    assert not (copied / "outbox.jsonl").exists()
    assert "The study is being run now" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_drawing")
def test_mlflow_that_is_away_costs_one_line(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracking import mlflow_log

    def away(*_: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(mlflow_log, "RunLog", away)
    assert main(["mine", "-o", str(tmp_path / "r.html"), "--out", str(copied.parent)]) == 0
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert "no route" in told
    assert "study.sync mine" in told
    assert [record.artifacts for record, _ in Outbox(copied / "outbox.jsonl").pending()] == ["report"]


@pytest.mark.usefixtures("no_drawing")
def test_a_link_in_the_study_is_not_followed(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (copied / "report").symlink_to(elsewhere)
    assert main(["mine", "-o", str(tmp_path / "r.html"), "--out", str(copied.parent)]) == 0
    assert "must hold no links" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


@pytest.mark.usefixtures("light")
def test_several_studies_share_a_page(copied: Path, tmp_path: Path) -> None:
    from test_report_page import parse

    write_study(copied.parent / "other", trials=2, attacks=("badnets",), rates=(0.1,), seeds=(0,))
    page = tmp_path / "r.html"
    assert main(["mine", "other", "mine", "-o", str(page), "--out", str(copied.parent)]) == 0
    document = parse(page.read_text(encoding="utf-8"))
    ids = [element.get("id") for element in document.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {"overview", "s1-heat", "s2-heat", "figure-s1-heat-tpr"} <= set(ids)
    assert "s3-heat" not in ids


@pytest.mark.usefixtures("light")
def test_a_study_of_single_scenarios_stands_for_each(copied: Path, tmp_path: Path) -> None:
    known = json.loads((copied / "study.json").read_text())
    known["settings"]["per_scenario"] = True
    known["scenarios"] = ["badnets-0.05-s0", "badnets-0.1-s0"]  # of the second nothing has begun
    whole_folder = copied.parent / "each"
    whole_folder.mkdir()
    (whole_folder / "study.json").write_text(json.dumps(known))
    shutil.copytree(copied, copied.parent / "each.badnets-0.05-s0")
    page = tmp_path / "r.html"
    assert main(["each", "-o", str(page), "--out", str(copied.parent)]) == 0
    assert "Report: each.badnets-0.05-s0" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mnie", "-o", "r.html"], "did you mean 'mine'"),
        (["mine", "-o", "nowhere/r.html"], "in a folder that exists"),
        (["mine", "-o", "."], "in a folder that exists"),
        (["mine", "--markdown", "nowhere/r.md"], "in a folder that exists"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    expected: str,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--out", str(out)]) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert expected in told
    assert not list(tmp_path.iterdir())


def test_a_study_in_which_all_failed_has_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "none", trials=2, attacks=("badnets",), rates=(0.1,), seeds=(0,), failed=(0, 1))
    assert main(["none", "-o", str(tmp_path / "r.html"), "--out", str(tmp_path)]) == 2
    assert "RuntimeError: it broke" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_study_whose_attacks_all_fail_is_told_plainly(tmp_path: Path) -> None:
    write_study(tmp_path / "weak", trials=2, attacks=(FAILED,), rates=(0.1,), seeds=(0,), failed=())
    found = read_results(tmp_path, "weak")
    assert "No attack works" in only(summary.sections(found)).lead
    for section in contents.sections(found):
        assert section.lead


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img onerror>'])
def test_a_study_may_be_called_anything(copied: Path, tmp_path: Path, name: str) -> None:
    """Names of folders and of scenarios come from anywhere, whatever --name allows."""
    from test_report_page import parse

    folder = copied.parent / name.replace("/", " ")
    shutil.copytree(copied, folder)
    for path in folder.glob("points/*/badnets*.json"):
        path.unlink()
    known = json.loads((folder / "study.json").read_text())
    for part in known["parts"]:
        part["attack"] = name
    (folder / "study.json").write_text(json.dumps(known))
    page = tmp_path / "r.html"
    assert main([folder.name, "-o", str(page), "--out", str(copied.parent)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<img" not in text
    document = parse(text)
    assert not [element for element in document.iter() if element.get("onerror") is not None]
    assert name in "".join(document.find(".//main").itertext())


def test_an_unknown_study_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown study"):
        read_results(tmp_path, "x")


def test_a_report_that_its_own_study_writes_does_not_say_that_it_runs(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "mine", trials=4)
    with study_lock(folder, "mine"):
        assert "being run now" not in str(summary.sections(read_results(tmp_path, "mine")))
