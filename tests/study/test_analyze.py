"""`study.analyze`: what it says of studies whose truth is known, and of those that cannot tell."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from synthetic_study import PAPER, draw, rates, unit, write_study

from search_spaces import SEARCH_SPACES
from study import analyze
from study.analysis.bins import binned
from study.analysis.fanova import Shares
from study.analysis.importances import Importances
from study.analysis.results import Results, read_results
from study.report.elements import Bars, Contour, Curves, Note, Section, Table
from study.report.sections import contents
from study.report.sections.curves import curves_section
from study.report.sections.importance import importance_section, importances
from study.report.sections.interactions import interactions_section, largest
from study.report.sections.region import region_section, stability_region
from study.report.sections.robustness import robustness_section

RANGES = SEARCH_SPACES["pipd"].ranges


def truth(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
    """TPR by isolation_rate on badnets alone; FPR by the statistic on blended alone; seeds differ by 0.01 in CA."""
    u = unit(RANGES["isolation_rate"], point["isolation_rate"])
    if attack == "badnets":
        return rates(1 - 0.5 * u, 0.0, ca=0.9 + 0.01 * seed)
    return rates(1.0, 0.4 if point["channel_statistic"] == "max" else 0.0, ca=0.9 + 0.01 * seed)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """128 trials that fill the space, two attacks, two seeds, and the paper's default first."""
    out = tmp_path_factory.mktemp("runs")
    write_study(out / "known", draw(RANGES, 128), truth, seeds=(0, 1), default=PAPER)
    return read_results(out, "known")


@pytest.fixture(scope="module")
def found(known: Results) -> Importances:
    """Of that study; they take most of the time."""
    return importances(known)


def notes(section: Section) -> str:
    return "\n".join(item.text for item in section.items if isinstance(item, Note))


def table(section: Section, name: str) -> Table:
    return next(item for item in section.items if isinstance(item, Table) and item.name == name)


def test_importances_differ_by_scenario_and_metric(found: Importances) -> None:
    at = {name: position for position, name in enumerate(found.fields)}

    def share(metric: str, scenario: str, field: str) -> float:
        one = found.of(metric, scenario)
        assert one is not None
        assert one.shares is not None
        assert one.trials == 128
        if metric == "fpr":  # of two values: the best tenth is tied with half of the trials
            assert one.ped is None
            assert one.why_no_ped == "the best tenth (13 of 128 trials) is tied with 51 trials outside it"
            return float(one.shares.alone[at[field]])
        assert one.ped is not None
        assert one.ped.sum() == pytest.approx(1)
        if scenario != "all scenarios":  # one hyperparameter alone: the best tenth then differs along it most
            assert one.ped.argmax() == one.shares.alone.argmax()
        return float(one.shares.alone[at[field]])

    assert share("tpr", "badnets-0.1-s0", "isolation_rate") > 0.95
    assert share("fpr", "blended_random-0.1-s1", "channel_statistic") > 0.95
    for metric, scenario in (("fpr", "badnets-0.1-s0"), ("tpr", "blended_random-0.1-s0"), ("asr", "all scenarios")):
        one = found.of(metric, scenario)
        assert one is not None
        assert one.shares is None
    # Of overall_score: a uniform over 0.25 / 2 has variance (1/8)^2 / 12, the choice of 0.2 / 2 has 0.1^2 / 4 (halves).
    parts = (0.125**2 / 12, 0.1**2 / 4)
    assert share("overall_score", "all scenarios", "isolation_rate") == pytest.approx(parts[0] / sum(parts), abs=0.05)
    assert share("overall_score", "all scenarios", "channel_statistic") == pytest.approx(
        parts[1] / sum(parts), abs=0.05
    )


def test_every_importance_names_its_evaluator(known: Results, found: Importances) -> None:
    section = importance_section(known, found)
    tables = [item for item in section.items if isinstance(item, Table)]
    assert [one.name for one in tables][:2] == ["importance-all", "importance-overall_score"]
    for one in tables:
        assert {row[1] for row in one.rows} == {"fANOVA", "PED-ANOVA"}
    (bars,) = [item for item in section.items if isinstance(item, Bars)]
    assert bars.labels == tuple(RANGES)
    assert section.uses_labels
    assert "oracle" not in notes(section)
    assert "128 trials for 7 hyperparameters are few" in notes(section)
    assert "channel_statistic 0." in section.lead


