"""Numbers as people type them. Python reads more: ``1_0`` is ten to it, and pydantic takes ``0-4`` for minus four."""

import re

_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def parse_whole(text: str) -> int | None:
    """``12`` or ``-3``; None for anything else."""
    return int(text) if _WHOLE.fullmatch(text) else None


def parse_real(text: str) -> float | None:
    """``0.5``, ``.5``, ``5e-1`` or a whole number; None for anything else, infinity and NaN included.

    What is larger than any float gives infinity, for a check of ranges to refuse.
    """
    return float(text) if _REAL.fullmatch(text) else None
