"""The first screen of a report, and what its reader looks for next: the trials in order, as lines and as a table."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas
import pytest
import synthetic_study
import told_study
from synthetic_study import PAPER, draw, rates
from written_study import write_study

from search_spaces.pipd import PIPD_SPACE
from study.analysis.compared import compared_configurations
from study.analysis.finding import find
from study.analysis.results import Results, read_results
from study.ledger import selection
from study.report.elements import Axis, Facts, Note, Scatter, Section, Table
from study.report.formatting import mean_with_deviation
from study.report.plotly_figures import as_plotly
from study.report.sections import ablations, history, parallel, settings, summary, trials
from study.report.sections.axis_ends import axis_ends
from study.report.sections.contents import sections
from study.report.sections.front_table import front_table
from study.report.sections.trade_off import trade_off

SEARCH = {"history", "parallel", "settings", "fronts", "heat", "robustness", "importance", "curves", "region"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Three attacks of which one does not work, three seeds, the paper's default and seven others; one failed."""
    out = tmp_path_factory.mktemp("searched")

    def truth(point: Any, attack: str, rate: float, seed: int) -> Any:
        off = abs(point["beta"] - 4) / 10
        return None if attack == "sig" else rates(1 - off, off / 10 + seed / 1000, ca=0.9 + seed / 100, asr=off)

    attacks = ("badnets", "blended_random", "sig")
    points = draw(PIPD_SPACE.ranges, 7)
    synthetic_study.write_study(out / "s", points, truth, attacks, (0, 1, 2), default=PAPER, states={5: "FAIL"})
    return read_results(out, "s")


def only(found: list[Section]) -> Section:
    (section,) = found
    return section


def front(results: Results) -> Section:
    first = sections(results)[0]
    assert first.name == "summary"
    return first


def of_kind(section: Section, kind: Any) -> Any:
    (item,) = [item for item in section.items if isinstance(item, kind)]
    return item


def test_the_front_page_is_a_sentence_three_numbers_a_table_and_a_figure(searched: Results) -> None:
    section = front(searched)
    assert section.lead == find(searched).sentence
    assert len(of_kind(section, Facts).facts) == 3
    assert [item.name for item in section.items if isinstance(item, Table)] == ["outcome", "control-and-cost"]
    assert of_kind(section, Scatter).name == "trade-off"
    terms = section.items[-2]
    assert isinstance(terms, Note)
    assert all(f"{term}: " in terms.text for term in ("TPR", "FPR", "CA", "ASR"))
    assert all(f"{word} is" in terms.text for word in ("A scenario", "a trial", "The overall score"))


def test_the_table_has_a_block_for_all_and_one_for_each_attack(searched: Results) -> None:
    table = front_table(searched, compared_configurations(searched))
    assert table.header[2:] == ("undefended", "paper default", f"best (#{searched.best})", "each scenario's own best")
    assert [row[0] for row in table.rows if row[0]] == [
        "all 2 together", "badnets at 0.1", "blended_random at 0.1", "sig at 0.1 †",
    ]  # fmt: skip
    assert [row[1] for row in table.rows[:4]] == ["TPR", "FPR", "CA", "ASR"]
    best = searched.evaluations[searched.evaluations["trial"] == searched.best]
    of_attack = best.loc[best["attack"] == "badnets", "fpr"]
    assert table.rows[5][4] == mean_with_deviation(float(of_attack.mean()), float(of_attack.std()))
    failed = [cell for row in table.rows[-4:] for cell in row[2:] if cell is not None]
    assert failed
    assert all(str(cell).startswith("(") for cell in failed)


