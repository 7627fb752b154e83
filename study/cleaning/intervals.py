"""How sure a share is that was counted."""

import math

_Z = 1.959964  # of a 95 % interval


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Ends of the 95 % Wilson interval of a share; (0, 1) of nothing."""
    if total == 0:
        return 0.0, 1.0
    share, spread = hits / total, _Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
