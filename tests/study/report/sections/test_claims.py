"""What sections say where the data do not carry more: each test has what was claimed before as its control."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_results import small_results
from synthetic_study import PAPER, draw, rates, unit, write_study

from search_spaces import SEARCH_SPACES
from study.analysis.bins import Span
from study.analysis.results import Results, read_results
from study.report.elements import Curves, Heat, Line, Note, Scatter, Section, Table
from study.report.plotly_figures import as_plotly
from study.report.sections import contents, curves, heatmap, pareto
from study.report.sections.curves import curves_section
from study.report.sections.importance import importances
from study.report.sections.interactions import interactions_section
from study.report.sections.region import build_region, region_section, stability_region
from study.report.sections.robustness import robustness_section

RANGES = SEARCH_SPACES["pipd"].ranges


def notes(section: Section) -> str:
    return " ".join(item.text for item in section.items if isinstance(item, Note))


def table(section: Section, name: str) -> Table:
    return next(item for item in section.items if isinstance(item, Table) and item.name == name)


def cells(trial: int, **metrics: float) -> list[dict[str, Any]]:
    return [{"trial": trial, "attack": attack, **metrics} for attack in ("a", "b")]


# The stability region


def by_lambda(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
    """Luck of a few trials: what breaks the limits has a large ascent_weight, which isolation never reads."""
    bad = unit(RANGES["ascent_weight"], point["ascent_weight"]) > 0.8
    return rates(0.9 if bad else 1.0, 0.0)


def test_the_region_bounds_no_field_that_tpr_and_fpr_cannot_depend_on(tmp_path: Path) -> None:
    write_study(tmp_path / "luck", draw(RANGES, 48), by_lambda, attacks=("badnets",), default=PAPER)
    results = read_results(tmp_path, "luck")
    good = results.compared.set_index("trial")["tpr"] >= 0.99
    before = build_region(results.ranges, results.trials.loc[good.index], good.to_numpy(bool), results.trials)
    assert "whole range" not in before.bounds["ascent_weight"], "the control"
    region = stability_region(results)
    assert region is not None
    assert "ascent_weight" not in region.bounds
    assert set(region.bounds) == set(RANGES) - {"ascent_weight"}
    assert "Neither TPR nor FPR depends on ascent_weight" in notes(region_section(results))


@pytest.mark.parametrize(
    ("good", "said"),
    [
        (
            4,
            "4 of 12 complete trials keep TPR at least 0.99 and FPR at most 0.01 on all 2 scenarios whose attack works",
        ),
        (11, "at least 5 different settings that do not are needed"),
        (0, "None of 12 complete trials keeps"),
    ],
)
def test_a_few_trials_on_one_side_bound_no_region(good: int, said: str) -> None:
    """One bad trial of twelve cut the box along whatever hyperparameter came first."""
    results = small_results([cell for n in range(12) for cell in cells(n, tpr=1.0 if n < good else 0.5, fpr=0.0)])
    section = region_section(results)
    assert (section.answered, section.items) == (False, ())
    assert said in section.lead


def test_a_region_that_nothing_bounds_says_so() -> None:
    section = region_section(small_results([cell for n in range(6) for cell in cells(n, tpr=1.0, fpr=0.0)]))
    assert section.lead.startswith("All 6 complete trials keep")
    assert not [item for item in section.items if isinstance(item, Table)]


def test_trials_that_repeat_one_setting_stand_behind_a_region_once() -> None:
    points = [{"beta": float(n // 2)} for n in range(12)]
    results = small_results([c for n in range(12) for c in cells(n, tpr=1.0 if n < 6 else 0.5, fpr=0.0)], points=points)
    region = stability_region(results)
    assert region is not None
    assert (region.inside, region.settings) == (6, 3)
    assert not region_section(results).answered


# Curves


@pytest.fixture(scope="module")
def noise_alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """24 trials whose CA differs in the third digit, and nothing else."""
    out = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    write_study(
        out / "noise",
        draw(RANGES, 24),
        lambda *_: rates(1.0, 1.1e-16, ca=0.9975 + 0.0025 * rng.random()),
        default=PAPER,
    )
    return read_results(out, "noise")


def test_no_widest_where_chance_puts_bins_as_far_apart(noise_alone: Results) -> None:
    section = curves_section(noise_alone)
    rows = {row[0]: row for row in table(section, "curves-range").rows}
    widest = max(rows.values(), key=lambda row: float(str(row[5])))
    assert float(str(widest[5])) > 0, "the control: it was said to move the objective most"
    assert section.lead == "No hyperparameter alone moves the mean overall score by 0.001 or more (24 trials)."
    assert table(section, "curves-range").strong == ()


def test_no_widest_where_larger_noise_does_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_study(tmp_path / "n", draw(RANGES, 24), lambda *_: rates(1.0, 0.0, ca=rng.random()), attacks=("badnets",))
    lead = curves_section(read_results(tmp_path, "n")).lead
    assert lead.startswith(
        "No hyperparameter alone moves the mean overall score by more than chance would with 24 trials"
    )


def test_an_objective_that_never_varies_has_no_highest(tmp_path: Path) -> None:
    write_study(tmp_path / "flat", draw(RANGES, 24), lambda *_: rates(1.0, 0.0), attacks=("badnets",), default=PAPER)
    section = curves_section(read_results(tmp_path, "flat"))
    assert section.lead == "The mean overall score is the same along every hyperparameter (24 trials)."
    assert (section.answered, section.items) == (False, ()), "nothing varies"


def test_an_objective_that_is_equal_in_all_bins_has_no_highest(tmp_path: Path) -> None:
    """CA varies on the paper's default alone, which no bin holds; TPR does, and the score does not."""

    def truth(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
        return rates(1.0 if point["beta"] > 3 else 0.5, 0.0, ca=0.5 if point["beta"] > 3 else 1.0)

    write_study(tmp_path / "even", draw(RANGES, 24), truth, attacks=("badnets",), default=PAPER)
    section = curves_section(read_results(tmp_path, "even"))
    assert section.lead == "The mean overall score is the same along every hyperparameter (24 trials)."
    assert {(row[1], row[3], row[5]) for row in table(section, "curves-range").rows} == {(None, None, 0.0)}
    assert list(section.figures()), "of TPR and CA"


def test_an_objective_that_no_trial_defines_has_no_table(tmp_path: Path) -> None:
    truth = lambda point, *_: {**rates(point["beta"] / 6, 0.0), "ca": None, "asr": None}  # noqa: E731
    write_study(tmp_path / "flags", draw(RANGES, 24), truth, attacks=("badnets",), default=PAPER)
    section = curves_section(read_results(tmp_path, "flags"))
    assert section.lead == "Overall score is defined for none of these trials; what other metrics do stands below."
    assert "curve-beta-tpr" in [figure.name for figure in section.figures()]


def test_few_trials_are_drawn_and_no_line_of_two_points(noise_alone: Results) -> None:
    figures = {figure.name: figure for figure in curves_section(noise_alone).figures() if isinstance(figure, Curves)}
    beta = figures["curve-beta-ca"]
    assert [line.x for line in beta.lines] == [(), ()], "two bins"
    assert [len(line.points) for line in beta.lines] == [24, 24]
    trials = noise_alone.space_filling_trials
    first = noise_alone.compared[
        (noise_alone.compared["attack"] == "badnets") & noise_alone.compared["trial"].isin(trials.index)
    ]
    expected = {(float(trials["beta"][trial]), ca) for trial, ca in zip(first["trial"], first["ca"], strict=True)}
    assert set(beta.lines[0].points) == expected
    choice = figures["curve-channel_statistic-ca"]
    assert choice.lines[0].x == ("max", "mean"), "an option's mean is one of many trials"
    assert not [name for name in figures if name.endswith(("-tpr", "-fpr", "-asr"))], "they are the same in all trials"


def test_axes_do_not_blow_up_noise_and_one_figure_of_a_row_has_the_legend(noise_alone: Results) -> None:
    figures = [figure for figure in curves_section(noise_alone).figures() if isinstance(figure, Curves)]
    for figure in figures:
        assert figure.y_range is not None
        low, high = figure.y_range
        assert high - low >= 0.1
        assert low <= min(y for line in figure.lines for _, y in line.points)
        assert high >= max(y for line in figure.lines for _, y in line.points)
        assert as_plotly(figure)["layout"]["yaxis"]["range"] == [low, high]
    of_beta = [figure for figure in figures if figure.x_label == "beta"]
    assert [as_plotly(figure)["layout"]["showlegend"] for figure in of_beta] == [True, False]
    assert all(trace["showlegend"] for trace in as_plotly(of_beta[0])["data"])


def test_points_and_their_line_are_one_entry_of_the_legend() -> None:
    line = Line("a", (1.0, 2.0), (0.5, 0.6), points=((1.0, 0.4), (2.0, 0.7)))
    points, drawn = as_plotly(Curves("c", "", "x", "y", (line, Line("b", (), (), points=((1.0, 0.1),)))))["data"][:2]
    assert (points["mode"], points["showlegend"], drawn["mode"]) == ("markers", False, "lines+markers")
    assert points["marker"]["color"] == drawn["marker"]["color"]
    assert points["legendgroup"] == drawn["legendgroup"]


# Pairs


def test_the_largest_pair_is_named_only_above_what_a_pair_without_effect_is_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = dict(enumerate(rng.normal(0, 0.02, 64)))
    points = draw(RANGES, 64)
    number = {round(beta, 12): at for at, beta in enumerate(points["beta"])}

    def truth(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
        return rates(1.0, 0.0, ca=0.9 + noise.get(number.get(round(point["beta"], 12), -1), 0.0))

    write_study(tmp_path / "noise", points, truth, attacks=("badnets",), default=PAPER)
    results = read_results(tmp_path, "noise")
    section = interactions_section(results, importances(results))
    share = float(str(table(section, "interactions").rows[0][2]))
    assert share > 0.2, "the control: it was said to be theirs together"
    assert section.lead.startswith("No pair stands out from noise: the largest share is 0.2")
    assert "with 64 trials a pair that does nothing may be given as much" in section.lead


# One configuration for all, trade-offs


def test_a_best_that_another_trial_ties_is_its_own_best() -> None:
    rows = [*cells(0, tpr=0.5, fpr=0.0), *cells(1, tpr=0.75, fpr=0.0), *cells(2, tpr=0.75, fpr=0.0)]
    rows[2] = {"trial": 1, "attack": "a", "tpr": 1.0, "fpr": 0.0}  # best over all; on b trial 2 is as good
    section = robustness_section(small_results(rows))
    own = [row[1] for row in table(section, "robustness").rows if str(row[1]).startswith("its own best")]
    assert own == ["its own best (#1)", "its own best (#1)"]


def test_one_attack_has_no_cost_of_robustness() -> None:
    rows = [{"trial": n, "attack": "a", "tpr": n / 4, "fpr": 0.0} for n in range(3)]
    section = robustness_section(small_results(rows))
    assert section.lead == "Only one attack at one rate counts, so the best single configuration (#2) is its own best."


def test_a_front_of_one_is_no_trade_off() -> None:
    rows = [c for n in range(4) for c in cells(n, tpr=1.0 if n else 0.5, fpr=0.0)]
    (section,) = pareto.sections(small_results(rows))
    assert section.lead == "No trade-off of FPR and TPR, since trial 1 is best in both (tied with 2 others)."
    (same,) = pareto.sections(small_results([c for n in range(3) for c in cells(n, tpr=1.0, fpr=0.0)]))
    assert same.lead == "All 3 trials have the same FPR and TPR."
    (scatter,) = [item for item in section.items if isinstance(item, Scatter)]
    assert (scatter.x_label, scatter.y_label) == ("FPR (lower is better)", "TPR (higher is better)")


# Colours


def test_the_undefended_model_has_no_colour_and_does_not_stretch_the_scale(tmp_path: Path) -> None:
    write_study(
        tmp_path / "one", draw(RANGES, 4), lambda *_: rates(1.0, 0.0, ca=0.7), attacks=("badnets",), default=PAPER
    )
    (section,) = heatmap.sections(read_results(tmp_path, "one"))
    maps = {item.name: item for item in section.items if isinstance(item, Heat)}
    asr, ca = maps["heat-asr"], maps["heat-ca"]
    assert asr.columns[0] == "undefended"
    assert asr.values[0][0] == 1.0
    assert asr.uncoloured == (0,)
    drawn = as_plotly(asr)
    assert drawn["data"][0]["z"][0][:2] == [None, 0.0], "an ASR of 1 was alarm orange"
    assert drawn["layout"]["annotations"][0]["text"] == "1.000", "and stands there, without brackets"
    assert ca.high == pytest.approx(0.7), "0.99 undefended made 0.7 look bad"


def test_a_scale_from_little_to_much_is_neither_good_nor_bad() -> None:
    heat = Heat("h", "", ("a",), ("b",), ((0.0,),), good="neither")
    drawn = as_plotly(heat)
    assert drawn["data"][0]["coloraxis"] == "coloraxis2"
    assert drawn["layout"]["coloraxis2"]["reversescale"] is False
    assert "coloraxis" not in drawn["layout"]


# Words


def test_no_section_says_what_a_colleague_would_not(noise_alone: Results) -> None:
    for section in contents.answers(noise_alone):
        said = " ".join([section.title, section.lead, notes(section)])
        tables = [item for item in section.items if isinstance(item, Table)]
        said += " ".join(text for one in tables for text in (one.caption, *one.header))
        for word in ("oracle", "judged", " cell", "overall_score", "is told", "instrument"):
            assert word not in said, (section.name, word)
        assert not [one for one in section.items if isinstance(one, Note) and one.kind != "footnote"]
        if not section.answered:
            assert section.items == ()


def test_the_largest_difference_is_named_by_its_size() -> None:
    """Chance differs between fields: of one whose settings trials share it is large."""
    spans = {
        "gamma": ((0.1, 0.2), Span(0, 1, 0.2, 0.5, by_chance=0.35)),
        "beta": ((1.0, 2.0), Span(0, 1, 0.30, 0.32, by_chance=0.03)),
    }
    assert "(largest: gamma, by 0.300)" in curves._lead("tpr", 96, spans)
    wide = {"rate": ((1.0, 2.0), Span(0, 1, 0.1, 0.7, by_chance=0.5)), "near": ((1.0, 2.0), Span(0, 1, 0.2, 0.6, 0.1))}
    assert curves._lead("tpr", 96, wide).startswith("Alone, rate moves the mean TPR most: by 0.600")
