"""What is told of hyperparameters that act in some trials: of those alone, and a dash where they do nothing."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import yaml
from desk import Desk, judged
from small_study import save_npz, small_plan
from synthetic_study import draw, rates, unit, write_study

from defenses.methods.ac import ACConfig
from defenses.methods.none import NONEConfig
from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from search_spaces.conditions import where
from search_spaces.space import Choice, Float, Int, Range
from study.analysis.importances import Importances
from study.analysis.results import Results, read_results
from study.analysis.selected_trial import select_trial
from study.datasets.images import Images
from study.driver.driver import _check_same_fields
from study.ledger.grid import make_grid
from study.report.best_configuration import best_configuration
from study.report.elements import Curves, Heat, Note, Parallel, Section, Table
from study.report.matplotlib_figures import png
from study.report.plotly_trials import draw_parallel
from study.report.results_csv import results_csv
from study.report.sections import comparison, holdout, parallel, settings, trials
from study.report.sections.closing import Closing
from study.report.sections.curves import curves_section
from study.report.sections.importance import importance_section, importances
from study.report.sections.interactions import interactions_section
from study.report.sections.region import build_region

AC = SEARCH_SPACES["ac"]
PAPER = AC.default(ACConfig())
TRIALS = 128


def truth(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
    """Where it acts the silhouette decides alone, and elsewhere the number of clusters."""
    if "min_silhouette" in point:
        return rates(unit(AC.ranges["min_silhouette"], point["min_silhouette"]), 0.0)
    return rates(0.2 if point["clusters"] == 2 else 0.8, 0.0)


def by_clusters(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
    return rates(0.2 if point.get("clusters") == 2 else 0.8, 0.0)


def points(whole: bool = False) -> pandas.DataFrame:
    """As they are drawn; by a version that knew no conditions, with all fields."""
    rows = draw(AC.ranges, TRIALS).to_dict("records")
    acting = [row if whole else AC.conditions.drop_idle(row) for row in rows]
    return pandas.DataFrame(
        {name: pandas.Series([row.get(name) for row in acting], dtype=object) for name in AC.ranges}
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("runs")
    write_study(out / "ac", points(), truth, attacks=("badnets",), default=PAPER, space="ac")
    return read_results(out, "ac")


@pytest.fixture(scope="module")
def computed(results: Results) -> Importances:
    return importances(results)


def notes(section: Section) -> str:
    return " ".join(item.text for item in section.items if isinstance(item, Note))


def table(section: Section, name: str) -> Table:
    return next(item for item in section.items if isinstance(item, Table) and item.name == name)


def acting(results: Results, name: str) -> int:
    return int(results.space_filling_trials[name].notna().sum())


def test_trials_keep_their_values_and_lack_what_does_nothing(results: Results) -> None:
    assert list(results.ranges) == list(AC.ranges)
    for number, row in results.trials.iterrows():
        own = {name: row[name] for name in AC.ranges if row[name] is not None}
        assert own == results.points[int(str(number))]
        assert own in AC
        assert isinstance(own.get("dims", 2), int), "whole numbers stay whole beside gaps"
    assert 0 < acting(results, "min_silhouette") < acting(results, "max_share") < TRIALS


def test_a_study_of_before_is_read_as_one_without_its_idle_fields(tmp_path: Path, results: Results) -> None:
    write_study(tmp_path / "ac", points(whole=True), truth, attacks=("badnets",), default=PAPER, space="ac")
    before = read_results(tmp_path, "ac")
    pandas.testing.assert_frame_equal(before.trials[list(AC.ranges)], results.trials[list(AC.ranges)])
    assert before.points == results.points


def test_the_share_of_a_conditional_hyperparameter_is_of_the_trials_in_which_it_acts(
    results: Results, computed: Importances
) -> None:
    whole = computed.of("tpr")
    assert whole is not None
    assert whole.shares is not None
    share = dict(zip(computed.fields, whole.shares.alone, strict=True))
    acts = dict(zip(computed.fields, whole.acts, strict=True))
    assert acts == {name: acting(results, name) for name in computed.fields}
    assert share["min_silhouette"] > 0.9
    assert share["dims"] < 0.1
    assert share["max_share"] < 0.1
    # Clusters decide in two of three trials: by hand, of two values 0.6 apart, and 1/12 within the others.
    rows = results.space_filling_trials
    tpr = np.array([truth(results.points[number], "badnets", 0.1, 0)["tpr"] for number in rows.index])
    by_clusters = [tpr[(rows["clusters"] == count).to_numpy()].mean() for count in (2, 3)]
    assert share["clusters"] == pytest.approx(np.var(by_clusters) / tpr.var(), abs=0.08)
    assert acts["min_silhouette"] == len(rows[rows["rule"] == "share_and_silhouette"])


def test_the_section_says_of_which_trials_a_share_is(results: Results, computed: Importances) -> None:
    section = importance_section(results, computed)
    acts = acting(results, "min_silhouette")
    assert f"(of the {acts} trials in which it acts)" in section.lead
    assert f"min_silhouette acts where rule share_and_silhouette, in {acts} of {TRIALS} trials" in notes(section)
    assert f"dims acts where reducer pca or ica, in {acting(results, 'dims')} of {TRIALS} trials" in notes(section)
    assert "clusters acts" not in notes(section)


def test_a_grid_has_no_level_where_a_hyperparameter_does_nothing(tmp_path: Path) -> None:
    grid = [*make_grid(AC, {"dims": 2, "max_share": 2, "min_silhouette": 3}).points(0)]
    laid_out = pandas.DataFrame(
        {name: pandas.Series([point.get(name) for point in grid], dtype=object) for name in AC.ranges}
    )
    write_study(
        tmp_path / "grid", laid_out, by_clusters, attacks=("badnets",), default=PAPER, space="ac", sampler="grid"
    )
    computed = importances(read_results(tmp_path, "grid"))
    assert {name for name in AC.ranges if AC.ranges[name].when} <= set(computed.fields)
    assert not [axis.name for axis in computed.axes if axis.levels and None in axis.levels]


def test_a_choice_of_counts_and_shares_keeps_what_it_offers(tmp_path: Path) -> None:
    """One detector is 1, and a share of all channels would be 1.0."""
    none = SEARCH_SPACES["none"]
    options = none.ranges["detector_channels"].options
    assert {type(option) for option in options} == {int, float}
    default = none.default(NONEConfig())
    drawn = draw(none.ranges, 64)
    write_study(tmp_path / "none", drawn, by_clusters, attacks=("badnets",), default=default, space="none")
    results = read_results(tmp_path, "none")
    assert {str(value) for value in results.trials["detector_channels"]} == set(map(str, options))


def test_too_few_trials_in_which_it_acts_have_a_dash(tmp_path: Path) -> None:
    few = points().iloc[:40]
    write_study(tmp_path / "few", few, truth, attacks=("badnets",), default=PAPER, space="ac")
    results = read_results(tmp_path, "few")
    computed = importances(results)
    at = computed.fields.index("min_silhouette")
    one = computed.of("tpr")
    assert one is not None
    assert one.acts[at] == 0
    section = importance_section(results, computed)
    rows = {row[0]: row for row in table(section, "importance-all").rows}
    assert rows["min_silhouette"][2] is None
    heat = next(item for item in section.items if isinstance(item, Heat))
    assert heat.values[at] == (None, None)
    assert "a dash stands where they are too few" in notes(section)


def test_curves_are_of_the_trials_in_which_a_hyperparameter_acts(results: Results, computed: Importances) -> None:
    section = curves_section(results)
    rows = {row[0]: row for row in table(section, "curves-range").rows}
    assert 0.3 < rows["min_silhouette"][5] < 0.4, "from the lowest quarter to the highest, and a half of it is TPR"
    curve = next(item for item in section.items if isinstance(item, Curves) and item.name == "curve-min_silhouette-tpr")
    assert len(curve.lines[0].points) == acting(results, "min_silhouette")
    assert curve.at == (), "the paper's default has none"
    assert f"min_silhouette acts where rule share_and_silhouette: {acting(results, 'min_silhouette')} of" in notes(
        section
    )
    assert interactions_section(results, computed).answered


def test_tables_have_a_dash_for_what_does_nothing(results: Results) -> None:
    best = results.best
    assert best is not None
    assert results.points[best]["rule"] == "share_and_silhouette"
    (first, *_) = [item for item in trials.section(results).items if isinstance(item, Table)]
    at = first.header.index("min_silhouette")
    shown = {row[0]: row[at] for row in first.rows}
    assert shown[0] is None
    assert shown[best] == f"{results.points[best]['min_silhouette']:.3g}"
    (section,) = settings.sections(results)
    rows = {row[0]: row for row in table(section, "settings").rows}
    assert rows["min_silhouette"][1] == "-"
    assert rows["min_silhouette"][3].startswith("[0.05, 0.3], where rule share_and_silhouette")
    line = next(line for line in Closing(results).text().splitlines() if line.startswith("min_silhouette"))
    assert line.split()[1] == "-", "the paper's rule does not read it"


def test_files_have_nothing_for_what_does_nothing(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(results))))
    assert {row["min_silhouette"] for row in rows if row["rule"] != "share_and_silhouette"} == {""}
    assert "" not in {row["min_silhouette"] for row in rows if row["rule"] == "share_and_silhouette"}
    assert {row["dims"] for row in rows if row["reducer"] == "none"} == {""}
    text = best_configuration(results)
    assert text is not None
    assert results.best is not None
    assert yaml.safe_load(text)["set"] == results.points[results.best]


def test_a_comparison_has_the_fields_that_act(results: Results) -> None:
    a, b = select_trial(results, "default"), select_trial(results, "best")
    (differ,) = comparison._configurations(a, b)
    rows = {row[0]: row[1:] for row in differ.rows}
    assert rows["min_silhouette"] == (None, f"{results.points[b.trial]['min_silhouette']:.3g}")


def test_a_judgement_has_its_points_again(results: Results, tmp_path: Path) -> None:
    chosen = results.trials.index[[3, 7, 20]]
    again = pandas.DataFrame(
        [{name: results.points[int(at)].get(name) for name in AC.ranges} for at in chosen], dtype=object
    )
    again = again.astype(object).where(again.notna(), None)
    write_study(tmp_path / "judged", again, truth, attacks=("badnets",), space="ac")
    numbers = holdout._numbers(results, read_results(tmp_path, "judged"))
    assert {int(at): numbers[int(at)] for at in chosen} == {3: 0, 7: 1, 20: 2}


def test_lines_pass_below_an_axis_on_which_they_have_no_place(results: Results) -> None:
    (section,) = parallel.sections(results)
    (figure,) = [item for item in section.items if isinstance(item, Parallel)]
    absent = {axis.label: axis.absent for axis in figure.axes}
    assert [name for name, is_absent in absent.items() if is_absent] == ["dims", "max_share", "min_silhouette"]
    assert len(figure.places) == TRIALS + 1
    at = list(absent).index("dims")
    assert all((places[at] is None) is (places[0] == "none") for places in figure.places)
    assert figure.axes[at].share(None) < 0
    assert "does nothing in that trial" in section.lead
    drawn = draw_parallel(figure)
    assert "dims -" in " ".join(text for trace in drawn["data"] for text in trace["text"])
    assert png(figure).startswith(b"\x89PNG")


REGION: dict[str, Range] = {
    "rule": Choice(("all", "some"), "w"),
    "limit": Float(0.0, 10.0, "w", when=where("rule", "some")),
    "kind": Choice(("a", "b"), "w", when=where("rule", "some")),
    "rounds": Int(1, 3, "w"),
}


def region(rows: list[tuple[Any, ...]], good: list[bool]) -> Any:
    frame = pandas.DataFrame(rows, columns=list(REGION), dtype=object).assign(paper_default=False)
    return build_region(REGION, frame, np.array(good), frame)


def test_a_bound_holds_where_its_hyperparameter_acts() -> None:
    rows = [("some", limit, "a", 1) for limit in (2.0, 4.0, 6.0, 8.0)] + [
        ("all", None, None, 1),
        ("all", None, None, 3),
    ]
    found = region(rows, [True, True, False, False, True, True])
    assert found.inside == 4, "what has no limit is in every box"
    assert found.bounds == {
        "rule": "all, some (the whole range)",
        "limit": "0 to 4",
        "kind": "a",
        "rounds": "1 to 3 (the whole range)",
    }
    assert found.settings == 4


def test_a_box_may_hold_no_trial_in_which_a_hyperparameter_acts() -> None:
    found = region([("all", None, None, 1), ("all", None, None, 2), ("some", 1.0, "a", 1)], [True, True, False])
    assert found.inside == 2
    assert found.bounds["rule"] == "all"


def test_what_a_driver_tells_of_a_trial_lacks_what_does_nothing(tmp_path: Path, images: Images) -> None:
    plan = small_plan(save_npz(tmp_path / "data.npz", images), tmp_path / "out", space="ac", attacks=("badnets",))
    folder = tmp_path / "study"
    folder.mkdir()
    desk = Desk(plan, folder)
    desk.ledger.enqueue_default(plan.default_point)
    row = desk.trial(judged(0.5, 0.0, 0.5, 0.5))
    assert row.point == PAPER
    (record,) = [record for record in desk.records() if record.run == desk.told.trial_run(row.key) and record.params]
    assert "min_silhouette" not in record.params
    assert record.params["max_share"] == "0.35"
    assert record.params["epochs"] == "10", "what is fixed is told as ever"
    kept = yaml.safe_load((folder / record.artifacts / "config.yaml").read_text())
    assert kept.keys() == record.params.keys()
    desk.closing()  # claims the folder anew: its trials have the plan's fields


def test_a_study_of_before_goes_on_and_one_of_other_fields_does_not(tmp_path: Path, images: Images) -> None:
    write_study(tmp_path / "ac", points(whole=True).iloc[:8], truth, attacks=("badnets",), space="ac")
    dataset = save_npz(tmp_path / "data.npz", images)
    plan = small_plan(dataset, tmp_path, space="ac", attacks=("badnets",))
    _check_same_fields(plan, tmp_path / "ac")
    smaller = small_plan(dataset, tmp_path, space="ac", attacks=("badnets",), set={"clusters": "2"})
    with pytest.raises(UserError, match="searches other fields \\(they differ in clusters\\)") as told:
        _check_same_fields(smaller, tmp_path / "ac")
    assert len(str(told.value).splitlines()) == 1
