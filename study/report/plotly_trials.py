"""Trials as plotly draws them: as points of two numbers, and as lines through the values of all hyperparameters.

Plotly has parallel coordinates of its own, which are drawn by WebGL code that is made from text as the page runs: the
page's policy forbids that. Here they are lines of a plain figure.
"""

from collections.abc import Sequence
from typing import Any

from study.cli.numbers import format_value
from study.report.elements import Axis, Parallel, Point, Scatter
from study.report.formatting import format_cell
from study.report.plotly_parts import Json, make_axis, make_figure, plain_text, rounded, see_through
from study.report.theme import SERIES

_FEW_WHOLE = 8  # between the ends of an axis of whole numbers, so that each of them is named
_FEW = 3  # points of a group that are drawn large
_STEPS = 5  # of colour, from the worst lines to the best
_FAINTEST, _FULL = 0.12, 0.85  # opacity of the worst lines and of the best
_TALL = 340
_BEYOND = 0.06  # of an axis, beside its ends


def draw_scatter(figure: Scatter) -> Json:
    """Points of groups, and the line through some of them."""
    groups = list(dict.fromkeys(point.group for point in figure.points))
    crowd = max(groups, key=lambda name: sum(point.group == name for point in figure.points), default="")
    traces = [_front(figure)] if figure.front else []
    for number, name in enumerate(groups):
        points = [point for point in figure.points if point.group == name]
        traces.append(_group(name, number, points, name == crowd and len(points) > _FEW))
    across = [point.x for point in figure.points]
    # By itself plotly names fractions where few whole numbers lie on an axis, and never where many do.
    few = figure.x_whole and max(across, default=0.0) - min(across, default=0.0) <= _FEW_WHOLE
    return make_figure(
        traces,
        showlegend=True,
        hovermode="closest",
        xaxis=make_axis(figure.x_label, "log" if figure.x_log else "linear")
        | _range(figure.x_range)
        | ({"dtick": 1} if few else {}),
        yaxis=make_axis(figure.y_label, "linear") | _range(figure.y_range),
    )


def _range(ends: tuple[float, float] | None) -> Json:
    return {"range": list(ends)} if ends else {}


def _front(figure: Scatter) -> Json:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain_text(figure.front_label),
        "x": [rounded(x) for x, _ in figure.front],
        "y": [rounded(y) for _, y in figure.front],
        "line": {"color": SERIES[3], "width": 2, "shape": "hv" if figure.stepped else "linear"},
        "hoverinfo": "skip",
    }


def _group(name: str, number: int, points: Sequence[Point], many: bool) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain_text(name),
        "x": [rounded(point.x) for point in points],
        "y": [rounded(point.y) for point in points],
        "text": [plain_text(point.label) for point in points],
        "marker": {
            "color": SERIES[number % len(SERIES)],
            "size": 6 if many else 12,
            "opacity": 0.6 if many else 1,
            "symbol": "circle" if many else ("diamond", "star", "square", "cross")[number % 4],
        },
        "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    }


def draw_parallel(figure: Parallel) -> Json:
    """Lines in as many steps of colour as there are, the better the stronger; the marked ones above them."""
    marked = dict(figure.marked)
    traces = [
        _lines(figure, lines, {"color": see_through(SERIES[0], opacity), "width": 1.2})
        for lines, opacity in _steps(figure, set(marked))
    ]
    for number, (line, name) in enumerate(marked.items()):
        style = {"color": SERIES[number + 1], "width": 3, "dash": "dash" if number < len(marked) - 1 else "solid"}
        traces.append(_lines(figure, [line], style) | {"name": plain_text(name), "showlegend": True})
    positions = range(len(figure.axes))
    axis: Json = {"zeroline": False, "fixedrange": True}
    lowest = min((one.share(None) for one in figure.axes if one.absent), default=0.0)
    return make_figure(
        traces,
        height=_TALL,
        hovermode="closest",
        showlegend=bool(marked),
        shapes=[{"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"width": 1}} for at in positions],
        annotations=[tick for at in positions for tick in _ticks(at, figure.axes[at])],
        xaxis=axis
        | {
            "range": [-0.4, len(figure.axes) - 0.4],
            "showgrid": False,
            "tickmode": "array",
            "tickvals": list(positions),
            "ticktext": [plain_text(axis.label).replace(" ", "<br>", 1) for axis in figure.axes],
        },
        yaxis=axis | {"range": [lowest - _BEYOND, 1 + _BEYOND], "visible": False},
    )


def _steps(figure: Parallel, marked: set[int]) -> list[tuple[list[int], float]]:
    """Lines with their opacity, from the worst to the best; equal ones together."""
    order = _rank(figure)
    steps: dict[int, list[int]] = {}
    for line, rank in order.items():
        if line not in marked:
            steps.setdefault(min(_STEPS - 1, int(rank * _STEPS)), []).append(line)
    return [(steps[step], _FAINTEST + (_FULL - _FAINTEST) * step / (_STEPS - 1)) for step in sorted(steps)]


def _rank(figure: Parallel) -> dict[int, float]:
    """Each line's share of lines that it beats on the last axis."""
    ends: list[Any] = [places[-1] for places in figure.places]
    sign = 1 if figure.good == "high" else -1
    values = sorted(sign * end for end in ends)
    first = {value: at for at, value in reversed(list(enumerate(values)))}
    return {line: first[sign * end] / max(1, len(ends) - 1) for line, end in enumerate(ends)}


def _lines(figure: Parallel, lines: Sequence[int], style: Json) -> Json:
    """One trace; a gap parts each line from the next one."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for line in lines:
        for at, (axis, place) in enumerate(zip(figure.axes, figure.places[line], strict=True)):
            x.append(at)
            y.append(rounded(axis.share(place)))
            shown = format_cell(place) if at == len(figure.axes) - 1 else format_value(place)
            texts.append(plain_text(f"{figure.labels[line]}: {axis.label} {shown}"))
        x.append(None)
        y.append(None)
        texts.append("")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "text": texts,
        "line": style,
        "showlegend": False,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _ticks(at: int, axis: Axis) -> list[Json]:
    """Names of places beside an axis."""
    return [
        {"x": at, "y": axis.share(tick), "text": plain_text(format_value(tick)), "xanchor": "left", "xshift": 3}
        for tick in axis.named
    ]
