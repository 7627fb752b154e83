"""Ends of an axis that do not blow noise up: trials that differ by a thousandth are shown side by side."""

from collections.abc import Sequence

_ROOM = 0.06  # of the axis, at both ends


def axis_ends(values: Sequence[float], least: float) -> tuple[float, float]:
    """Ends of an axis that holds all values.

    Args:
        values: at least one; of a metric or a score, which are at most 1.
        least: how far the ends lie apart at least.
    """
    low, high = min(values), max(values)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
        beyond = max(0.0, high - 1) if max(values) <= 1 else 0.0  # a share has no room above 1, nor below 0
        below = max(0.0, -low) if min(values) >= 0 else 0.0
        low, high = low - beyond + below, high - beyond + below
    room = _ROOM * (high - low)
    return low - room, high + room
