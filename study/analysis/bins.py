"""Trials in bins along one hyperparameter: what the mean of a metric does, and what chance alone would make it do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.space import Choice, Range
from study.analysis.discretise import Cells, Numbers

if TYPE_CHECKING:
    import pandas

MOST = 10  # bins of a curve
PER_BIN = 10  # trials, at least
_SHUFFLES = 1000
_LEVEL = 0.95
_SAME = 1e-12  # a difference below it is rounding


def binned(values: "pandas.Series[Any]", searched: Range, most: int = MOST) -> tuple[tuple[float | str, ...], Cells]:
    """Bins of equal count along a hyperparameter, or one for each option, or for each value where there are few.

    Returns:
        Where each bin stands: its median or its option; and the bin of every value, int64 [n].
    """
    import pandas

    if isinstance(searched, Choice):
        options = [option for option in searched.options if (values == option).any()]
        return tuple(map(str, options)), np.array([options.index(value) for value in values], np.int64)
    count = int(np.clip(len(values) // PER_BIN, 2, most))
    levels = np.unique(values.to_numpy(float))
    if len(levels) <= max(count, 2):
        return tuple(levels.tolist()), np.searchsorted(levels, values.to_numpy(float)).astype(np.int64)
    # Equal values stay together, or a bin would hold a part of a value's trials.
    bins = pandas.qcut(values.astype(float), count, labels=False, duplicates="drop").to_numpy(np.int64)
    return tuple(float(values[bins == at].median()) for at in np.unique(bins)), np.unique(bins, return_inverse=True)[1]


@dataclass(frozen=True)
class Span:
    """How far apart the lowest and the highest mean of the bins are.

    Attributes:
        low, high: positions of these bins; of equal means the first.
        lowest, highest: their means.
        by_chance: the difference that the trials in random order stay below; see `span`.
    """

    low: int
    high: int
    lowest: float
    highest: float
    by_chance: float

    @property
    def difference(self) -> float:
        """Zero where the means are equal but for rounding."""
        apart = self.highest - self.lowest
        return apart if apart > _SAME else 0.0

    @property
    def stands_out(self) -> bool:
        """Whether chance alone would hardly put the bins so far apart."""
        return self.difference > self.by_chance + _SAME


def span(values: Numbers, bins: Cells, tests: int = 1, seed: int = 0, settings: Cells | None = None) -> Span:
    """The span of a metric along a hyperparameter, beside the one that the same trials have in random order.

    Args:
        values: float64 [trials], the metric.
        bins: int64 [trials], positions from 0 on, none of them empty.
        tests: how many hyperparameters are looked at: in 95 % of random orders all of them stay below `Span.by_chance`
            (Bonferroni).
        settings: int64 [trials], which trials are to change places together, since they share a training and with it
            its luck; each lies in one bin. None where each trial moves alone.
    """
    counts = np.bincount(bins)
    means = np.bincount(bins, values) / counts
    by_chance = np.ptp(_shuffled_means(values, bins, seed, settings), axis=1)
    low, high = int(np.argmin(means)), int(np.argmax(means))
    return Span(
        low, high, float(means[low]), float(means[high]), float(np.quantile(by_chance, 1 - (1 - _LEVEL) / tests))
    )


def _shuffled_means(values: Numbers, bins: Cells, seed: int, settings: Cells | None) -> Numbers:
    """Means of the bins with trials, or whole settings, in random order: float64 [orders, bins]."""
    units = np.arange(len(values)) if settings is None else np.unique(settings, return_inverse=True)[1]
    sums, counts = np.bincount(units, values), np.bincount(units).astype(np.float64)
    of_unit = np.zeros(len(counts), np.int64)
    of_unit[units] = bins
    inside = np.eye(int(bins.max()) + 1)[of_unit]
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(counts)), (_SHUFFLES, 1)), axis=1)
    means: Numbers = (sums[order] @ inside) / (counts[order] @ inside)
    return means
