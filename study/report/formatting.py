"""How cells and figures are put into words: numbers for people, and the table behind a figure."""

import math
from collections.abc import Callable, Iterator

from study.report.elements import AxisValue, Bars, Cell, Contour, Curves, Figure, Heat, Scatter, Table

_ROWS = 60  # of a figure's table; the figure shows all


def format_cell(cell: Cell) -> str:
    """A cell for people: rates with three decimals, a dash where it is undefined."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    if cell == 0 or 0.001 <= abs(cell) < 1000:
        return f"{cell:.3f}"
    return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:.0f}"


def format_axis_value(found: AxisValue) -> str:
    """A place on an axis: three significant digits."""
    return f"{found:.3g}" if isinstance(found, float) else str(found)


def as_table(figure: Figure) -> Table:
    """The numbers of a figure: for those who cannot see it, and where there are no pictures.

    Of many rows the first are given, and the caption says so.
    """
    header, found = _CONTENT[type(figure)](figure)
    rows = list(found)
    caption = figure.caption
    if len(rows) > _ROWS:
        caption = f"{caption} The first {_ROWS} of {len(rows)} rows."
    left = 2 if isinstance(figure, Scatter | Curves) else 1
    return Table(figure.name, caption, header, tuple(rows[:_ROWS]), left=left)


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
            for at, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
                low = None if line.low is None else line.low[at]
                high = None if line.high is None else line.high[at]
                yield (line.label, format_axis_value(x), y, *((low, high) if banded else ()))

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
    rows = ((format_axis_value(y), *values) for y, values in zip(figure.y, figure.values, strict=True))
    return (f"{figure.y_label} \\ {figure.x_label}", *map(format_axis_value, figure.x)), rows


_CONTENT: dict[type, Callable[..., Content]] = {
    Heat: _heat,
    Curves: _curves,
    Bars: _bars,
    Scatter: _scatter,
    Contour: _contour,
}
