"""Numbers as a person reads them, one rule each: the same in a terminal, in a page and in a figure."""

from collections.abc import Sequence

OBJECTIVE_DECIMALS = 4  # trials are ranked by it, and two that differ a little must not look equal
_ROUNDING = 1e-12  # what is smaller is left by the arithmetic where the exact value is zero


def format_number(value: float | None, decimals: int = 3) -> str:
    """A rate, a score or any other quantity; a dash where it is undefined.

    All numbers of a column share their decimals. A small value that is not zero is ``<0.001``, so that it is not taken
    for zero (``>-0.001`` below zero); a value of a thousand or more has no decimals.
    """
    if value is None:
        return "-"
    size = abs(value)
    if size < _ROUNDING:
        return f"{0.0:.{decimals}f}"
    least = 10.0**-decimals
    if size < least:
        return f"<{least:.{decimals}f}" if value > 0 else f">-{least:.{decimals}f}"
    return f"{value:.{decimals}f}" if size < 1000 else f"{value:.0f}"


def format_objective(value: float | None) -> str:
    """The value of an objective: one decimal more than a rate."""
    return format_number(value, OBJECTIVE_DECIMALS)


def format_value(value: object) -> str:
    """A hyperparameter's value, a place on an axis or a p-value: three significant digits; else as `str` has it.

    A dash for None: a hyperparameter that does nothing in a trial, which then has no value of it.
    """
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{0.0 if is_noise(value) else value:.3g}"


def listed(parts: Sequence[object]) -> str:
    """Several things in a sentence: ``a, b and c``; there is one at least."""
    *before, last = map(str, parts)
    return f"{', '.join(before)} and {last}" if before else last


def several(count: int, word: str) -> str:
    """A count with its word: ``1 trial``, ``3 trials``."""
    return f"{count} {word}{'s' * (count != 1)}"


def is_noise(value: float) -> bool:
    """Whether a value is so small that it is left by the arithmetic where the exact value is zero."""
    return abs(value) < _ROUNDING
