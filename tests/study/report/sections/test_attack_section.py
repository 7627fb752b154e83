"""What defenses reach on every attack: own bests and the spread over seeds, on trials written by hand."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import told_study
from written_study import Metrics, scenario_name, write_study

from study.analysis.compared import compared_configurations
from study.analysis.results import Results, read_results
from study.report.__main__ import main
from study.report.chapters import build_chapters
from study.report.elements import Cell, Heat, Note, Section, Table
from study.report.formatting import format_cell
from study.report.markdown import markdown
from study.report.sections import attacks, heatmap
from study.report.sections.summary import overview

Judged = Mapping[tuple[str, float, int], Metrics]
UNDEFENDED = {"ca_undefended": 0.9, "asr_undefended": 1.0}
USUAL = {"fpr": 0.0, "asr": 0.0, "ca": 0.8, **UNDEFENDED}


def judged(attack: str, *tprs: float, **metrics: float | None) -> Judged:
    """A TPR for each seed from 0 on, the rest alike."""
    return {(attack, 0.1, seed): {**USUAL, "tpr": tpr, **metrics} for seed, tpr in enumerate(tprs)}


def study(folder: Path, *trials: Judged, **options: object) -> Results:
    write_study(folder, [(0.5, trial) for trial in trials], **options)  # type: ignore[arg-type]
    return read_results(folder.parent, folder.name)


def rows(section: Section) -> list[tuple[Cell, ...]]:
    (table,) = [item for item in section.items if isinstance(item, Table)]
    return [tuple(map(format_cell, row)) for row in table.rows]


def notes(section: Section) -> str:
    return "\n".join(item.text for item in section.items if isinstance(item, Note))


def test_the_table_takes_each_scenarios_best_and_averages_over_seeds(tmp_path: Path) -> None:
    results = study(tmp_path / "mine", judged("badnets", 0.5, 0.8), judged("badnets", 1.0, 0.6))
    undefended, default, best = rows(attacks.section([results]))
    assert undefended == ("badnets-0.1", "undefended", "-", "-", "-", "0.900 ± 0.000", "1.000 ± 0.000")
    # 0.5 and 0.8: mean 0.65, standard deviation sqrt(2 * 0.0225 / 1) = 0.2121
    assert default[:4] == ("", "mine: paper default", "0.650 ± 0.212", "0.000 ± 0.000")
    # Bests 1.0 and 0.8: mean 0.9, standard deviation sqrt(2 * 0.01 / 1) = 0.1414
    assert best[:3] == ("", "mine: each scenario's own best", "0.900 ± 0.141")
    assert best[3:] == ("0.000 ± 0.000", "-", "0.800 ± 0.000", "0.000 ± 0.000")


def test_studies_of_one_name_stay_apart(tmp_path: Path) -> None:
    """The same command in two folders: their numbers are of two studies, whatever both are called."""
    ours = [study(tmp_path / out / "mine", judged("badnets", tpr)) for out, tpr in (("old", 0.2), ("new", 0.8))]
    reached = {row[1]: row[2] for row in rows(attacks.section(ours))}
    assert {name: reached[f"{name}/mine: paper default"] for name in ("old", "new")} == {"old": "0.200", "new": "0.800"}
    assert [chapter.title for chapter in build_chapters(ours)] == ["All studies", "old/mine", "new/mine"]
    assert {row[0] for row in rows(overview(ours))} == {"old/mine", "new/mine"}


def test_a_setting_of_set_is_not_called_the_papers(tmp_path: Path) -> None:
    fields = {"isolation_rate": "0.01", "clean_rate": "0.2", "beta": "1.7", "channels_per_tap": "0.04", "rounds": "8"}
    fields |= {"ascent_weight": "1", "channel_statistic": "max"}
    ours = dataclasses.replace(study(tmp_path / "mine", judged("badnets", 0.8, 0.9), set=fields), ranges={})
    named = {one.label for one in compared_configurations(ours)}
    assert "as set" in named
    assert "paper default" not in named
    page = markdown("Report", [section for chapter in build_chapters([ours]) for section in chapter.sections])
    caveat = "Every trial, the paper default too, has values of --set that are not the paper's"
    assert page.count("paper default") == page.count(caveat)
    assert "mine: as set" in {row[1] for row in rows(attacks.section([ours]))}


def test_attacks_that_failed_are_marked(tmp_path: Path) -> None:
    failed = [("wanet", 0.1, 0)]
    results = study(tmp_path / "mine", judged("wanet", 0.1, 0.3) | judged("badnets", 1.0, 1.0), failed=failed)
    section = attacks.section([results])
    assert [row[:2] for row in rows(section) if row[0]] == [
        ("badnets-0.1", "undefended"),
        ("wanet-0.1 †1/2", "undefended"),
    ]
    assert rows(section)[-1][1:3] == ("mine: each scenario's own best", "0.300"), "0.200 ± 0.141 with the failed seed"
    assert "† k/n" in notes(section)
    assert "left out of the mean" in notes(section), "as in the heat maps"


def test_the_table_and_the_heat_maps_have_one_rule_for_failed_attacks(tmp_path: Path) -> None:
    failed = [("wanet", 0.1, 0), ("sig", 0.1, 0), ("sig", 0.1, 1)]
    cells = judged("wanet", 0.1, 0.3) | judged("sig", 0.5, 0.7) | judged("badnets", 1.0, 1.0)
    results = study(tmp_path / "mine", cells, failed=failed)
    (section,) = heatmap.sections(results)
    tpr = next(item for item in section.items if isinstance(item, Heat) and item.name == "heat-tpr")
    default = tpr.columns.index("paper default")
    shown = {
        label.split(" ")[0]: f"({value:.3f})" if (at, default) in tpr.marked else f"{value:.3f}"
        for at, label in enumerate(tpr.rows)
        if (value := tpr.values[at][default]) is not None
    }
    table = rows(attacks.section([results]))
    attack_of = [str(row[0]).partition("-")[0] for row in table[::3]]  # undefended, default and own best of each
    told = dict(zip(attack_of, (str(row[2]).partition(" ±")[0].strip("()") for row in table[1::3]), strict=True))
    assert told == {name: text.strip("()") for name, text in shown.items()}
    assert shown == {"badnets": "1.000", "wanet": "0.300", "sig": "(0.600)"}
    assert "(0.600 ± 0.141)" in [row[2] for row in table], "in brackets, since no seed works"


def test_nothing_is_marked_where_every_attack_works(tmp_path: Path) -> None:
    section = attacks.section([study(tmp_path / "mine", judged("badnets", 1.0))])
    assert "†" not in markdown("x", [section])
    assert not notes(section)


def test_studies_stand_below_one_undefended_model(tmp_path: Path) -> None:
    both = judged("sig", 1.0) | judged("badnets", 0.5)
    studies = [study(tmp_path / "first", both), study(tmp_path / "second", judged("sig", 0.75), space="qt")]
    assert [row[:3] for row in rows(attacks.section(studies))] == [
        ("badnets-0.1", "undefended", "-"),
        ("", "first: paper default", "0.500"),
        ("", "first: each scenario's own best", "0.500"),
        ("sig-0.1", "undefended", "-"),
        ("", "first: paper default", "1.000"),
        ("", "first: each scenario's own best", "1.000"),
        ("", "second: paper default", "0.750"),
        ("", "second: each scenario's own best", "0.750"),
    ]


def test_other_undefended_models_are_another_block(tmp_path: Path) -> None:
    both = judged("badnets", 1.0) | judged("sig", 1.0)
    other = judged("badnets", 0.5, ca_undefended=0.5)
    section = attacks.section([study(tmp_path / "first", both), study(tmp_path / "second", other)])
    assert [(row[0], row[5]) for row in rows(section) if row[0]] == [
        ("badnets-0.1", "0.900"),
        ("badnets-0.1", "0.500"),
        ("sig-0.1", "0.900"),
    ]
    assert rows(section)[4][:3] == ("", "second: paper default", "0.500")
    assert "do not compare" in notes(section)


def test_an_undefined_metric_stays_undefined(tmp_path: Path) -> None:
    # Ground truth is unknown, so the objective is what can be known without it.
    cells = judged("badnets", 1.0, tpr=None, fpr=None, ca=0.5, asr=None, ca_undefended=0.5, asr_undefended=None)
    results = study(tmp_path / "mine", cells, failed=list(cells), objective="ca")
    assert rows(attacks.section([results])) == [
        ("badnets-0.1 †1/1", "undefended", "-", "-", "-", "(0.500)", "-"),
        ("", "mine: paper default", "-", "-", "-", "(0.500)", "-"),
        ("", "mine: each scenario's own best", "-", "-", "-", "(0.500)", "-"),
    ]


def test_a_pruned_trial_never_wins(tmp_path: Path) -> None:
    # The pruned one has the best result on its only scenario, and then on both.
    for name, tprs in (("partly", (1.0,)), ("whole", (1.0, 1.0))):
        default, stopped, other = (judged("badnets", *given) for given in ((0.5, 0.5), tprs, (0.75, 0.25)))
        results = study(tmp_path / name, default, stopped, other, pruned=(1,))
        assert results.trials.loc[1, "state"] == "pruned"
        # Bests 0.75 and 0.5: mean 0.625, standard deviation sqrt(2 * 0.015625 / 1) = 0.1768
        assert rows(attacks.section([results]))[2][1:3] == (f"{name}: each scenario's own best", "0.625 ± 0.177")


def test_the_study_s_own_objective_decides(tmp_path: Path) -> None:
    """The first trial has the better scores, the second the lower ASR."""
    trials = judged("badnets", 1.0, asr=0.5), judged("badnets", 0.0, asr=0.25)
    (_, _, best) = rows(attacks.section([study(tmp_path / "scored", *trials)]))
    assert (best[2], best[6]) == ("1.000", "0.500")
    lowest = attacks.section([study(tmp_path / "lowest", *trials, objective="asr")])
    (_, _, best) = rows(lowest)
    assert (best[2], best[6]) == ("0.000", "0.250")
    assert "(ASR)" in lowest.lead


def test_that_own_bests_take_ground_truth_is_said_by_a_badge(tmp_path: Path) -> None:
    section = attacks.section([study(tmp_path / "mine", judged("badnets", 1.0, 0.5))])
    assert section.uses_labels
    assert "oracle" not in markdown("x", [section])


def test_several_objectives_have_no_own_best(tmp_path: Path) -> None:
    told_study.write_study(tmp_path / "two", trials=3, rates=(0.1,), seeds=(0,), objective="asr,ca")
    section = attacks.section([read_results(tmp_path, "two")])
    assert {row[1] for row in rows(section)} == {"undefended", "two: paper default"}
    assert "two: of several objectives there is a Pareto front, and no own best" in notes(section)


def test_studies_of_single_scenarios_are_one_again(tmp_path: Path) -> None:
    """With ``--per-scenario`` each seed has a study of its own; one whose attack failed is a scenario as any."""
    studies = []
    for seed, tprs in enumerate(((0.5, 1.0), (0.8, 0.6))):
        trials = [(0.5, {("badnets", 0.1, seed): {**USUAL, "tpr": tpr}}) for tpr in tprs]
        name = f"each.{scenario_name('badnets', 0.1, seed)}"
        failed = [("badnets", 0.1, 1)]
        folder = write_study(tmp_path / name, trials, failed=failed, per_scenario=True)
        assert json.loads((folder / "study.json").read_text())["settings"]["per_scenario"]
        studies.append(read_results(tmp_path, name))
    assert [row[:3] for row in rows(attacks.section(studies))] == [
        ("badnets-0.1 †1/2", "undefended", "-"),
        ("", "each: paper default", "0.500"),
        ("", "each: each scenario's own best", "1.000"),
    ]


def test_the_report_of_several_studies_has_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.report.plotly_figures.library", lambda: "window.Plotly = {};")
    monkeypatch.setattr("study.report.matplotlib_figures.png", lambda _: b"a picture")
    monkeypatch.setattr("study.report.upload.log_pictures", lambda _: None)
    for space in ("pipd", "qt"):
        study(tmp_path / space, judged("sig", 1.0), space=space)
    page = tmp_path / "report.md"
    given = ["--out", str(tmp_path), "-o", str(tmp_path / "report.html"), "--markdown", str(page)]
    assert main(["pipd", "qt", *given]) == 0
    table = page.read_text().partition('<a id="attacks">')[2].partition("<a id=")[0]
    assert table.count("own best | 1.000 | 0.000 |") == 2
    assert main(["pipd", *given]) == 0
    assert '<a id="attacks">' not in page.read_text(), "heat maps have the same means of a single study"
