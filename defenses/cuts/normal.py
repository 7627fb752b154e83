"""Cuts that take clean scores for normally distributed, and know when there is no second class."""

import math

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMALLEST_CLASS = 5
"""Samples of a class, at least: fewer always fit a narrow distribution of their own."""
LARGEST_UPPER = 0.6
"""Share of the upper class, at most: poison is no majority, and a few low outliers are no clean class."""
SEPARATION = 2.0
"""Ashman's D of two classes, at least: below, their mixture has no dip (Ashman, Bird and Zepf, 1994)."""
_FLOOR = 1e-6  # of a class's variance, the whole having 1: equal scores would have none, and an endless density
_BINS = 2048
_STARTS = (0.5, 0.8, 0.95, 0.99)
_STEPS = 500
_TOLERANCE = 1e-7  # of the mean log-likelihood, from step to step


def _standardised(scores: Scores) -> Scores | None:
    """Scores with mean 0 and variance 1; None for a constant, which has no second class."""
    if scores.min() == scores.max():
        return None
    spread = float(scores.std())
    return (scores - scores.mean()) / spread if spread > 0 else None


def minimum_error(scores: Scores, seed: int) -> Mask:
    """The cut that errs least if both classes are normal, each with its own spread and share.

    Kittler and Illingworth's criterion (Pattern Recognition 19, 1986) at every cut, from sorted values and prefix sums;
    theirs is over a histogram. Nothing is flagged where two classes are no better than one by the Bayesian information
    criterion (Schwarz, 1978), which counts the four parameters more.

    Args:
        scores: float64 [n], finite.
        seed: is not used.

    Returns:
        bool [n], the upper class, strictly above the cut.
    """
    standard = _standardised(scores)
    n = len(scores)
    if standard is None or n < 2 * SMALLEST_CLASS:
        return np.zeros(n, dtype=bool)
    ordered = np.sort(standard)
    low = np.arange(1, n)
    sums, squares = np.cumsum(ordered)[:-1], np.cumsum(ordered**2)[:-1]
    lower = np.maximum(squares / low - (sums / low) ** 2, _FLOOR)
    upper = np.maximum((n - squares) / (n - low) - (sums / (n - low)) ** 2, _FLOOR)  # the total is 0, that of squares n
    share = low / n
    criterion = 1 + share * np.log(lower) + (1 - share) * np.log(upper)
    criterion -= 2 * (share * np.log(share) + (1 - share) * np.log(1 - share))
    allowed = (low >= SMALLEST_CLASS) & (n - low >= SMALLEST_CLASS) & (1 - share <= LARGEST_UPPER)
    allowed &= ordered[1:] > ordered[:-1]
    if not allowed.any():
        return np.zeros(n, dtype=bool)
    best = int(np.where(allowed, criterion, np.inf).argmin())
    # The criterion of one class is 1, and n / 2 of it is a log-likelihood.
    if n * (1 - criterion[best]) <= 4 * math.log(n):
        return np.zeros(n, dtype=bool)
    flagged: Mask = standard > ordered[best]
    return flagged


class _Mixture:
    """Two normal distributions fitted to weighted values by expectation and maximisation.

    Args:
        values: float64 [m].
        weights: float64 [m], their counts.
        upper: bool [m], the second class to begin with.
    """

    def __init__(self, values: Scores, weights: Scores, upper: Mask) -> None:
        self.values, self.weights = values, weights
        self.likelihood = -math.inf
        self.shares, self.means, self.variances = np.full((3, 2, 1), np.nan)
        self._fit(np.stack([~upper, upper]).astype(np.float64))

    def _fit(self, membership: Scores) -> None:
        total = self.weights.sum()
        for _ in range(_STEPS):
            counts = membership * self.weights
            sizes = counts.sum(axis=1, keepdims=True)
            if sizes.min() < SMALLEST_CLASS:
                self.likelihood = -math.inf
                return
            self.shares = sizes / total
            self.means = (counts * self.values).sum(axis=1, keepdims=True) / sizes
            spreads = (counts * (self.values - self.means) ** 2).sum(axis=1, keepdims=True) / sizes
            self.variances = spreads + _FLOOR
            logs = self.log_density(self.values)
            both = np.logaddexp(logs[0], logs[1])
            likelihood = float((self.weights * both).sum() / total)
            membership = np.exp(logs - both)
            if likelihood - self.likelihood < _TOLERANCE:
                return
            self.likelihood = likelihood

    def log_density(self, values: Scores) -> Scores:
        """Of each class with its share, float64 [2, m]."""
        density: Scores = (
            np.log(self.shares)
            - 0.5 * np.log(2 * np.pi * self.variances)
            - (values - self.means) ** 2 / (2 * self.variances)
        )
        return density

    def separation(self) -> float:
        """Ashman's D: the distance of the means in standard deviations, the upper class above the lower."""
        return float((2**0.5 * (self.means[1] - self.means[0]) / np.sqrt(self.variances.sum(axis=0)))[0])


def gaussian_mixture(scores: Scores, seed: int) -> Mask:
    """The likelier of two normal distributions, where they lie apart.

    Fitted by expectation and maximisation to a histogram of 2,048 bins, from four cuts, of which the likeliest fit
    counts: so it is deterministic, and takes a fraction of a second at any size. Nothing is flagged where Ashman's D is
    below 2: a wide class around the bulk is its tails.

    Args:
        scores: float64 [n], finite.
        seed: is not used.

    Returns:
        bool [n], the samples above the lower mean that the upper class is likelier to have, and all above the lowest of
        these: beyond an upper class that is narrower than the lower one, the lower one's tail is likelier again.
    """
    nothing = np.zeros(len(scores), dtype=bool)
    standard = _standardised(scores)
    if standard is None or len(scores) < 2 * SMALLEST_CLASS:
        return nothing
    counts, edges = np.histogram(standard, _BINS)
    filled = counts > 0
    values, weights = ((edges[1:] + edges[:-1]) / 2)[filled], counts[filled].astype(np.float64)
    fits = []
    for start in _STARTS:
        upper = values > np.quantile(standard, start)
        if upper.any() and not upper.all():
            fits.append(_Mixture(values, weights, upper))
    best = max(fits, key=lambda fit: fit.likelihood, default=None)
    if best is None or not math.isfinite(best.likelihood) or best.separation() < SEPARATION:
        return nothing
    if best.shares[1, 0] > LARGEST_UPPER:
        return nothing
    logs = best.log_density(standard)
    likelier = standard[(logs[1] > logs[0]) & (standard > best.means[0])]
    flagged: Mask = standard >= likelier.min(initial=math.inf)
    return flagged


def robust_tail(scores: Scores, seed: int) -> Mask:
    """What lies farther above the median than any of n clean normal scores is expected to.

    The scale is 1.4826 times the median distance of the scores below the median from it: poison lies above, and moves
    neither much while it is a minority. The limit is sqrt(2 ln n) of it, the universal threshold of Donoho and
    Johnstone (1994).

    Args:
        scores: float64 [n], finite.
        seed: is not used.

    Returns:
        bool [n].
    """
    median = float(np.median(scores))
    below = median - scores[scores < median]
    if len(below) < SMALLEST_CLASS:
        return np.zeros(len(scores), dtype=bool)
    scale = 1.4826 * float(np.median(below))
    flagged: Mask = scores - median > math.sqrt(2 * math.log(len(scores))) * scale
    return flagged
