"""Numbers on a grid as both libraries draw them: names that fit, numbers that can be read, places without a trial."""

import io
from typing import Any

import pytest

from study.report.elements import Contour, Heat, Section
from study.report.html import Chapter, page
from study.report.matplotlib_figures import png
from study.report.plotly_figures import as_plotly, least_width
from study.report.plotly_heat import name_lines


def heat(columns: int, rows: tuple[str, ...] = ("channel_statistic", "b")) -> Heat:
    names = tuple(f"blended_random-0.{at}-s0" for at in range(columns))
    return Heat("heat", "", names, rows, ((0.123,) * columns,) * len(rows), good="neither")


def contour(**changes: Any) -> Contour:
    given: dict[str, Any] = {
        "x": (0.01, 0.1, 1.0),
        "y": ("a", "b"),
        "values": ((0.998, None, 1.0), (0.999, 0.9985, None)),
        "at": ((0.04, "b", "paper default"),),
    }
    return Contour(**{"name": "c", "caption": "", "x_label": "x", "y_label": "y", "value_label": "v"} | given | changes)


def of(figure: Heat) -> tuple[Section, ...]:
    """Sections of which the last holds a figure."""
    return Section("f", "f", "f"), Section("s", "s", "s", (figure,))


def test_many_columns_have_names_that_stand_upright_and_room_for_numbers() -> None:
    few, many = as_plotly(heat(4))["layout"], as_plotly(heat(21))["layout"]
    assert (few["xaxis"]["tickangle"], many["xaxis"]["tickangle"]) == (0, -90)
    assert many["height"] > few["height"], "names stand above the rows"
    (trace,) = as_plotly(heat(21))["data"]
    size = trace["textfont"]["size"]
    assert size >= 10, "by itself plotly makes it as small as it must be"
    widest = len("<0.001") * 0.6 * size  # a digit is 0.6 of its size wide
    assert (least_width(heat(21)) - 150) / 21 >= widest
    text = {columns: page("x", "", [Chapter("x", of(heat(columns)))]) for columns in (4, 21)}
    assert f"min-width: {least_width(heat(21))}px" in text[21]
    assert '<figure class="full">' in text[21], "across both columns of figures"
    assert '<figure class="full">' not in text[4]


def test_a_png_grows_with_the_columns() -> None:
    from PIL import Image

    sizes = []
    for columns in (4, 21):
        with Image.open(io.BytesIO(png(heat(columns)))) as image:
            sizes.append(image.size)
    assert sizes[1][0] > 1.3 * sizes[0][0]
    assert sizes[1][1] > sizes[0][1]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("channel_statistic", ["channel_", "statistic"]),
        ("each scenario's own best", ["each", "scenario's", "own best"]),
        ("blended_random-0.1", ["blended_", "random-0.1"]),
        ("pre_isolation_lr", ["pre_", "isolation_", "lr"]),
        ("uninterruptible", ["uninterruptible"]),
        ("", [""]),
    ],
)
def test_a_name_is_broken_where_its_words_end(name: str, lines: list[str]) -> None:
    assert name_lines(name, 10) == lines


def test_places_without_a_trial_are_grey_and_no_low_value() -> None:
    layout = as_plotly(contour())["layout"]
    boxes = [(box["x0"], box["x1"], box["y0"], box["y1"]) for box in layout["shapes"]]
    assert boxes == [(0.5, 1.5, -0.5, 0.5), (1.5, 2.5, 0.5, 1.5)]
    assert {box["layer"] for box in layout["shapes"]} == {"below"}


def test_noise_does_not_fill_the_scale_of_a_contour() -> None:
    scale = as_plotly(contour())["layout"]["coloraxis2"]
    assert scale["cmax"] - scale["cmin"] == pytest.approx(0.1)
    assert scale["cmax"] == 1.0, "a share ends there"
    wide = contour(values=((0.2, None, 0.9), (0.3, 0.4, None)))
    assert wide.colour_ends() == pytest.approx((0.2, 0.9))
    low = contour(values=((0.20, None, 0.22), (0.21, 0.21, None)))
    assert low.colour_ends() == pytest.approx((0.16, 0.26))
    assert contour(values=((None,) * 3,) * 2).colour_ends() == (0.0, 1.0)


def test_a_point_lies_on_the_cell_that_is_nearest_on_its_axis() -> None:
    """0.04 is nearer to 0.01 than to 0.1, but not by a factor."""
    assert contour().cell_of(0.04, "b") == (0, 1)
    assert contour(x_log=True).cell_of(0.04, "b") == (1, 1)
    assert contour(x_log=True, x=(0.0, 1.0, 2.0)).cell_of(0.1, "a") == (0, 0), "zero has no logarithm"
    diamond = as_plotly(contour(x_log=True))["data"][1]
    assert (diamond["x"], diamond["y"]) == (["0.1"], ["b"])
    assert png(contour(x_log=True))


def test_options_of_a_contour_keep_their_order() -> None:
    numbers = contour(x=("3", "10", "2"), at=(("10", "a", "paper default"),))
    axis = as_plotly(numbers)["layout"]["xaxis"]
    assert axis["categoryarray"] == ["3", "10", "2"]
    assert axis["categoryorder"] == "array"
    assert as_plotly(numbers)["data"][1]["x"] == ["10"]
