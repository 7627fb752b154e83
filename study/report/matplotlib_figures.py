"""Figures as PNG files, for MLflow, papers and markdown. Drawn without a window system and without global state."""

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from study.cli.numbers import format_number, format_value
from study.report.elements import (
    LONG_AXIS,
    MOST_ACROSS,
    AxisValue,
    Bars,
    Contour,
    Curves,
    Figure,
    Heat,
    Parallel,
    Scatter,
)
from study.report.theme import LIGHT, SERIES, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_WIDTH, _ROW, _DPI = 7.0, 0.28, 110  # inches, inches a row, dots an inch
_WRAP = 95  # characters of a caption's line
_MOST_TEXT = 400  # cells with numbers in them
_LABEL = 16  # characters a line of a column's name
_COLUMN, _LETTER = 0.42, 0.07  # inches a column of a heat map, and a letter of a name that stands upright
_DASHES, _MARKERS = ("-", "--", ":", "-."), ("o", "s", "D", "P")  # of lines of one colour


def png(figure: Figure) -> bytes:
    """A figure with its caption."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(_width(figure), _height(figure)), dpi=_DPI, facecolor=LIGHT.ground, layout="constrained")
    axes = canvas.subplots()
    axes.tick_params(colors=LIGHT.ink, length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(LIGHT.grid)
    _DRAW[type(figure)](figure, axes, canvas)
    canvas.suptitle(_plain(_wrapped(figure.caption)), fontsize=8, color=LIGHT.muted, x=0.01, ha="left")
    content = io.BytesIO()
    canvas.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _width(figure: Figure) -> float:
    return max(_WIDTH, 2 + _COLUMN * len(figure.columns)) if isinstance(figure, Heat) else _WIDTH


def _height(figure: Figure) -> float:
    if isinstance(figure, Heat):
        upright = _LETTER * max(map(len, figure.columns)) if len(figure.columns) > MOST_ACROSS else 0
        return 1.1 + _ROW * len(figure.rows) + upright
    if isinstance(figure, Bars):
        return 1.1 + _ROW * max(len(figure.labels), 0.6 * len(figure.labels) * len(figure.groups))
    return 4.2


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WRAP))


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _map(colours: Sequence[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("own", list(colours)).with_extremes(bad=LIGHT.empty)


def _heat(figure: Heat, axes: "Axes", canvas: "Canvas") -> None:
    import numpy as np

    values = np.array([[np.nan if v is None else v for v in row] for row in figure.values], dtype=float)
    coloured = values.copy()
    for row, column in figure.marked:
        coloured[row, column] = np.nan
    coloured[:, list(figure.uncoloured)] = np.nan
    one_good_end = LIGHT.scale if figure.good == "high" else LIGHT.scale[::-1]
    scale = LIGHT.sequential if figure.good == "neither" else one_good_end
    drawn = axes.pcolormesh(
        np.ma.masked_invalid(coloured),
        cmap=_map(scale),
        vmin=figure.low,
        vmax=figure.high,
        edgecolors=LIGHT.ground,
        linewidth=1.5,
    )
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    if len(figure.columns) > MOST_ACROSS:
        _name(axes, figure.columns, figure.rows)
        axes.tick_params(axis="x", labelrotation=90)
    else:
        _name(axes, ["\n".join(textwrap.wrap(name, _LABEL)) for name in figure.columns], figure.rows)
    if values.size <= _MOST_TEXT:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                marked = (row, column) in figure.marked
                text = f"({format_number(value)})" if marked else format_number(value)
                plain = marked or column in figure.uncoloured
                dark = not plain and _is_dark(drawn.to_rgba(value))
                colour = LIGHT.muted if plain else LIGHT.ground if dark else LIGHT.ink
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    _colorbar(canvas, drawn, axes)


def _is_dark(colour: Any) -> bool:
    red, green, blue = colour[:3]
    return bool(0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5)


def _name(axes: "Axes", columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xticks([at + 0.5 for at in range(len(columns))], [_plain(name) for name in columns])
    axes.set_yticks([at + 0.5 for at in range(len(rows))], [_plain(name) for name in rows])


def _colorbar(canvas: "Canvas", drawn: Any, axes: "Axes", label: str = "") -> None:
    bar = canvas.colorbar(drawn, ax=axes, pad=0.01, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=0, colors=LIGHT.muted)
    bar.set_label(_plain(label), fontsize=8, color=LIGHT.muted)


def _label(axes: "Axes", x: str, y: str = "") -> None:
    axes.set_xlabel(_plain(x), fontsize=9, color=LIGHT.ink)
    axes.set_ylabel(_plain(y), fontsize=9, color=LIGHT.ink)
    axes.grid(color=LIGHT.grid, linewidth=0.6)
    axes.set_axisbelow(True)


def _logarithmic(axes: "Axes") -> None:
    """Plain numbers at 1, 2 and 5 of every power of ten; on a long axis at the powers alone."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    long = high > low * 10**LONG_AXIS
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if long else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: "Axes") -> None:
    # Beside the axes: the best place among many lines takes longer to find than the figure to draw.
    axes.legend(fontsize=8, frameon=False, labelcolor=LIGHT.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _curves(figure: Curves, axes: "Axes", canvas: "Canvas") -> None:
    options = figure.named_places()

    def where(at: AxisValue) -> float:
        return float(options.index(str(at)) if options else at)

    for number, line in enumerate(figure.lines):
        colour, style = series_style(number if line.series is None else line.series)
        x = [where(at) for at in line.x]
        mark = _MARKERS[style % len(_MARKERS)]
        axes.plot(
            x,
            line.y,
            color=colour,
            linestyle=_DASHES[style % len(_DASHES)],
            marker=mark if len(x) <= 30 else "",
            markersize=3,
            linewidth=1.5,
            label=_plain(line.label),
        )
        single = [where(at) for at, _ in line.points]
        axes.scatter(single, [y for _, y in line.points], s=8, color=colour, marker=mark, alpha=0.45)
        if line.low is not None and line.high is not None:
            axes.fill_between(x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    if options:
        axes.set_xticks(range(len(options)), list(map(_plain, options)))
        axes.set_xlim(-0.5, len(options) - 0.5)
    elif figure.x_log:
        _logarithmic(axes)
    if figure.y_range is not None:
        axes.set_ylim(figure.y_range)
    for at, label in figure.at:
        axes.axvline(where(at), color=LIGHT.muted, linestyle=":", linewidth=1)
        axes.annotate(
            _plain(label), (where(at), 1), xycoords=("data", "axes fraction"), fontsize=7, color=LIGHT.muted, va="top"
        )
    _label(axes, figure.x_label, figure.y_label)
    if len(figure.lines) > 1:
        _legend(axes)


def _bars(figure: Bars, axes: "Axes", canvas: "Canvas") -> None:
    thick = 0.8 / max(1, len(figure.groups))
    for number, (name, values) in enumerate(zip(figure.groups, figure.values, strict=True)):
        known = [at for at, value in enumerate(values) if value is not None]
        at = [position - 0.4 + thick * (number + 0.5) for position in known]
        lengths = [values[position] or 0.0 for position in known]
        axes.barh(at, lengths, height=thick, color=SERIES[number % len(SERIES)], label=_plain(name))
        if figure.low is not None and figure.high is not None:
            ends = [
                (place_, low, high)
                for place_, position in zip(at, known, strict=True)
                if (low := figure.low[number][position]) is not None
                and (high := figure.high[number][position]) is not None
            ]
            for place_, low, high in ends:
                axes.plot([low, high], [place_, place_], color=LIGHT.ink, linewidth=1)
    axes.set_yticks(range(len(figure.labels)), [_plain(label) for label in figure.labels])
    axes.invert_yaxis()
    _label(axes, figure.x_label)
    if len(figure.groups) > 1:
        _legend(axes)


def _scatter(figure: Scatter, axes: "Axes", canvas: "Canvas") -> None:
    from matplotlib.ticker import MaxNLocator

    groups = list(dict.fromkeys(point.group for point in figure.points))
    for number, name in enumerate(groups):
        points = [point for point in figure.points if point.group == name]
        few = len(points) <= 3
        axes.scatter(
            [point.x for point in points],
            [point.y for point in points],
            s=60 if few else 12,
            marker=("D", "*", "s", "P")[number % 4] if few else "o",
            alpha=1 if few else 0.6,
            color=SERIES[number % len(SERIES)],
            label=_plain(name),
            zorder=3 if few else 2,
        )
    if figure.front:
        x, y = zip(*figure.front, strict=True)
        steps = "steps-post" if figure.stepped else "default"
        axes.plot(x, y, color=SERIES[3], linewidth=1.5, label=_plain(figure.front_label), drawstyle=steps, zorder=1)
    if figure.x_log:
        _logarithmic(axes)
    if figure.x_whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if figure.x_range is not None:
        axes.set_xlim(figure.x_range)
    if figure.y_range is not None:
        axes.set_ylim(figure.y_range)
    _label(axes, figure.x_label, figure.y_label)
    _legend(axes)


def _contour(figure: Contour, axes: "Axes", canvas: "Canvas") -> None:
    import numpy as np

    values = np.array([[np.nan if v is None else v for v in row] for row in figure.values], dtype=float)
    low, high = figure.colour_ends()
    drawn = axes.pcolormesh(np.ma.masked_invalid(values), cmap=_map(LIGHT.sequential), vmin=low, vmax=high)
    _name(axes, [format_value(at) for at in figure.x], [format_value(at) for at in figure.y])
    axes.tick_params(axis="x", labelrotation=45)
    for number, (x, y, label) in enumerate(figure.at):
        column, row = figure.cell_of(x, y)
        axes.plot(column + 0.5, row + 0.5, "D", color=SERIES[(number + 1) % len(SERIES)], label=_plain(label))
    _label(axes, figure.x_label, figure.y_label)
    axes.grid(visible=False)
    if figure.at:
        _legend(axes)
    _colorbar(canvas, drawn, axes, figure.value_label)


def _parallel(figure: Parallel, axes: "Axes", canvas: "Canvas") -> None:
    marked = dict(figure.marked)
    positions = range(len(figure.axes))
    heights = [[axis.share(at) for axis, at in zip(figure.axes, line, strict=True)] for line in figure.places]
    for number, line in enumerate(heights):
        if number not in marked:
            good = line[-1] if figure.good == "high" else 1 - line[-1]
            axes.plot(positions, line, color=SERIES[0], alpha=0.12 + 0.7 * good, linewidth=1)
    for at, (number, name) in enumerate(marked.items()):
        dashed = "--" if at < len(marked) - 1 else "-"
        axes.plot(positions, heights[number], dashed, color=SERIES[at + 1], linewidth=2.2, label=_plain(name))
    for at, axis in enumerate(figure.axes):
        axes.axvline(at, color=LIGHT.muted, linewidth=0.8)
        for tick in axis.named:
            text = _plain(format_value(tick))
            axes.annotate(text, (at + 0.03, axis.share(tick)), fontsize=7, color=LIGHT.muted, va="center")
    axes.set_xticks(list(positions), [_plain(axis.label.replace(" ", "\n", 1)) for axis in figure.axes])
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    if marked:
        _legend(axes)


_DRAW: dict[type, Callable[..., None]] = {
    Heat: _heat,
    Curves: _curves,
    Bars: _bars,
    Scatter: _scatter,
    Contour: _contour,
    Parallel: _parallel,
}
