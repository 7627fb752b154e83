"""What every figure of plotly is made of here: texts that are no markup, numbers without noise, axes."""

import html
from collections.abc import Sequence
from typing import Any

from study.cli.numbers import format_number, is_noise
from study.report.elements import AxisValue

Json = dict[str, Any]

HEIGHT = 380


def make_figure(traces: list[Json], height: int = HEIGHT, **layout: Any) -> Json:
    """Traces and layout; a figure is as wide as its place."""
    return {"data": traces, "layout": {"height": height, "autosize": True, **layout}}


def plain_text(text: str) -> str:
    """Text in which plotly finds no markup."""
    return html.escape(text, quote=False)


def rounded(value: float | None) -> float | None:
    """Five digits: more would be noise, and a larger page. What arithmetic left of zero is zero."""
    return None if value is None else 0.0 if is_noise(value) else float(f"{value:.5g}")


def shown_numbers(values: Sequence[Sequence[float | None]]) -> list[list[str]]:
    """The text of each cell; plotly's own formats would show a small number as zero."""
    return [["" if value is None else plain_text(format_number(value)) for value in row] for row in values]


def axis_places(places: Sequence[AxisValue]) -> list[AxisValue]:
    """Places on an axis, those that are names as plain text."""
    return [plain_text(at) if isinstance(at, str) else float(f"{at:.5g}") for at in places]


def template_text(text: str) -> str:
    """Text inside a hover template, where ``%{`` would be read as a place to fill in."""
    return plain_text(text).replace("%{", "%&#123;")


def make_axis(label: str, kind: str) -> Json:
    """An axis with its title; of kind ``linear``, ``log`` or ``category``."""
    # Whole numbers at 1, 2 and 5: plotly's own are single digits between powers of ten.
    ticks = {"dtick": "D2", "tickformat": "~g"} if kind == "log" else {}
    return {"title": {"text": plain_text(label)}, "type": kind, **ticks}


def see_through(colour: str, opacity: float = 0.18) -> str:
    """A colour ``#rrggbb`` through which others can be seen."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
