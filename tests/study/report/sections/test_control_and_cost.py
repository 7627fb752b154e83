"""The FPR when nothing is poisoned and the cost, beside every result; and what warns of flags that are no answer."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from written_study import write_study

from study import status
from study.analysis.caveats import budget_caveat, flag_caveats
from study.analysis.compared import shown_trials
from study.analysis.results import Results, load_results
from study.report.results_csv import results_csv
from study.report.screen import without_empty_columns
from study.report.sections import summary, trials
from study.report.sections.closing import Closing
from study.report.sections.control_and_cost import table
from study.report.sections.joint_closing import defenses_text
from study.report.text import table_lines

FPR = "FPR when nothing is poisoned"


def cells(good: float, share: float | None = None, seeds: int = 2) -> dict[tuple[str, float, int], Any]:
    flagged = {} if share is None else {"flagged_share": share}
    return {
        ("badnets", 0.1, seed): {"tpr": good, "fpr": 0.0, "auroc": good, "ca": 0.9, "asr": 1 - good, **flagged}
        for seed in range(seeds)
    }


def study(tmp_path: Path, shares: tuple[float | None, ...] = (None, None, None), **options: Any) -> Results:
    told = [(good, cells(good, share)) for good, share in zip((0.5, 0.9, 0.7), shares, strict=True)]
    folder = write_study(tmp_path / options.pop("name", "mine"), told, seeds=(0, 1), attacks=("badnets",), **options)
    return load_results(folder, tmp_path)


@pytest.fixture
def told(tmp_path: Path) -> Results:
    """Trial 1 is the best; the default flags 0.2 and 0.4 of clean data with the two seeds, the best nothing."""
    return study(tmp_path, clean_fpr={0: {0: 0.2, 1: 0.4}, 1: {0: 0.0, 1: 0.0}}, epochs=10.0)


def test_a_row_a_configuration_fits_eighty_columns(told: Results) -> None:
    shown = table({"": told})
    assert shown is not None
    assert shown.header == ("configuration", FPR, "epoch-equivalents", "seconds")
    assert shown.rows == (
        ("undefended", None, "20.0", "40.0"),  # the judge's: no part of what the defense costs
        ("paper default", "0.300 ± 0.141", "20.0 / 10.0", "145.0 / 25.0"),
        ("best (#1)", "0.000 ± 0.000", "20.0 / 10.0", "145.0 / 25.0"),
    )
    assert max(map(len, table_lines(shown).splitlines())) <= 80


def test_every_face_has_them(told: Results) -> None:
    closing = Closing(told)
    for text in (closing.text(), defenses_text([closing])):
        assert FPR in text
        assert "0.300 ± 0.141" in text
        assert "20.0 / 10.0" in text
        assert "An epoch-equivalent is a pass forward and backward" in text
    assert closing.metrics()["paper_default/fpr_clean"] == pytest.approx(0.3)
    assert closing.metrics()["best/fpr_clean"] == 0.0
    assert table({"": told}) in summary.sections(told)[0].items
    of_trials = trials.section(told).items[0]
    assert {FPR, "epoch-equivalents built", "epoch-equivalents spent", "seconds built", "seconds spent"} <= set(
        of_trials.header  # type: ignore[union-attr]
    )
    assert {FPR, "epoch-equivalents, built / spent"} <= set(summary.overview([told, told]).items[0].header)  # type: ignore[union-attr]
    rows = list(csv.DictReader(results_csv(told).splitlines()))
    assert [(row["trial"], row["fpr_clean"]) for row in rows[:4]] == [
        ("0", "0.2"),
        ("0", "0.4"),
        ("1", "0.0"),
        ("1", "0.0"),
    ]
    assert {(row["defense_built_epochs"], row["defense_spent_epochs"]) for row in rows} == {("20.0", "10.0")}
    assert {(row["defense_built_seconds"], row["defense_spent_seconds"]) for row in rows} == {("145.0", "25.0")}


def test_status_tells_what_is_flagged_of_clean_data(told: Results, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(told.folder.parent)]
    assert status.main([told.name, *out]) == 0
    assert f"{FPR}: 0.300 of trial #0, 0.000 of trial #1" in capsys.readouterr().out
    assert status.main([told.name, *out, "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["fpr_clean"] == {"0": {"0": 0.2, "1": 0.4}, "1": {"0": 0.0, "1": 0.0}}


def test_records_that_tell_nothing_of_it_show_seconds_alone(tmp_path: Path) -> None:
    results = study(tmp_path)
    shown = table({"": results})
    assert shown is not None
    assert without_empty_columns(shown).header == ("configuration", "seconds")
    assert FPR not in Closing(results).text()


def test_a_clean_scenario_of_the_study_is_its_control(tmp_path: Path) -> None:
    clean = {("clean", 0.0, 0): {"fpr": 0.25, "ca": 0.9}}
    poisoned = cells(0.9, seeds=1)
    folder = write_study(tmp_path / "mine", [(0.9, {**poisoned, **clean})], attacks=("badnets", "clean"))
    results = load_results(folder, tmp_path)
    assert results.clean_fpr == {0: {0: 0.25}}
    assert shown_trials(results) == [0]


def test_flags_that_are_no_answer_are_said(tmp_path: Path) -> None:
    results = study(tmp_path, (0.0, 0.6, 0.0), clean_fpr={1: {0: 0.7, 1: 0.3}})
    assert flag_caveats(results) == [
        "pipd flags nothing in 4 of 6 runs: the paper default on badnets-0.1-s0 and badnets-0.1-s1; 1 other trial of 3 "
        "on at least one scenario.",
        "pipd flags more than half of the samples in 3 of 8 runs: trial 1 on badnets-0.1-s0 (0.600), badnets-0.1-s1 "
        "(0.600) and the data unpoisoned, seed 0 (0.700).",
    ]
    assert "pipd flags nothing" in Closing(results).text()
    assert flag_caveats(study(tmp_path, (0.1, 0.5, 0.2), name="sound")) == []


def test_nothing_is_the_right_answer_where_nothing_is_poisoned(tmp_path: Path) -> None:
    clean = {("clean", 0.0, 0): {"fpr": 0.0, "ca": 0.9, "flagged_share": 0.0}}
    folder = write_study(
        tmp_path / "mine", [(0.9, {**cells(0.9, 0.1, seeds=1), **clean})], attacks=("badnets", "clean")
    )
    assert flag_caveats(load_results(folder, tmp_path)) == []


def test_a_part_of_the_epochs_is_said() -> None:
    assert budget_caveat("dbd", [("budget_fraction", 0.1)]) == (
        "dbd is run at 10 % of its epochs (budget_fraction 0.1)."
    )
    assert budget_caveat("dbd", [("budget_fraction", 1.0)]) == budget_caveat("pipd", [("rounds", 8)]) == ""