def test_the_best_of_a_row_is_bold_and_nothing_is_where_all_are_equal(searched: Results) -> None:
    table = front_table(searched, compared_configurations(searched))
    assert (0, 4) in table.bold  # TPR of the best trial
    assert (0, 3) not in table.bold
    assert not [at for at in table.bold if table.rows[at[0]][1] == "CA"]
    assert not [at for at in table.bold if at[1] == 2]  # the undefended model is no candidate
    assert not [at for at in table.bold if at[0] >= len(table.rows) - 4]  # nor does a failed attack count


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One scenario, two trials."""
    out = tmp_path_factory.mktemp("small")
    told_study.write_study(out / "one", trials=2, attacks=("badnets",), rates=(0.1,), seeds=(0,))
    return read_results(out, "one")


def test_one_attack_needs_no_mean_and_one_seed_has_no_spread(small: Results) -> None:
    results = small
    table = front_table(results, compared_configurations(results))
    assert table.rows[0][0] == "badnets at 0.1"
    assert isinstance(table.rows[0][3], float)
    assert table.caption.startswith("One seed")


def test_flags_alone_are_traded_off_by_tpr_and_fpr(tmp_path: Path) -> None:
    def truth(point: Any, *_: Any) -> Any:
        return {"tpr": point["beta"] / 6, "fpr": 0.1, "auroc": 0.9, "ca": None, "asr": None}

    synthetic_study.write_study(tmp_path / "s", draw(PIPD_SPACE.ranges, 4), truth, until="isolate")
    results = read_results(tmp_path, "s")
    figure = trade_off(results)
    assert figure is not None
    assert (figure.x_label.split()[0], figure.y_label.split()[0]) == ("FPR", "TPR")
    table = front_table(results, compared_configurations(results))
    assert {row[1] for row in table.rows} == {"TPR", "FPR"}  # CA and ASR are the undefended model's alone


def test_an_ablation_shows_its_own_table_and_no_search(small: Results) -> None:
    results = dataclasses.replace(small, space="pipd.rounds")
    every = sections(results)
    own = next(item for item in only(ablations.sections(results)).items if isinstance(item, Table))
    first, beside = (item for item in every[0].items if isinstance(item, Table))
    assert first == dataclasses.replace(own, name="outcome")
    assert beside.name == "control-and-cost"
    assert not [item for item in every[0].items if isinstance(item, Scatter)]
    assert SEARCH.isdisjoint(section.name for section in every)
    assert "trials" in {section.name for section in every}
    repeated = [item for section in every[1:] for item in section.items if getattr(item, "name", "") == own.name]
    assert not repeated


def test_trials_stand_in_order_with_the_best_so_far(searched: Results) -> None:
    (figure,) = only(history.sections(searched)).figures()
    assert isinstance(figure, Scatter)
    assert figure.stepped
    assert [point.x for point in sorted(figure.points, key=lambda point: point.x)] == [0, 1, 2, 3, 4, 6, 7]
    reached = dict(sorted((point.x, point.y) for point in figure.points))
    best, steps = -2.0, []
    for number, value in reached.items():
        if value > best:
            best = value
            steps.append((number, value))
    assert list(figure.front[:-1]) == steps
    assert figure.front[-1] == (7, steps[-1][1])
    assert {point.group for point in figure.points} == {"trial", "best", "paper default"}


def test_every_objective_has_its_own_history(tmp_path: Path) -> None:
    told_study.write_study(tmp_path / "two", trials=4, rates=(0.1,), seeds=(0,), objective="asr,ca")
    section = only(history.sections(read_results(tmp_path, "two")))
    assert [figure.name for figure in section.figures()] == ["history-asr", "history-ca"]
    falling = next(section.figures())
    assert isinstance(falling, Scatter)
    heights = [y for _, y in falling.front]
    assert heights == sorted(heights, reverse=True)


def test_lines_go_through_every_hyperparameter_to_the_objective(searched: Results) -> None:
    (figure,) = only(parallel.sections(searched)).items
    assert [axis.label.split()[-1] for axis in figure.axes[:-1]] == list(searched.ranges)  # type: ignore[union-attr]
    assert figure.axes[-1].label == "overall score"  # type: ignore[union-attr]
    assert figure.labels == tuple(f"Trial {n}" for n in searched.complete.index)  # type: ignore[union-attr]
    for places in figure.places:  # type: ignore[union-attr]
        assert all(0 <= axis.share(at) <= 1 for axis, at in zip(figure.axes, places, strict=True))  # type: ignore[union-attr]
    assert {name for _, name in figure.marked} == {"best", "paper default"}  # type: ignore[union-attr]


def test_places_on_an_axis() -> None:
    assert Axis("x", (0.01, 1.0), log=True).share(0.1) == pytest.approx(0.5)
    assert Axis("x", ("a", "b", "c")).share("b") == 0.5
    assert Axis("x", ("a",)).share("a") == 0
    assert Axis("x", (2.0, 2.0)).share(2.0) == 0.5


def test_all_trials_are_rows_the_best_first_and_those_without_result_last(searched: Results) -> None:
    table = of_kind(trials.section(searched), Table)
    assert table.sortable
    assert table.rows[0][0] == searched.best
    assert table.strong == (0,)
    assert sorted(row[0] for row in table.rows) == list(range(8))
    assert table.rows[-1][0] == 5
    assert table.rows[-1][1] == "failed"
    assert "best" in str(table.rows[0][1])
    assert [row[1] for row in table.rows if row[0] == 0] == ["paper default"]
    values = [float(str(row[3])) for row in table.rows[:-1]]
    assert values == sorted(values, reverse=True)
    assert table.header[:9] == ("trial", "state", "scenarios", "overall score", "TPR", "FPR", "AUROC", "CA", "ASR")


def test_a_trial_that_was_stopped_is_not_taken_for_one_with_all_results(tmp_path: Path) -> None:
    """Its means are over one scenario of two, so they stand in brackets, beside how many these are."""
    runs = (("badnets", 0.1, 0), ("sig", 0.1, 0))
    both = {run: {"tpr": 0.5, "fpr": 0.25, "ca": 0.9, "asr": 0.1} for run in runs}
    first = {runs[0]: {"tpr": 1.0, "fpr": 0.0, "ca": 0.9, "asr": 0.1}}
    write_study(tmp_path / "s", [(0.5, both), (0.0, first), (0.4, both)], pruned=(1,))
    section = trials.section(read_results(tmp_path, "s"))
    table = of_kind(section, Table)
    shown = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert [(shown[at]["state"], shown[at]["scenarios"]) for at in (1, 2)] == [
        ("stopped early", "1 of 2"),
        ("complete", "2 of 2"),
    ]
    assert (shown[1]["TPR"], shown[1]["FPR"], shown[1]["overall score"]) == ("(1.000)", "(0.000)", None)
    assert (shown[2]["TPR"], shown[2]["FPR"]) == (0.5, 0.25)
    assert "In brackets: over the scenarios that a trial has come to" in table.caption


def test_the_history_tells_complete_trials_from_those_that_were_started(tmp_path: Path) -> None:
    run = ("badnets", 0.1, 0)
    cells = {run: {"tpr": 0.5, "fpr": 0.25, "ca": 0.9, "asr": 0.1}}
    given: list[tuple[float | None, Any]] = [(value, cells) for value in (0.2, 0.0, 0.3, 0.0, 0.9)]
    write_study(tmp_path / "h", given, pruned=(1, 3))
    section = only(history.sections(read_results(tmp_path, "h")))
    assert section.lead == "Trial 4, one of 3 complete of 5, reached overall score 0.9000, as the last complete one."
    (figure,) = section.figures()
    assert isinstance(figure, Scatter)
    assert figure.caption.startswith("The overall score of each complete trial")
    assert [point.x for point in sorted(figure.points, key=lambda point: point.x)] == [0, 2, 4]
    notes = [item.text for item in section.items if isinstance(item, Note)]
    assert notes == ["Of 5 trials that were started, 2 have no value: 2 stopped early."]
    assert as_plotly(figure)["layout"]["xaxis"]["dtick"] == 1, "no trial lies between two whole numbers"


def test_the_history_of_complete_trials_has_no_note(tmp_path: Path) -> None:
    cells = {("badnets", 0.1, 0): {"tpr": 0.5, "fpr": 0.25, "ca": 0.9, "asr": 0.1}}
    write_study(tmp_path / "h", [(0.2, cells), (0.8, cells), *[(0.3, cells)] * 12])
    section = only(history.sections(read_results(tmp_path, "h")))
    assert section.lead == "Trial 1, one of 14, reached overall score 0.8000; none of the 12 after it did better."
    (figure,) = section.items
    assert isinstance(figure, Scatter)
    assert "dtick" not in as_plotly(figure)["layout"]["xaxis"], "on a long axis plotly names whole numbers by itself"


def test_what_lies_at_the_edge_of_its_range_is_told(tmp_path: Path) -> None:
    ends = {name: getattr(own, "low", None) for name, own in PIPD_SPACE.ranges.items()}
    point = {name: PAPER[name] if low is None else low for name, low in ends.items()}

    def truth(point: Any, *_: Any) -> Any:
        return rates(1.0 if point["rounds"] == 1 else 0.5, 0.0)

    synthetic_study.write_study(tmp_path / "s", pandas.DataFrame([point]), truth, default=PAPER)
    section = only(settings.sections(read_results(tmp_path, "s")))
    assert "At the edge of its range: isolation_rate" in section.lead
    assert "channel_statistic" not in section.lead


def test_an_axis_does_not_blow_noise_up() -> None:
    low, high = axis_ends([0.997, 0.999], least=0.1)
    assert high - low >= 0.1
    assert 1 <= high <= 1.01
    assert low < 0.91
    low, high = axis_ends([0.0, 0.002], least=0.1)
    assert -0.01 <= low <= 0
    low, high = axis_ends([-0.5, 0.9], least=0.1)
    assert low < -0.5
    assert high > 0.9


def test_several_studies_stand_side_by_side(searched: Results) -> None:
    section = summary.overview([searched, searched])
    table = of_kind(section, Table)
    assert [row[1] for row in table.rows] == ["paper default", f"best (#{searched.best})"] * 2
    assert section.uses_labels


def test_trials_are_ranked_once_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranked again for every row of a table, a report of a thousand trials took minutes."""

    def truth(point: Any, attack: str, rate: float, seed: int) -> Any:
        return rates(0.9 + point["isolation_rate"], 0.0)

    synthetic_study.write_study(tmp_path / "s", draw(PIPD_SPACE.ranges, 40), truth, default=PAPER)
    calls: list[int] = []
    front = selection.front
    monkeypatch.setattr(selection, "front", lambda *arguments: calls.append(1) or front(*arguments))
    sections(read_results(tmp_path, "s"))
    assert 1 <= len(calls) <= 6
