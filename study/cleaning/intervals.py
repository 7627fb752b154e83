"""How sure a share is that was counted."""

import math

_Z = 1.959964  # of a 95 % interval


def wilson(hits: float, total: int) -> tuple[float, float]:
    """Ends of the 95 % Wilson interval of a share; (0, 1) of nothing.

    Args:
        hits: of `total` draws; of draws that each give a share in [0, 1] their sum. With one mean such shares vary at
            most as much as draws that give 0 or 1, so that the interval is then wide rather than narrow.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = hits / total, _Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
