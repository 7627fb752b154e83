"""Figures as plotly draws them in a page. The only file that knows plotly.

A figure is given as plotly's JSON and holds no colour that differs between light and dark: the page adds the template
of the theme that its reader's device asks for. Names come from anywhere, and plotly reads a little HTML in every text,
so all of them are escaped here.
"""

import functools
import re
import textwrap
from collections.abc import Sequence

from study.cli.numbers import format_number, format_value
from study.report.elements import AxisValue, Bars, Contour, Curves, Figure, Heat, Parallel, Scatter
from study.report.plotly_curves import draw_curves
from study.report.plotly_parts import (
    Json,
    make_axis,
    make_figure,
    plain_text,
    rounded,
    shown_numbers,
    template_text,
)
from study.report.plotly_trials import draw_parallel, draw_scatter
from study.report.theme import SERIES, Theme

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")

_ROW, _MOST_TEXT = 32, 400  # px a row of a heat map; cells with numbers in them
_COLUMN_LABEL, _ROW_LABEL = 10, 16  # characters a line of a column's name and of a row's


def library() -> str:
    """The source of plotly.js, to be put into a page.

    Two of its texts hold control characters, which HTML does not allow: they become escapes of the same meaning.
    """
    from plotly.offline import get_plotlyjs

    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", get_plotlyjs())


def template(theme: Theme) -> Json:
    """The template of a theme."""
    axis = {
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "tickcolor": theme.grid,
        "automargin": True,
        "title": {"standoff": 10},
    }
    return {
        "data": {"bar": [{"error_x": {"color": theme.ink}}]},
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(SERIES),
            "font": {"color": theme.ink, "size": 12, "family": "system-ui, -apple-system, 'Segoe UI', sans-serif"},
            "xaxis": axis,
            "yaxis": axis,
            "coloraxis": {
                "colorscale": _scale(theme.scale),
                "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 1, "tickfont": {"color": theme.muted}},
            },
            "coloraxis2": {
                "colorscale": _scale(theme.sequential),
                "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 1, "tickfont": {"color": theme.muted}},
            },
            "hoverlabel": {
                "bgcolor": theme.ground,
                "bordercolor": theme.grid,
                "font": {"color": theme.ink},
                "align": "left",
            },
            "annotationdefaults": {"font": {"color": theme.muted, "size": 11}, "showarrow": False},
            "shapedefaults": {"fillcolor": theme.empty, "line": {"color": theme.muted, "width": 1}},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": theme.muted, "activecolor": theme.ink},
        },
    }


def _scale(colours: Sequence[str]) -> list[list[float | str]]:
    return [[position / (len(colours) - 1), colour] for position, colour in enumerate(colours)]


@functools.singledispatch
def as_plotly(figure: Figure) -> Json:
    """``data`` and ``layout`` of a figure; the layout's height is in px, its width is the page's.

    Raises:
        TypeError: this is no figure.
    """
    raise TypeError(f"no figure: {figure!r}")


as_plotly.register(Curves, draw_curves)
as_plotly.register(Scatter, draw_scatter)
as_plotly.register(Parallel, draw_parallel)


@as_plotly.register
def _heat(figure: Heat) -> Json:
    """A cell that counts neither way has no value for plotly, so that no colour can speak for or against it."""
    rows, columns = range(len(figure.rows)), range(len(figure.columns))
    plain = figure.marked | {(r, c) for r in rows for c in figure.uncoloured}
    cells = [[None if (r, c) in plain else rounded(figure.values[r][c]) for c in columns] for r in rows]
    small = len(rows) * len(columns) <= _MOST_TEXT
    axis = "coloraxis2" if figure.good == "neither" else "coloraxis"
    trace: Json = {
        "type": "heatmap",
        "z": cells,
        "x": [plain_text(name) for name in figure.columns],
        "y": [plain_text(name) for name in figure.rows],
        "coloraxis": axis,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "text": shown_numbers(cells),
        "hovertemplate": "%{y}<br>%{x}: <b>%{text}</b><extra></extra>",
        **({"texttemplate": "%{text}"} if small else {}),
    }
    boxes = [
        {"type": "rect", "layer": "below", "line": {"width": 0}}
        | {"x0": c - 0.48, "x1": c + 0.48, "y0": r - 0.46, "y1": r + 0.46}
        for r in rows
        for c in columns
        if cells[r][c] is None
    ]
    notes = [
        {"x": c, "y": r, "text": plain_text(f"({format_number(value)})"), "hovertext": "attack failed"}
        if (r, c) in figure.marked
        else {"x": c, "y": r, "text": plain_text(format_number(value))}
        for r, c in sorted(plain)
        if (value := figure.values[r][c]) is not None
    ]
    scale = {"reversescale": figure.good == "low", "cmin": figure.low, "cmax": figure.high}
    return make_figure(
        [trace],
        height=110 + _ROW * len(rows),
        **{axis: {name: value for name, value in scale.items() if value is not None}},
        shapes=boxes,
        annotations=notes,
        xaxis={
            "side": "top",
            "showgrid": False,
            "type": "category",
            "fixedrange": True,
            "tickangle": 0,
            **_ticks(figure.columns, _COLUMN_LABEL),
        },
        yaxis={
            "autorange": "reversed",
            "showgrid": False,
            "type": "category",
            "fixedrange": True,
            **_ticks(figure.rows, _ROW_LABEL),
        },
    )