def test_a_search_has_no_importances(tmp_path: Path) -> None:
    write_study(tmp_path / "tpe", draw(RANGES, 64), truth, sampler="tpe", default=PAPER)
    results = read_results(tmp_path, "tpe")
    found = importances(results)
    assert "the sampler 'tpe', which crowds" in found.why_none
    assert "--sampler qmc" in found.why_none
    for section in (importance_section(results, found), curves_section(results), interactions_section(results, found)):
        assert (section.answered, section.items) == (False, ())
        assert section.lead.count(".") == 1, "one sentence"
    assert robustness_section(results).items[0] == table(robustness_section(results), "robustness")
    assert "'tpe' crowds" in notes(region_section(results, min_tpr=0.5, max_fpr=0.5))


def test_curves_are_means_of_bins_with_the_spread_of_seeds(known: Results) -> None:
    figures = {item.name: item for item in curves_section(known).items if isinstance(item, Curves)}
    choice = figures["curve-channel_statistic-fpr"]
    lines = {line.label: line for line in choice.lines}
    assert lines["blended_random-0.1"].x == ("max", "mean")
    assert lines["blended_random-0.1"].y == pytest.approx((0.4, 0.0))
    assert lines["badnets-0.1"].y == (0.0, 0.0)
    assert choice.at == (("max", "paper default"),)
    rate = figures["curve-isolation_rate-tpr"]
    assert rate.x_log
    assert rate.at == ((0.01, "paper default"),)
    (falling,) = [line for line in rate.lines if line.label == "badnets-0.1"]
    assert list(falling.y) == sorted(falling.y, reverse=True)
    assert falling.y[0] == pytest.approx(1 - 0.25 / len(falling.y), abs=0.01)  # half a bin from the left
    (accuracy,) = [line for line in figures["curve-beta-ca"].lines if line.label == "badnets-0.1"]
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.y[0] == pytest.approx(0.905)
    assert accuracy.high[0] - accuracy.y[0] == pytest.approx(0.01 / math.sqrt(2))  # sd of 0.90 and 0.91


def test_one_seed_has_no_band_and_says_so(tmp_path: Path) -> None:
    write_study(tmp_path / "one", draw(RANGES, 64), truth, default=PAPER)
    results = read_results(tmp_path, "one")
    section = curves_section(results)
    assert "One seed only: the curves have no band" in notes(section)
    assert all(line.low is None for item in section.items if isinstance(item, Curves) for line in item.lines)
    assert "One seed only" in notes(robustness_section(results))
    assert "±" not in str(table(robustness_section(results), "robustness"))
    assert "One seed only" in notes(region_section(results, min_tpr=0.4, max_fpr=0.5))


