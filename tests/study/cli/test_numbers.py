"""One rule turns a number into text, wherever it is shown."""

import math

import pandas
import pytest

from study.cli.numbers import format_number, format_objective, format_value
from study.config.objectives import Goal
from study.report.elements import Contour, Curves, Heat, Line, Section, Table
from study.report.formatting import format_cell, format_difference, format_share, mean_with_deviation, spread
from study.report.html import Chapter, page
from study.report.markdown import markdown
from study.report.plotly_figures import as_plotly
from study.report.text import section_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0.000"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (1.0, "1.000"),
        (0.12345, "0.123"),
        (-0.5, "-0.500"),
        (0.001, "0.001"),
        (0.0014, "0.001"),
        (0.0007, "<0.001"),
        (0.0004, "<0.001"),
        (-0.0004, ">-0.001"),
        (1e-5, "<0.001"),
        (0.3 - 0.1 - 0.2, "0.000"),  # -2.8e-17
        (1.11e-16, "0.000"),
        (1e-11, "<0.001"),
        (999.5, "999.500"),
        (1000.0, "1000"),
        (-123456.0, "-123456"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_a_number_has_three_decimals_and_a_small_one_is_not_taken_for_zero(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.1235"), (0.5, "0.5000"), (0.0004, "0.0004"), (0.00004, "<0.0001"), (0.0, "0.0000"), (None, "-")],
)
def test_an_objective_has_one_decimal_more(value: float | None, text: str) -> None:
    assert format_number(value, 4) == text
    assert format_objective(value) == text


def test_values_are_shown_with_three_digits() -> None:
    assert [format_value(value) for value in (0.0123456, 3.0, 12, True, "max", float("inf"))] == [
        "0.0123",
        "3",
        "12",
        "True",
        "max",
        "inf",
    ]
    assert [format_value(value) for value in (0.00004, 123456.0, None)] == ["4e-05", "1.23e+05", "-"]
    assert [format_value(value) for value in (1.11e-16, -2.8e-17)] == ["0", "0"], "rounding noise"


def test_a_difference_has_its_sign() -> None:
    assert [format_difference(value) for value in (0.25, -0.25, 0.0004, -0.0004, 0.0, -0.0, -2.8e-17)] == [
        "+0.250",
        "-0.250",
        "<+0.001",
        ">-0.001",
        "+0.000",
        "+0.000",
        "+0.000",
    ]


def test_a_spread_is_a_mean_and_a_deviation() -> None:
    assert spread(pandas.Series([], dtype=float)) is None
    assert spread(pandas.Series([math.nan])) is None
    assert spread(pandas.Series([0.25, math.nan])) == 0.25, "one value stays a number"
    assert spread(pandas.Series([0.25, 0.75])) == "0.500 ± 0.354"  # sqrt(2 * 0.25^2 / 1)
    assert spread(pandas.Series([0.0004, 0.0002])) == "<0.001 ± <0.001"
    assert (mean_with_deviation(None, 0.5), mean_with_deviation(0.5, None)) == (None, 0.5)
    assert mean_with_deviation(0.9504, 0.0004) == "0.950 ± <0.001"


def test_a_share_of_variance_has_two_decimals() -> None:
    assert [format_share(value) for value in (0.0, 0.004, -0.004, 0.456, -1.0)] == [
        "0.00",
        "0.00",
        "0.00",
        "0.46",
        "-1.00",
    ]


def test_a_cell_is_a_number_a_count_or_text() -> None:
    assert [format_cell(cell) for cell in (None, math.nan, 0.0004, 4, "0.0004")] == ["-", "-", "<0.001", "4", "0.0004"]


def test_a_terminal_a_page_and_markdown_show_the_same_number() -> None:
    """0.0004 was 0.000 in a terminal alone."""
    heat = Heat("h", "", ("column",), ("row",), ((0.0004,),))
    section = Section("s", "Title", "Lead.", (Table("t", "Rates", ("model", "FPR"), (("pipd", 0.0004),)), heat))
    told = section_text(section)
    assert told.count("<0.001") == 2, "the table's and the figure's"
    assert '<td class="n">&lt;0.001</td>' in page("Title", "", [Chapter("", (section,))])
    assert "| pipd | &#60;0.001 |" in markdown("Title", [section])


def test_a_figure_shows_the_same_number() -> None:
    heat = as_plotly(Heat("h", "", ("a", "b"), ("c",), ((0.0004, None),)))["data"][0]
    assert (heat["text"], heat["z"]) == ([["&lt;0.001", ""]], [[0.0004, None]])
    many = as_plotly(Heat("h", "", ("a",), tuple(map(str, range(401))), ((0.0004,),) * 401))["data"][0]
    assert many["text"][400] == ["&lt;0.001"], "to point at"
    assert ("texttemplate" in heat, "texttemplate" in many) == (True, False), "too many to be written into cells"
    contour = as_plotly(Contour("c", "", "x", "y", (1.0,), (2.0,), ((0.0004,),), "v"))["data"][0]
    assert contour["text"] == [["&lt;0.001"]]
    assert [figure["hovertemplate"].count("%{text}") for figure in (heat, contour)] == [1, 1]


def test_an_objective_in_words() -> None:
    assert Goal(("asr", "ca")).describe((0.012, 0.00004)) == "asr 0.0120, ca <0.0001"


def test_what_arithmetic_left_of_zero_is_zero_in_a_figure() -> None:
    """A mouse over a rate of 1.11e-16 showed 1.11e-16."""
    curves = Curves("c", "", "x", "y", (Line("a", (1.0, 2.0), (1.11e-16, 0.5), points=((1.0, -1e-17),)),))
    points, line = as_plotly(curves)["data"]
    assert (points["y"], line["y"]) == ([0.0], [0.0, 0.5])
