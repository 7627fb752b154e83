"""What an answer is made of: sections of notes, tables and figures, as data. How they look is decided elsewhere.

A topic (importance, curves, hold-out ...) gives sections; `study.report.text`, `.html` and `.png` show them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Cell = str | float | int | None
"""A cell of a table; None is undefined and shown as a dash."""
AxisValue = float | str
"""A place on an axis: a number, or the name of an option."""
BELOW = -0.08
"""Where a line passes an axis on which it has no place, as a share of the axis's length."""
LONG_AXIS = 2.5
"""Decades of a logarithmic axis, above which powers of ten alone are named."""
MOST_ACROSS = 8
"""Columns of a heat map whose names stand across; of more they stand upright."""
_LEAST_SCALE = 0.1
"""Of a contour's colours, from the lowest to the highest: smaller differences are not to shout."""


def slug(text: str) -> str:
    """Text as part of a name: its spaces, dots and underscores as hyphens."""
    return text.translate(str.maketrans(" ._", "---"))


@dataclass(frozen=True)
class Note:
    """A sentence or two.

    Attributes:
        kind: ``warning`` for what limits the answer, ``heading`` for the title of what follows.
    """

    text: str
    kind: Literal["plain", "warning", "footnote", "heading"] = "plain"


@dataclass(frozen=True)
class Fact:
    """One number that stands alone.

    Attributes:
        value: the number, or a few of them, as text.
        label: what it is.
        note: what belongs beside it, such as what it is compared with.
    """

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """The numbers that a reader should see first."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        name: for links and files: letters, digits, ``-`` and ``_``; unique on a page.
        left: leading columns that are aligned left; the rest hold numbers.
        strong: positions of the rows that a reader should see first.
        bold: (row, column) of the cells that are best in their row.
        sortable: a page lets its reader sort and filter the rows, and shows many in a box of their own.
        left_out: how many rows more there are, which are not given.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int = 1
    strong: tuple[int, ...] = ()
    bold: frozenset[tuple[int, int]] = frozenset()
    sortable: bool = False
    left_out: int = 0

    @property
    def cut(self) -> str:
        """That these are the first of many rows, as a sentence; empty where they are all."""
        return f"The first {len(self.rows)} of {len(self.rows) + self.left_out} rows." if self.left_out else ""


@dataclass(frozen=True)
class Picture:
    """A picture that is no figure: samples of the data.

    Attributes:
        name: as of a table.
        png: the file's content.
        width, height: in px, as it is to be shown where there is room.
    """

    name: str
    caption: str
    png: bytes = field(repr=False)
    width: int
    height: int


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
        series: the number that decides its colour and dashes, so that one thing looks alike in several figures; None
            for its position in this one.
    """

    label: str
    x: tuple[AxisValue, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    points: tuple[tuple[AxisValue, float], ...] = ()
    series: int | None = None


@dataclass(frozen=True)
class Curves:
    """Lines over one axis.

    Attributes:
        at: (place, label) of vertical lines, such as the paper's default.
        y_range: ends of the vertical axis; None where the lines decide.
        legend: whether lines are named beside it; of several figures with the same lines the first is enough.
        options: the names on an axis of names, in their order; those that are missing follow as lines and points have
            them.
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
    options: tuple[str, ...] = ()

    def all_places(self) -> list[AxisValue]:
        """All places on the axis that something lies at: of lines, then of points, then of upright lines."""
        of_lines = [x for line in self.lines for x in line.x]
        return [*of_lines, *(x for line in self.lines for x, _ in line.points), *(x for x, _ in self.at)]

    def named_places(self) -> tuple[str, ...]:
        """The names on its axis in their order; none on an axis of numbers."""
        places = [*self.options, *self.all_places()]
        return tuple(dict.fromkeys(map(str, places))) if any(isinstance(at, str) for at in places) else ()


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
    """Points, and a line through some of them, such as a Pareto front.

    Attributes:
        front: the line's places, from the left to the right.
        front_label: what the line is.
        stepped: the line keeps its height up to the next place.
        x_range, y_range: ends of the axes; None where the points decide.
        x_whole: between whole numbers there is nothing, so that the axis names none.
    """

    name: str
    caption: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    front: tuple[tuple[float, float], ...] = ()
    x_log: bool = False
    front_label: str = "Pareto front"
    stepped: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_whole: bool = False


@dataclass(frozen=True)
class Axis:
    """One of several axes that stand side by side.

    Attributes:
        ticks: places that are named, ascending; the lowest and the highest are the axis's ends.
        log: distances are those of logarithms; every place is then above zero.
        absent: some lines have no place on it, and pass below its low end, where a dash stands.
    """

    label: str
    ticks: tuple[AxisValue, ...]
    log: bool = False
    absent: bool = False

    @property
    def named(self) -> tuple[AxisValue | None, ...]:
        """The ticks, and None where some lines have no place."""
        return (None, *self.ticks) if self.absent else self.ticks

    def share(self, place: AxisValue | None) -> float:
        """How far up the axis a place lies, from 0 at its low end to 1 at its high one; options lie evenly.

        What has no place lies a little below.
        """
        if place is None:
            return BELOW
        if isinstance(place, str):
            return self.ticks.index(place) / max(1, len(self.ticks) - 1)
        low, high, at = (float(value) for value in (self.ticks[0], self.ticks[-1], place))
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return 0.5 if high <= low else min(1.0, max(0.0, (at - low) / (high - low)))


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: a line for each trial, through its place on every axis.

    Attributes:
        axes: of numbers; or of options, whose names are the ticks. The last one gives the lines their colour.
        labels: of the lines.
        places: ``places[line][axis]``; None where a line has none.
        good: which end of the last axis is good, for the colours.
        marked: (line, name) of lines that are drawn above the others, the most important last.
    """

    name: str
    caption: str
    axes: tuple[Axis, ...]
    labels: tuple[str, ...]
    places: tuple[tuple[AxisValue | None, ...], ...]
    good: Literal["low", "high"] = "high"
    marked: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Contour:
    """A number over two hyperparameters, on a grid of places.

    Attributes:
        values: ``values[row][column]`` at (x[column], y[row]); None where no trial lies.
        at: (x, y, label) of single points, such as the paper's default; where they are names, these are among x and y.
        x_log, y_log: numbers are as near to each other as their logarithms.
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
    x_log: bool = False
    y_log: bool = False

    def cell_of(self, x: AxisValue, y: AxisValue) -> tuple[int, int]:
        """Column and row of the cell that is nearest to a point."""
        return _nearest(x, self.x, self.x_log), _nearest(y, self.y, self.y_log)

    def colour_ends(self) -> tuple[float, float]:
        """Ends of the colours' scale: those of the values, but so far apart that noise does not fill it.

        Shares end at 1, so what is missing is added below them.
        """
        known = [value for row in self.values for value in row if value is not None]
        low, high = min(known, default=0.0), max(known, default=1.0)
        room = max(0.0, _LEAST_SCALE - (high - low)) / 2
        beyond = max(0.0, high + room - 1) if high <= 1 else 0.0
        return low - room - beyond, high + room - beyond


def _nearest(at: AxisValue, places: Sequence[AxisValue], logarithmic: bool) -> int:
    """The position of a name, or of the number that is nearest to another."""
    if isinstance(at, str):
        return list(places).index(at)

    def distance(place: float) -> float:
        return abs(math.log(place / at)) if logarithmic and place > 0 < at else abs(place - at)

    return min((distance(place), number) for number, place in enumerate(places) if not isinstance(place, str))[1]


Figure = Heat | Curves | Bars | Scatter | Contour | Parallel
Item = Note | Facts | Table | Picture | Figure


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        name: for links: letters, digits and ``-``; unique on a page.
        lead: the answer in a sentence or two, for those who read no further.
        command: what makes it anew.
        answered: whether the study can tell; of one that cannot, the lead says why, and pages give it one line.
        uses_labels: what it tells takes ground truth, which a defender does not have; shown as a badge.
        unfolded: pages show it open, as what a reader came for.
    """

    name: str
    title: str
    lead: str
    items: tuple[Item, ...] = field(default=())
    command: str = ""
    answered: bool = True
    uses_labels: bool = False
    unfolded: bool = False

    def figures(self) -> Iterator[Figure]:
        """Its figures."""
        return (item for item in self.items if isinstance(item, Figure))

    def pictures(self) -> Iterator[Picture]:
        """Its pictures."""
        return (item for item in self.items if isinstance(item, Picture))
