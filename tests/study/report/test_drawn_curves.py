"""Curves over one axis as both libraries draw them: the order of options, single places, colours and ticks."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import draw, rates, write_study

from search_spaces.pipd import PIPD_SPACE
from study.analysis.results import read_results
from study.report import matplotlib_figures
from study.report.elements import Curves, Line
from study.report.plotly_figures import as_plotly
from study.report.sections.curves import curves_section


def of_options(at: str, options: tuple[str, ...] = ()) -> Curves:
    """Trials that come in another order than the options."""
    line = Line("a", ("1", "2", "3"), (0.1, 0.2, 0.3), points=(("3", 0.3), ("1", 0.1), ("2", 0.2)))
    return Curves("c", "", "x", "y", (line,), at=((at, "paper default"),), options=options)


def canvas_axes(figure: Curves) -> Any:
    """The axes that matplotlib drew on."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas()
    axes = canvas.subplots()
    matplotlib_figures._curves(figure, axes, canvas)
    return axes


def test_options_keep_their_order_and_a_number_among_them_is_a_name() -> None:
    layout = as_plotly(of_options("3"))["layout"]
    assert layout["xaxis"]["categoryorder"] == "array"
    assert layout["xaxis"]["categoryarray"] == ["1", "2", "3"]
    assert layout["shapes"][0]["x0"] == layout["shapes"][0]["x1"] == 2
    assert layout["annotations"][0]["x"] == 2
    assert layout["annotations"][0]["xanchor"] == "right", "to the left of its line, inside the figure"
    assert layout["xaxis"]["range"] == [-0.5, 2.5]


def test_a_default_that_no_trial_has_gets_a_place_of_its_own() -> None:
    assert as_plotly(of_options("30"))["layout"]["shapes"][0]["x0"] == 3
    between = as_plotly(of_options("15", ("1", "15", "2", "3")))["layout"]
    assert between["xaxis"]["categoryarray"] == ["1", "15", "2", "3"]
    assert between["shapes"][0]["x0"] == 1
    axes = canvas_axes(of_options("30"))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3", "30"]
    assert list(axes.lines[-1].get_xdata()) == [3, 3]


def test_nine_lines_look_different() -> None:
    lines = tuple(Line(f"a{at}", (1.0, 2.0), (0.1, 0.2)) for at in range(9))
    traces = as_plotly(Curves("c", "", "x", "y", lines))["data"]
    assert len({(one["line"]["color"], one["line"]["dash"]) for one in traces}) == 9
    assert len({(one["marker"]["color"], one["marker"]["symbol"]) for one in traces}) == 9
    drawn = canvas_axes(Curves("c", "", "x", "y", lines)).lines
    assert len({(one.get_color(), one.get_linestyle()) for one in drawn}) == 9


def test_an_attack_has_one_colour_in_all_figures_and_is_named_where_the_lines_change(tmp_path: Path) -> None:
    """BadNets has no TPR, as on data without poison, so that figures of it have one line fewer."""

    def truth(point: Any, attack: str, rate: float, seed: int) -> dict[str, Any]:
        off = point["beta"] / 10
        return rates(1 - off, off, ca=1 - off, asr=off) | ({"tpr": None} if attack == "badnets" else {})

    write_study(tmp_path / "c", draw(PIPD_SPACE.ranges, 24), truth, ("badnets", "sig", "wanet"))
    figures = [one for one in curves_section(read_results(tmp_path, "c")).figures() if isinstance(one, Curves)]
    colours: dict[str, set[str]] = {}
    for figure in figures:
        for trace in as_plotly(figure)["data"]:
            colours.setdefault(trace["name"], set()).add(trace["marker"]["color"])
    assert len(colours) == 3
    assert all(len(of_label) == 1 for of_label in colours.values()), colours
    assert len(set.union(*colours.values())) == 3
    for _, of_field in itertools.groupby(figures, key=lambda one: one.x_label):
        before: list[str] = []
        for figure in of_field:
            labels = [line.label for line in figure.lines]
            assert as_plotly(figure)["layout"]["showlegend"] == (labels != before)
            before = labels
    assert {len(figure.lines) for figure in figures} == {2, 3}, "the control"


@pytest.mark.parametrize(("highest", "dtick"), [(50.0, "D2"), (1e5, 1)])
def test_a_logarithmic_axis_has_few_ticks_and_ends_at_what_is_drawn(highest: float, dtick: Any) -> None:
    line = Line("a", (1.0, highest), (0.1, 0.2))
    figure = Curves("c", "", "x", "y", (line,), x_log=True, at=((highest, "paper default"),))
    layout = as_plotly(figure)["layout"]
    assert layout["xaxis"]["dtick"] == dtick
    ticks = canvas_axes(figure).xaxis.get_majorticklocs()
    assert (20.0 in ticks) == (dtick == "D2")
    low, high = layout["xaxis"]["range"]
    exponent = layout["annotations"][0]["x"]
    assert low < 0 < exponent < high < exponent + 0.5
    assert layout["shapes"][0]["x0"] == highest, "a shape lies at its value, a label at its exponent"
