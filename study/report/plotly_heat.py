"""Numbers on a grid as plotly draws them: by two names, and over two hyperparameters."""

import re
from collections.abc import Iterable, Sequence

from study.cli.numbers import format_number, format_value
from study.report.elements import MOST_ACROSS, AxisValue, Contour, Heat
from study.report.plotly_parts import (
    Json,
    category_axis,
    make_figure,
    plain_text,
    rounded,
    shown_numbers,
    template_text,
)
from study.report.theme import SERIES

_ROW, _MOST_TEXT = 32, 400  # px a row; cells with numbers in them
_COLUMN_LABEL, _UPRIGHT_LABEL, _ROW_LABEL = 10, 24, 20  # characters a line of names: across, upright, and of rows
_ACROSS, _UPRIGHT = 62, 46  # px a column: for its name, or for the number in a cell
_ROW_NAMES = 150  # px beside the columns, for names of rows and the colours' scale
_TEXT, _LETTER = 11, 7  # px: size of the numbers in cells, and a letter of a name on average
_BREAK = re.compile(r"(?<=[ _/-])")


def heat_width(figure: Heat) -> int:
    """The px that its names and numbers need beside one another."""
    return _ROW_NAMES + (_UPRIGHT if _is_upright(figure) else _ACROSS) * len(figure.columns)


def _is_upright(figure: Heat) -> bool:
    return len(figure.columns) > MOST_ACROSS


def draw_heat(figure: Heat) -> Json:
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
        # By itself plotly makes them as small as they must be to fit.
        **({"texttemplate": "%{text}", "textfont": {"size": _TEXT}} if small else {}),
    }
    notes = [
        {"x": c, "y": r, "text": plain_text(f"({format_number(value)})"), "hovertext": "attack failed"}
        if (r, c) in figure.marked
        else {"x": c, "y": r, "text": plain_text(format_number(value))}
        for r, c in sorted(plain)
        if (value := figure.values[r][c]) is not None
    ]
    scale = {"reversescale": figure.good == "low", "cmin": figure.low, "cmax": figure.high}
    fixed: Json = {"showgrid": False, "type": "category", "fixedrange": True}
    return make_figure(
        [trace],
        height=110 + _ROW * len(rows) + _room_above(figure),
        **{axis: {name: value for name, value in scale.items() if value is not None}},
        shapes=_empty_cells(cells, 0.48, 0.46),
        annotations=notes,
        xaxis={"side": "top", **fixed, **_column_names(figure)},
        yaxis={"autorange": "reversed", **fixed, **_ticks(figure.rows, _ROW_LABEL)},
    )


def _column_names(figure: Heat) -> Json:
    if _is_upright(figure):
        return {"tickangle": -90, **_ticks(figure.columns, _UPRIGHT_LABEL)}
    return {"tickangle": 0, **_ticks(figure.columns, _COLUMN_LABEL)}


def _room_above(figure: Heat) -> int:
    """The px that names take which stand upright, beyond what those across take."""
    lines = [line for name in figure.columns for line in name_lines(name, _UPRIGHT_LABEL)]
    return _LETTER * max(map(len, lines), default=0) if _is_upright(figure) else 0


def _empty_cells(cells: Sequence[Sequence[float | None]], half_width: float, half_height: float) -> list[Json]:
    """A grey box below each cell without a value, which would else look like the ground, or like a low value."""
    return [
        {"type": "rect", "layer": "below", "line": {"width": 0}}
        | {"x0": c - half_width, "x1": c + half_width, "y0": r - half_height, "y1": r + half_height}
        for r, row in enumerate(cells)
        for c, value in enumerate(row)
        if value is None
    ]


def _ticks(labels: Sequence[str], width: int) -> Json:
    """Names of categories in lines of a few characters."""
    lines = [[plain_text(line) for line in name_lines(label, width)] for label in labels]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": ["<br>".join(part) for part in lines],
    }


def name_lines(name: str, width: int) -> list[str]:
    """A name in lines of at most as many characters where it has places to break: behind a space, ``_``, ``-``, ``/``.

    A part without such a place stays whole.
    """
    lines = [""]
    for part in _BREAK.split(name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def draw_contour(figure: Contour) -> Json:
    """The mean at each place in a colour; places without a trial are grey."""
    x, y = _names(figure.x), _names(figure.y)
    trace = {
        "type": "heatmap",
        "z": [[rounded(value) for value in row] for row in figure.values],
        "text": shown_numbers(figure.values),
        "x": list(map(plain_text, x)),
        "y": list(map(plain_text, y)),
        "coloraxis": "coloraxis2",
        "hoverongaps": False,
        "hovertemplate": f"{template_text(figure.x_label)} %{{x}}<br>{template_text(figure.y_label)} %{{y}}: "
        "<b>%{text}</b><extra></extra>",
    }
    low, high = figure.colour_ends()
    bar = {"title": {"text": plain_text(figure.value_label), "side": "right"}, "thickness": 10}
    return make_figure(
        [trace, *_singled_out(figure, x, y)],
        showlegend=bool(figure.at),
        shapes=_empty_cells(figure.values, 0.5, 0.5),
        coloraxis2={"colorbar": bar, "cmin": rounded(low), "cmax": rounded(high)},
        xaxis=_cells_axis(figure.x_label, x),
        yaxis=_cells_axis(figure.y_label, y),
    )


def _cells_axis(label: str, names: Sequence[str]) -> Json:
    """An axis of cells; its ends are given, since plotly's own leave room for what is drawn at single points."""
    return category_axis(label, names) | {"showgrid": False, "range": [-0.5, len(names) - 0.5]}


def _singled_out(figure: Contour, x: Sequence[str], y: Sequence[str]) -> Iterable[Json]:
    """Single points, each on the cell that it belongs to."""
    for number, (across, up, label) in enumerate(figure.at):
        column, row = figure.cell_of(across, up)
        yield {
            "type": "scatter",
            "mode": "markers",
            "name": plain_text(label),
            "x": [plain_text(x[column])],
            "y": [plain_text(y[row])],
            "marker": {"color": SERIES[(number + 1) % len(SERIES)], "size": 12, "symbol": "diamond"},
            "hovertemplate": f"{template_text(label)}<extra></extra>",
        }


def _names(places: Sequence[AxisValue]) -> list[str]:
    """Names of cells; with more digits where three do not tell them apart."""
    names = [format_value(at) for at in places]
    if len(set(names)) < len(names):
        names = [f"{at:.6g}" if isinstance(at, float) else str(at) for at in places]
    return names
