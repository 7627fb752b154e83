"""Figures as plotly draws them in a page. Only this file and `plotly_*` know plotly.

A figure is given as plotly's JSON and holds no colour that differs between light and dark: the page adds the template
of the theme that its reader's device asks for. Names come from anywhere, and plotly reads a little HTML in every text,
so all of them are escaped here.
"""

import functools
import re
from collections.abc import Sequence

from study.report.elements import Bars, Contour, Curves, Figure, Heat, Parallel, Scatter
from study.report.plotly_curves import draw_curves
from study.report.plotly_heat import draw_contour, draw_heat, heat_width
from study.report.plotly_parts import (
    Json,
    make_axis,
    make_figure,
    plain_text,
    rounded,
    template_text,
)
from study.report.plotly_trials import draw_parallel, draw_scatter
from study.report.theme import SERIES, Theme

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")

_AXIS_WIDTH = 84  # px that one of several axes needs


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


def least_width(figure: Figure) -> int:
    """The px that a figure needs, or 0: a narrower screen scrolls it."""
    if isinstance(figure, Heat):
        return heat_width(figure)
    return _AXIS_WIDTH * len(figure.axes) if isinstance(figure, Parallel) else 0


as_plotly.register(Heat, draw_heat)
as_plotly.register(Contour, draw_contour)
as_plotly.register(Curves, draw_curves)
as_plotly.register(Scatter, draw_scatter)
as_plotly.register(Parallel, draw_parallel)


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
