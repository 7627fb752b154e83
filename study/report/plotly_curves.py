"""Lines over one axis as plotly draws them, with the single measurements behind them."""

import math
from collections.abc import Sequence

from study.report.elements import AxisValue, Curves, Line
from study.report.plotly_parts import (
    Json,
    category_axis,
    make_axis,
    make_figure,
    plain_text,
    rounded,
    see_through,
    template_text,
)
from study.report.theme import series_style

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "cross")
_BESIDE = 0.04  # of an axis, beyond the outermost place on it
_RIGHT = 0.6  # of an axis: a label beyond stands to the left of its line, or it would leave the figure


def draw_curves(figure: Curves) -> Json:
    """A line, or marks alone, for each series, and upright lines at single places."""
    options = figure.named_places()
    traces = [trace for number, line in enumerate(figure.lines) for trace in _traces(line, number)]
    places = [_position(at, options, figure.x_log) for at in figure.all_places()]
    ends = (-0.5, len(options) - 0.5) if options else _ends(places)
    if options:
        axis = category_axis(figure.x_label, options)
    else:
        axis = make_axis(figure.x_label, "log" if figure.x_log else "linear", ends)
    upright = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot", "width": 1.5}}
    # A shape lies at a place's value even on a logarithmic axis, where all else is given as an exponent.
    at_lines = [options.index(str(at)) if options else _short(at) for at, _ in figure.at]
    return make_figure(
        traces,
        shapes=[upright | {"x0": at, "x1": at} for at in at_lines],
        annotations=[_label(_position(at, options, figure.x_log), label, ends) for at, label in figure.at],
        showlegend=len(figure.lines) > 1 and figure.legend,
        hovermode="closest",
        xaxis=axis | {"range": list(ends)},
        yaxis=make_axis(figure.y_label, "linear") | ({"range": list(figure.y_range)} if figure.y_range else {}),
    )


def _traces(line: Line, number: int) -> list[Json]:
    """A band, single measurements and the line through their means, where there are any."""
    colour, style = series_style(number if line.series is None else line.series)
    traces = [] if line.low is None or line.high is None else [_band(line, colour)]
    trace = {
        "type": "scatter",
        "name": plain_text(line.label),
        "legendgroup": str(number),
        "line": {"color": colour, "width": 2, "dash": _DASHES[style % len(_DASHES)]},
        "marker": {"color": colour, "size": 5, "symbol": _SYMBOLS[style % len(_SYMBOLS)]},
        "hovertemplate": f"%{{x}}: <b>%{{y:.4g}}</b><extra>{template_text(line.label)}</extra>",
    }
    if line.points:
        x, y = zip(*line.points, strict=True)
        single = {"mode": "markers", "opacity": 0.45, "showlegend": not line.x}
        traces.append(trace | single | {"x": list(map(_short, x)), "y": list(map(rounded, y))})
    if line.x:
        mode = "lines+markers" if len(line.x) <= 30 else "lines"
        traces.append(trace | {"mode": mode, "x": list(map(_short, line.x)), "y": list(map(rounded, line.y))})
    return traces


def _short(at: AxisValue) -> AxisValue:
    """A place as it stands in a trace: a name as plain text, a number with five digits."""
    return plain_text(at) if isinstance(at, str) else float(f"{at:.5g}")


def _position(at: AxisValue, options: Sequence[str], logarithmic: bool) -> float:
    """Where a place lies on its axis: the exponent on a logarithmic one, and an option at its number.

    Plotly takes the name "3" in a shape or a label for a position.
    """
    if options:
        return options.index(str(at))
    value = float(at)
    return math.log10(value) if logarithmic and value > 0 else value


def _ends(places: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis of numbers, given since a label would stretch an axis that finds its own."""
    low, high = min(places, default=0.0), max(places, default=1.0)
    room = _BESIDE * (high - low) or 0.5
    return low - room, high + room


def _label(at: float, text: str, ends: tuple[float, float]) -> Json:
    """The name of an upright line, beside its upper end and inside the figure."""
    right = (at - ends[0]) / (ends[1] - ends[0]) > _RIGHT
    top = {"y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right" if right else "left"}
    return {"x": float(f"{at:.5g}"), "text": plain_text(text), **top}


def _band(line: Line, colour: str) -> Json:
    low, high = list(line.low or ()), list(line.high or ())
    x = list(map(_short, line.x))
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [rounded(value) for value in (*low, *reversed(high))],
        "fill": "toself",
        "fillcolor": see_through(colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
