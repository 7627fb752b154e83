"""How cells, spreads and figures are put into words; how a number is, `study.cli.numbers` says."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from study.cli.numbers import format_number, format_value
from study.report.elements import Bars, Cell, Contour, Curves, Figure, Heat, Parallel, Scatter, Table

if TYPE_CHECKING:
    import pandas

_HALF = 0.005  # of a share; what is smaller is rounded to zero, which has no sign
_ROWS = 60  # of a figure's table; the figure shows all


def format_cell(cell: Cell) -> str:
    """A cell for people; a dash where it is undefined, which pandas says with NaN."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    return format_number(cell) if isinstance(cell, float) else str(cell)


def format_difference(value: float) -> str:
    """A difference, with its sign; a small one is ``<+0.001`` or ``>-0.001``."""
    shown = format_number(value)
    if shown.startswith("<"):
        return f"<+{shown[1:]}"
    return shown if shown.startswith(("-", ">")) else f"+{shown}"


def format_share(value: float) -> str:
    """A share of variance or a rank correlation, which trials estimate: more than two decimals would be noise."""
    return f"{0.0 if abs(value) < _HALF else value:.2f}"


def sentence(text: str) -> str:
    """Text that begins a sentence: its first letter large."""
    return text[:1].upper() + text[1:]


def spread(values: "pandas.Series[float]") -> Cell:
    """Several values of one thing: mean ± standard deviation (n - 1); None where nothing is defined.

    Args:
        values: float64 [n]; the seeds of a scenario, or the scenarios of a group.
    """
    known = values.dropna()
    if known.empty:
        return None
    return mean_with_deviation(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None)


def mean_with_deviation(mean: float | None, deviation: float | None) -> Cell:
    """Mean ± standard deviation as text; the mean as a number where there is no deviation."""
    return mean if mean is None or deviation is None else f"{format_number(mean)} ± {format_number(deviation)}"


def spread_cell(mean: float | None, over_seeds: float | None, over_repeats: float | None, seeds: bool) -> Cell:
    """Mean ± standard deviation over poisonings / over repeats of one; without repeats as `mean_with_deviation`.

    Args:
        seeds: of this study there are several, so that what is left out is said with a dash.
    """
    if mean is None or over_repeats is None:
        return mean_with_deviation(mean, over_seeds)
    deviations = [*([format_cell(over_seeds)] if seeds else []), format_number(over_repeats)]
    return f"{format_number(mean)} ± {' / '.join(deviations)}"


def over_what(seeds: int, repeats: int) -> str:
    """What the numbers behind ± are, for a caption: ``mean ± standard deviation over 3 seeds``."""
    if repeats == 1:
        return f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    if seeds == 1:
        return f"One seed; mean ± standard deviation over {repeats} repeats on the same poisoned data"
    return (
        f"Mean ± standard deviation over {seeds} poisonings (seeds) / over {repeats} repeats on the same poisoned data"
    )


def as_table(figure: Figure) -> Table:
    """The numbers of a figure: for those who cannot see it, and where there are no pictures.

    Of many rows the first are given.
    """
    header, content = _CONTENT[type(figure)](figure)
    rows = list(content)
    left = 2 if isinstance(figure, Scatter | Curves) else 1
    left_out = max(0, len(rows) - _ROWS)
    return Table(figure.name, figure.caption, header, tuple(rows[:_ROWS]), left=left, left_out=left_out)


Content = tuple[tuple[str, ...], Iterator[tuple[Cell, ...]]]


def _heat(figure: Heat) -> Content:
    def cell(row: int, column: int) -> Cell:
        value = figure.values[row][column]
        return f"({format_cell(value)})" if (row, column) in figure.marked else value

    columns = range(len(figure.columns))
    rows = ((name, *(cell(row, column) for column in columns)) for row, name in enumerate(figure.rows))
    return ("", *figure.columns), rows


def _curves(figure: Curves) -> Content:
    banded = any(line.low is not None for line in figure.lines)

    def rows() -> Iterator[tuple[Cell, ...]]:
        for line in figure.lines:
            # The trials behind a line are too many for a table, unless there is no line.
            for x, y in line.points if not line.x else ():
                yield (line.label, format_value(x), y, *((None, None) if banded else ()))
            for at, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
                low = None if line.low is None else line.low[at]
                high = None if line.high is None else line.high[at]
                yield (line.label, format_value(x), y, *((low, high) if banded else ()))

    return ("", figure.x_label, figure.y_label, *(("low", "high") if banded else ())), rows()


def _bars(figure: Bars) -> Content:
    def cell(group: int, label: int) -> Cell:
        value = figure.values[group][label]
        if value is None or figure.low is None or figure.high is None:
            return value
        low, high = figure.low[group][label], figure.high[group][label]
        return (
            value if low is None or high is None else f"{format_cell(value)} [{format_cell(low)}, {format_cell(high)}]"
        )

    groups = range(len(figure.groups))
    rows = ((label, *(cell(group, at) for group in groups)) for at, label in enumerate(figure.labels))
    return ("", *figure.groups), rows


def _scatter(figure: Scatter) -> Content:
    """What lies on the front first: it is what the figure is about."""
    front = set(figure.front)
    points = sorted(figure.points, key=lambda point: (point.x, point.y) not in front)
    rows = ((point.label, point.group, point.x, point.y) for point in points)
    return ("", "", figure.x_label, figure.y_label), rows


def _contour(figure: Contour) -> Content:
    rows = ((format_value(y), *values) for y, values in zip(figure.y, figure.values, strict=True))
    return (f"{figure.y_label} \\ {figure.x_label}", *map(format_value, figure.x)), rows


def _parallel(figure: Parallel) -> Content:
    rows = (
        (label, *map(format_value, places[:-1]), places[-1])
        for label, places in zip(figure.labels, figure.places, strict=True)
    )
    return ("", *(axis.label for axis in figure.axes)), rows


_CONTENT: dict[type, Callable[..., Content]] = {
    Heat: _heat,
    Curves: _curves,
    Bars: _bars,
    Scatter: _scatter,
    Contour: _contour,
    Parallel: _parallel,
}
