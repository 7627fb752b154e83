"""Several values of one thing, as a cell: the seeds of a scenario, the scenarios of a group."""

from typing import TYPE_CHECKING

from study.report.elements import Cell

if TYPE_CHECKING:
    import pandas


def spread(values: "pandas.Series[float]") -> Cell:
    """Mean ± standard deviation (n - 1) as text; one value as a number; None where nothing is defined."""
    known = values.dropna()
    if known.empty:
        return None
    return float(known.iloc[0]) if len(known) == 1 else f"{known.mean():.3f} ± {known.std(ddof=1):.3f}"
