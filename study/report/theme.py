"""The colours of every figure, once: in the page, light and dark, and in PNG files."""

from dataclasses import dataclass

SERIES = ("#3a7ec1", "#cf6a28", "#2f9360", "#9a68c4", "#c9507a", "#8a7a2e", "#1f94a3", "#a0674a")
"""Of lines, bars and points, in order. All have a contrast of at least 3 to 1 with both grounds below."""


@dataclass(frozen=True)
class Theme:
    """What differs between light and dark.

    Attributes:
        ground: what figures stand on.
        muted: text that stands back.
        empty: places of a heat map without a value, or whose value counts neither way.
        scale: from the bad end to the good one; it tells the two apart without red and green.
        sequential: from low to high, where neither end is good.
    """

    ground: str
    ink: str
    muted: str
    grid: str
    empty: str
    scale: tuple[str, ...]
    sequential: tuple[str, ...]


LIGHT = Theme(
    ground="#ffffff",
    ink="#1c2330",
    muted="#5b6472",
    grid="#e3e6eb",
    empty="#e9ebef",
    scale=("#c4551c", "#efa46c", "#fbe9d9", "#a9cdea", "#2f74b5"),
    sequential=("#f3f1fa", "#b7b3dd", "#7f79bd", "#4a3f91", "#241a5c"),
)
DARK = Theme(
    ground="#171b22",
    ink="#e6e9ef",
    muted="#9aa4b2",
    grid="#2d343f",
    empty="#2a303a",
    scale=("#bf571e", "#87492a", "#33353d", "#2b4e6e", "#2f78bd"),
    sequential=("#1f1d33", "#3d3773", "#6a62b8", "#9d97dc", "#d9d6f5"),
)


def series_style(number: int) -> tuple[str, int]:
    """The colour of a line by its number, and how often all colours were used before it: it is then dashed anew."""
    return SERIES[number % len(SERIES)], number // len(SERIES)


def contrast(first: str, second: str) -> float:
    """How far two colours ``#rrggbb`` are apart in brightness, 1 to 21 (WCAG 2.2, contrast ratio)."""
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance in [0, 1] (WCAG 2.2)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