def _ticks(labels: Sequence[str], width: int) -> Json:
    """Names of categories in lines of a few characters."""
    lines = [[plain_text(line) for line in textwrap.wrap(label, width)] for label in labels]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": ["<br>".join(part) for part in lines],
    }


@as_plotly.register
def _bars(figure: Bars) -> Json:
    """Lying bars: names are long, and a phone is narrow."""
    traces = []
    for number, (name, values) in enumerate(zip(figure.groups, figure.values, strict=True)):
        trace: Json = {
            "type": "bar",
            "orientation": "h",
            "name": plain_text(name),
            "x": [rounded(value) for value in values],
            "y": [plain_text(label) for label in figure.labels],
            "marker": {"color": SERIES[number % len(SERIES)]},
            "hovertemplate": f"%{{y}}: <b>%{{x:.3g}}</b><extra>{template_text(name)}</extra>",
        }
        if figure.low is not None and figure.high is not None:
            trace["error_x"] = _interval(values, figure.low[number], figure.high[number])
        traces.append(trace)
    bars = len(figure.labels) * len(figure.groups)
    return make_figure(
        traces,
        height=110 + max(16 * bars, 26 * len(figure.labels)),
        barmode="group",
        showlegend=len(figure.groups) > 1,
        xaxis=make_axis(figure.x_label, "linear"),
        yaxis={"autorange": "reversed", "type": "category", "showgrid": False},
    )


def _interval(values: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]) -> Json:
    """Ends of intervals as distances from the bars' ends."""
    above = [None if v is None or end is None else rounded(end - v) for v, end in zip(values, high, strict=True)]
    below = [None if v is None or end is None else rounded(v - end) for v, end in zip(values, low, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}


@as_plotly.register
def _contour(figure: Contour) -> Json:
    trace = {
        "type": "heatmap",
        "z": [[rounded(value) for value in row] for row in figure.values],
        "text": shown_numbers(figure.values),
        "x": _names(figure.x),
        "y": _names(figure.y),
        "coloraxis": "coloraxis2",
        "hoverongaps": False,
        "hovertemplate": f"{template_text(figure.x_label)} %{{x}}<br>{template_text(figure.y_label)} %{{y}}: "
        "<b>%{text}</b><extra></extra>",
    }
    return make_figure(
        [trace, *_singled_out(figure)],
        showlegend=bool(figure.at),
        coloraxis2={"colorbar": {"title": {"text": plain_text(figure.value_label), "side": "right"}, "thickness": 10}},
        xaxis=make_axis(figure.x_label, "category") | {"showgrid": False},
        yaxis=make_axis(figure.y_label, "category") | {"showgrid": False},
    )


def _singled_out(figure: Contour) -> list[Json]:
    """Single points; each lies on the cell that is nearest to it, since the axes name cells."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": plain_text(label),
            "x": [_nearest(x, figure.x)],
            "y": [_nearest(y, figure.y)],
            "marker": {"color": SERIES[(number + 1) % len(SERIES)], "size": 12, "symbol": "diamond"},
            "hovertemplate": f"{template_text(label)}<extra></extra>",
        }
        for number, (x, y, label) in enumerate(figure.at)
    ]


def _names(places: Sequence[AxisValue]) -> list[str]:
    """Names of cells; with more digits where three do not tell them apart."""
    names = [format_value(at) for at in places]
    if len(set(names)) < len(names):
        names = [f"{at:.6g}" if isinstance(at, float) else str(at) for at in places]
    return [plain_text(name) for name in names]


def _nearest(at: AxisValue, places: Sequence[AxisValue]) -> str:
    """The name of the cell that a point lies on."""
    numbers = [place for place in places if not isinstance(place, str)]
    if isinstance(at, str) or not numbers:
        return plain_text(str(at))
    place = min(numbers, key=lambda number: abs(number - at))
    return _names(places)[list(places).index(place)]