def test_bins_have_equal_counts_and_keep_equal_values_together() -> None:
    even = pandas.Series([float(at) for at in range(40)])
    places, bins = binned(even, RANGES["beta"])
    assert places == (4.5, 14.5, 24.5, 34.5)
    assert bins.tolist() == [at // 10 for at in range(40)]
    few, of = binned(pandas.Series([1.0, 1.0, 2.0, 5.0] * 10), RANGES["beta"])
    assert few == (1.0, 2.0, 5.0)
    assert of.tolist() == [0, 0, 1, 2] * 10


def test_the_pair_that_interacts_comes_first(tmp_path: Path) -> None:
    def pairwise(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
        u = unit(RANGES["clean_rate"], point["clean_rate"]) - 0.5
        v = unit(RANGES["ascent_weight"], point["ascent_weight"]) - 0.5
        return rates(1.0, 0.0, ca=0.5 + u * v * 2)  # TPR cannot depend on ascent_weight

    write_study(tmp_path / "pair", draw(RANGES, 512), pairwise, attacks=("badnets",), default=PAPER)
    results = read_results(tmp_path, "pair")
    section = interactions_section(results, importances(results))
    rows = table(section, "interactions").rows
    assert set(rows[0][:2]) == {"clean_rate", "ascent_weight"}
    assert float(str(rows[0][2])) > 0.6
    assert float(str(rows[1][2])) < 0.1
    first = next(item for item in section.items if isinstance(item, Contour))
    assert (first.x_label, first.y_label) == ("clean_rate", "ascent_weight")
    assert first.at == ((0.2, 1.0, "paper default"),)
    corners = [first.values[row][column] for row, column in ((0, 0), (-1, -1), (0, -1), (-1, 0))]
    high, low = corners[:2], corners[2:]
    assert all(value is not None for value in corners)
    assert min(value for value in high if value) > max(value for value in low if value) + 0.05


def test_a_pair_that_a_metric_cannot_depend_on_is_not_among_the_largest(tmp_path: Path) -> None:
    """All shares are 0: the first pairs have the first field, which the metric is not computed from."""
    write_study(tmp_path / "flat", draw(RANGES, 128), lambda *_: rates(1.0, 0.0), attacks=("badnets",), default=PAPER)
    results = read_results(tmp_path, "flat")
    found = importances(results)
    whole = found.of("tpr") or found.each[0]
    axes = len(found.fields)
    zeros = np.zeros(axes)
    shares = Shares(zeros, zeros, zeros, np.zeros((axes, axes)), 0.0)
    read = (False, True, True, *([False] * (axes - 3)))
    own = dataclasses.replace(whole, metric=results.goal.objectives[0], shares=shares, read=read)
    section = interactions_section(results, dataclasses.replace(found, each=(own,)))
    assert [row[:2] for row in table(section, "interactions").rows] == [found.fields[1:3]]


def test_largest_pairs_are_in_order() -> None:
    import numpy as np

    pairs = np.array([[0, 1, 5], [1, 0, 3], [5, 3, 0]], float)
    assert largest(pairs, 2) == [(0, 2), (1, 2)]


def test_robustness_against_hand_computed_means(tmp_path: Path) -> None:
    """Trial 1 is best on badnets (1.0 and 0.4), trial 2 on blended (0.5 and 0.9), the default is 0.4 on both."""
    reached = {0.01: (0.4, 0.4), 0.02: (1.0, 0.4), 0.03: (0.5, 1.0)}

    def table_of(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
        value = reached[point["isolation_rate"]][attack != "badnets"] + (0.02 * seed - 0.01)
        return rates(value - 0.2, 0.0, ca=value + 0.2, asr=0.0)

    points = pandas.DataFrame([{**PAPER, "isolation_rate": p} for p in (0.02, 0.03)])
    write_study(tmp_path / "hand", points, table_of, seeds=(0, 1), sampler="tpe", default=PAPER)
    rows = {
        (r[0], str(r[1]).split(" (")[0]): r
        for r in table(robustness_section(read_results(tmp_path, "hand")), "robustness").rows
    }
    assert [row[1] for row in rows.values()] == [
        *("paper default", "best single (#2)", "its own best (#1)"),
        *("paper default", "best single (#2)", "its own best (#2)"),
    ]
    assert rows["badnets-0.1", "best single"][2] == "0.500 ± 0.014"
    assert rows["badnets-0.1", "best single"][-1] == pytest.approx(0.5)
    assert rows["badnets-0.1", "paper default"][-1] == pytest.approx(0.6)
    assert rows["blended_random-0.1", "best single"][-1] == 0
    assert "gives up 0.250 of overall score on average" in robustness_section(read_results(tmp_path, "hand")).lead


def test_the_region_of_a_study(known: Results) -> None:
    """TPR >= 0.75 means the lower half of the log range of p; FPR <= 0.01 means the mean. Half of a half."""
    region = stability_region(known, min_tpr=0.75, max_fpr=0.01)
    assert region is not None
    assert region.bounds["channel_statistic"] == "mean"
    assert region.bounds["beta"] == "0 to 6 (the whole range)"
    assert region.inside == region.good
    assert region.volume == pytest.approx(0.25, abs=0.02)
    assert region.default_inside is False
    section = region_section(known, min_tpr=0.75, max_fpr=0.01)
    assert "The paper's default lies outside" in section.lead
    assert "Empirical" in notes(section)


def test_no_region_is_said(known: Results) -> None:
    section = region_section(known, min_tpr=1.0, max_fpr=-1.0)
    assert section.lead.startswith("None of 129 complete trials keeps TPR at least 1")
    assert not section.answered


def test_a_failed_attack_counts_neither_way(tmp_path: Path) -> None:
    def half(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any] | None:
        return truth(point, attack, rate, seed) if attack == "badnets" else None

    write_study(tmp_path / "half", draw(RANGES, 64), half, default=PAPER)
    results = read_results(tmp_path, "half")
    assert {one.scenario for one in importances(results).each} == {"all scenarios", "badnets-0.1-s0"}
    assert len(table(robustness_section(results), "robustness").rows) == 3
    assert "on the one scenario that counts" in region_section(results).lead


def run(out: Path, name: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = analyze.main([name, "--out", str(out), *options])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_says_all_and_writes_json(
    known: Results, found: Importances, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(contents, "importances", lambda _: found)
    file = tmp_path / "all.json"
    code, text, _ = run(known.folder.parent, "known", capsys, "--json", str(file))
    assert code == 0
    assert "known: pipd, overall score, sampler qmc; trials: 129 complete; 4 scenarios, 2 seeds" in text
    sections = contents.answers(known)
    # Five of each hyperparameter, since ASR does not vary; of ascent_weight without TPR, FPR and AUROC.
    assert "[32 figures, curve-isolation_rate-overall_score to curve-channel_statistic-ca, drawn" in text
    for section in sections:
        heading = f"{section.title}\n{'=' * len(section.title)}" if section.answered else f"{section.title}: "
        assert heading in text
    written = json.loads(file.read_text())
    assert [section["name"] for section in written["sections"]] == [section.name for section in sections]
    assert len({section.name for section in sections}) == len(sections)
    kinds = {item["type"] for section in written["sections"] for item in section["items"]}
    assert kinds == {"note", "table", "bars", "heat", "curves"}, "no pair explains enough for a contour"
    names = [item["name"] for section in written["sections"] for item in section["items"] if "name" in item]
    assert len(set(names)) == len(names)


def test_bad_input_is_one_line(known: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = known.folder.parent
    for arguments, message in (
        (["knwon"], "unknown study 'knwon'"),
        (["known", "--json", str(tmp_path / "no" / "file")], "--json must be a file in a folder that exists"),
        (["known", "--json", str(tmp_path)], "--json must be a file in a folder that exists"),
        (["known", "--jsn", "x"], "did you mean '--json'?"),
        ([], "required: NAME"),
    ):
        code = analyze.main([*arguments, "--out", str(out)])
        error = capsys.readouterr().err
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
    assert "did you mean 'known'?" in run(out, "knwon", capsys)[2]


def test_studies_that_cannot_tell_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = draw(RANGES, 2).iloc[:1]
    write_study(tmp_path / "empty", one.iloc[:0], truth)
    write_study(tmp_path / "broken", draw(RANGES, 2), truth, states={0: "FAIL", 1: "FAIL"})
    code, _, error = run(tmp_path, "empty", capsys)
    assert code == 2
    assert "study 'empty' has no result yet" in error
    code, _, error = run(tmp_path, "broken", capsys)
    assert code == 2
    assert "all 2 trials failed, the first with: RuntimeError: it broke" in error


def test_a_single_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "single", draw(RANGES, 2).iloc[:0], truth, default=PAPER)
    code, text, _ = run(tmp_path, "single", capsys)
    assert code == 0
    text = " ".join(text.split())
    assert "A single trial is complete: it is its own best everywhere" in text
    assert text.count("No trial is complete but the paper's default.") == 2
    assert "This study cannot tell." not in text, "the reason is the lead"


def test_attacks_that_all_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path / "weak", draw(RANGES, 64), lambda *_: None, default=PAPER)
    code, text, _ = run(tmp_path, "weak", capsys)
    assert code == 0
    assert all(not section.answered for section in contents.answers(read_results(tmp_path, "weak")))
    assert "Attack failed even undefended, so it counts neither way: every attack" in text
    assert "No attack works, so no overall score counts" in text


def test_too_few_trials_are_refused(tmp_path: Path) -> None:
    write_study(tmp_path / "few", draw(RANGES, 16), truth, default=PAPER)
    results = read_results(tmp_path, "few")
    assert "at least 35 complete trials" in importances(results).why_none
    assert "5 for each hyperparameter that varies, got 16" in importances(results).why_none
    assert curves_section(results).lead.startswith("16 trials are too few for bins of 10")


def test_help_is_quick() -> None:
    script = (
        "import sys\nfrom study.analyze import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'sklearn', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m study.analyze")
