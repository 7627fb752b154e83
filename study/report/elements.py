"""What an answer is made of: sections of notes, tables and figures, as data. How they look is decided elsewhere.

A topic (importance, curves, hold-out ...) gives sections; `study.report.text`, `.html` and `.png` show them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Cell = str | float | int | None
"""A cell of a table; None is undefined and shown as a dash."""
AxisValue = float | str
"""A place on an axis: a number, or the name of an option."""


def slug(text: str) -> str:
    """Text as part of a name: its spaces, dots and underscores as hyphens."""
    return text.translate(str.maketrans(" ._", "---"))


@dataclass(frozen=True)
class Note:
    """A sentence or two.

    Attributes:
        kind: ``warning`` for what limits the answer.
    """

    text: str
    kind: Literal["plain", "warning", "footnote"] = "plain"


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        name: for links and files: letters, digits, ``-`` and ``_``; unique on a page.
        left: leading columns that are aligned left; the rest hold numbers.
        strong: positions of the rows that a reader should see first.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int = 1
    strong: tuple[int, ...] = ()


@dataclass(frozen=True)
class Heat:
    """Numbers by two names.

    Attributes:
        values: ``values[row][column]``; None is left empty.
        low, high: ends of the colour scale; None where the values decide.
        good: which end is good, for the colours; ``neither`` for a scale from little to much.
        marked: (row, column) of cells that count neither way, such as a failed attack's.
        uncoloured: columns that are there to compare with, such as the undefended model's: no colour calls them good or
            bad.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float | None = 0.0
    high: float | None = 1.0
    good: Literal["low", "high", "neither"] = "high"
    marked: frozenset[tuple[int, int]] = frozenset()
    uncoloured: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        low, high: a band around it, of the same length; None for no band.
        points: single measurements (x, y) behind the line, in its colour; where there is no line (x and y are empty),
            they alone are drawn.
    """

    label: str
    x: tuple[AxisValue, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    points: tuple[tuple[AxisValue, float], ...] = ()


@dataclass(frozen=True)
class Curves:
    """Lines over one axis.

    Attributes:
        at: (place, label) of vertical lines, such as the paper's default.
        y_range: ends of the vertical axis; None where the lines decide.
        legend: whether lines are named beside it; of several figures with the same lines the first is enough.
    """

    name: str
    caption: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_log: bool = False
    at: tuple[tuple[AxisValue, str], ...] = ()
    y_range: tuple[float, float] | None = None
    legend: bool = True


@dataclass(frozen=True)
class Bars:
    """Bars with intervals, in groups of one colour.

    Attributes:
        values: ``values[group][label]``; None is left out. low, high: ends of their intervals, likewise.
    """

    name: str
    caption: str
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: tuple[tuple[float | None, ...], ...] | None = None
    high: tuple[tuple[float | None, ...], ...] | None = None
    x_label: str = ""


@dataclass(frozen=True)
class Point:
    """A point of a figure; points of a group share a colour."""

    label: str
    group: str
    x: float
    y: float


@dataclass(frozen=True)
class Scatter:
    """Points, and a line through some of them (a Pareto front)."""

    name: str
    caption: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    front: tuple[tuple[float, float], ...] = ()
    x_log: bool = False


@dataclass(frozen=True)
class Contour:
    """A number over two hyperparameters, on a grid of places.

    Attributes:
        values: ``values[row][column]`` at (x[column], y[row]); None where no trial lies.
        at: (x, y, label) of single points, such as the paper's default.
    """

    name: str
    caption: str
    x_label: str
    y_label: str
    x: tuple[AxisValue, ...]
    y: tuple[AxisValue, ...]
    values: tuple[tuple[float | None, ...], ...]
    value_label: str
    at: tuple[tuple[AxisValue, AxisValue, str], ...] = ()


Figure = Heat | Curves | Bars | Scatter | Contour
Item = Note | Table | Figure


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        name: for links: letters, digits and ``-``; unique on a page.
        lead: the answer in a sentence or two, for those who read no further.
        command: what makes it anew.
        answered: whether the study can tell; of one that cannot, the lead says why, and pages give it one line.
        uses_labels: what it tells takes ground truth, which a defender does not have; shown as a badge.
    """

    name: str
    title: str
    lead: str
    items: tuple[Item, ...] = field(default=())
    command: str = ""
    answered: bool = True
    uses_labels: bool = False

    def figures(self) -> Iterator[Figure]:
        """Its figures."""
        return (item for item in self.items if not isinstance(item, Note | Table))
