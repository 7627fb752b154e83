"""Cuts by variance: Fisher-Jenks and the k-means that PIPD's Table 8 compares with it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

_TIE = 1e-12  # relative: two cuts that are equal on paper may differ by rounding, and the lower one counts


def two_class_cut(scores: Scores) -> float:
    """The exact Fisher-Jenks break of two classes: the largest value of the lower class.

    Sorting and prefix sums find the cut with the least within-class sum of squares in O(n log n); jenkspy's dynamic
    programme is quadratic and gives the same value. Of equally good cuts the lowest is taken, as jenkspy does.

    Args:
        scores: float64 [n], n >= 1. A constant has no second class: its break is its value.
    """
    ordered = np.sort(scores)
    n = len(ordered)
    if ordered[0] == ordered[-1]:
        return float(ordered[0])
    centred = ordered - ordered.mean()
    low = np.arange(1, n)  # sizes of the lower class
    # Between-class sum of squares of centred values: with the total 0, it is P^2 n / (k (n - k)), P a prefix sum.
    between = np.cumsum(centred)[:-1] ** 2 / (low * (n - low))
    best = np.flatnonzero(between >= between.max() * (1 - _TIE))[0]
    return float(ordered[best])


def explained_variance(scores: Scores, flagged: Mask) -> float:
    """Goodness of variance fit of a split, in [0, 1]: the share of the variance that lies between the classes.

    Needs no ground truth: a value near 1 says that the scores form two groups. 0 when a class is empty.

    Args:
        scores: float64 [N].
        flagged: bool [N], the upper class.
    """
    total = float(np.var(scores))
    share = float(flagged.mean())
    if total == 0 or share in (0.0, 1.0):
        return 0.0
    gap = float(scores[flagged].mean() - scores[~flagged].mean())
    return min(1.0, share * (1 - share) * gap**2 / total)  # rounding takes a perfect split past 1


def fisher_jenks(scores: Scores, seed: int) -> Mask:
    """The upper class of the exact break, bool [n] of float64 [n]; the seed is not used."""
    # Strictly above: the published `>= breaks[1]` also flags the largest benign value.
    return scores > two_class_cut(scores)


def by_centres(method: str) -> Callable[[Scores, int], Mask]:
    """A clustering of scikit-learn's in two: float64 [n] and a seed -> those nearer to the higher centre, bool [n]."""

    def split(scores: Scores, seed: int) -> Mask:
        from sklearn import cluster
        from threadpoolctl import threadpool_limits

        if scores.min() == scores.max():
            return np.zeros(len(scores), dtype=bool)
        with threadpool_limits(1):  # its own threads are as many as there are cores, and add up in any order
            fitted = getattr(cluster, method)(n_clusters=2, random_state=seed, n_init=10).fit(scores[:, None])
        upper: Mask = fitted.labels_ == int(np.argmax(fitted.cluster_centers_[:, 0]))
        return upper

    return split


def natural_breaks(scores: Scores, classes: int) -> list[float]:
    """Fisher-Jenks breaks of any number of classes, minimum and maximum included: classes + 1 values.

    Two classes take the exact cut; more go to jenkspy, whose time grows with the square of n.

    Args:
        scores: float64 [n].
    """
    if classes == 2 and len(np.unique(scores)) >= 2:
        return [float(scores.min()), two_class_cut(scores), float(scores.max())]
    import jenkspy

    return [float(value) for value in jenkspy.jenks_breaks(scores, n_classes=classes)]
