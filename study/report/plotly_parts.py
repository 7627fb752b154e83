"""What every figure of plotly is made of here: texts that are no markup, numbers without noise, axes."""

import html
from collections.abc import Sequence
from typing import Any

from study.cli.numbers import format_number, is_noise
from study.report.elements import LONG_AXIS

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


def template_text(text: str) -> str:
    """Text inside a hover template, where ``%{`` would be read as a place to fill in."""
    return plain_text(text).replace("%{", "%&#123;")


def make_axis(label: str, kind: str, ends: tuple[float, float] | None = None) -> Json:
    """An axis of numbers with its title.

    Args:
        kind: ``linear`` or ``log``.
        ends: of a logarithmic axis, as exponents of ten.
    """
    return {"title": {"text": plain_text(label)}, "type": kind, **(_log_ticks(ends) if kind == "log" else {})}


def _log_ticks(ends: tuple[float, float] | None) -> Json:
    """Whole numbers at 1, 2 and 5; at the powers of ten alone on a long axis, where those would overlap.

    Plotly's own are single digits between powers of ten.
    """
    long = ends is not None and ends[1] - ends[0] > LONG_AXIS
    return {"dtick": 1 if long else "D2", "tickformat": "~g"}


def category_axis(label: str, options: Sequence[str]) -> Json:
    """An axis of names in this order; by itself plotly takes that of the first trace."""
    names = [plain_text(option) for option in options]
    title = {"title": {"text": plain_text(label)}} if label else {}
    return {**title, "type": "category", "categoryorder": "array", "categoryarray": names}


def see_through(colour: str, opacity: float = 0.18) -> str:
    """A colour ``#rrggbb`` through which others can be seen."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
