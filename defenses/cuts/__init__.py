"""Splitting one-dimensional scores into two classes: the step that turns scores into flags, without ground truth.

Poison is the upper class and mostly a small one. Fisher-Jenks, which PIPD prescribes, splits by variance: on scores of
clean data alone it flags up to half of them, and a minority of 1 % moves it hardly. Of the others each has a model of
what clean scores look like, and flags nothing where a second class is not to be seen:

- ``minimum_error`` and ``gaussian_mixture``: two normal distributions with spreads of their own. The first is exact and
  quick, and flags a share of skewed scores that have no second class; the second asks that the classes lie apart, and
  with heavy tails it flags nothing rather than too much.
- ``robust_tail``: what lies so far above the bulk that of clean normal scores less than one would.

Measured against the best cut there is: `search_spaces/README.md`, "Where scores are cut".
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from defenses.cuts.normal import gaussian_mixture, minimum_error, robust_tail
from defenses.cuts.variance import by_centres, fisher_jenks

CLUSTERINGS: dict[str, Callable[[NDArray[np.float64], int], NDArray[np.bool_]]] = {
    "fisher_jenks": fisher_jenks,
    "kmeans": by_centres("KMeans"),
    "bisecting_kmeans": by_centres("BisectingKMeans"),
    "minibatch_kmeans": by_centres("MiniBatchKMeans"),
    "minimum_error": minimum_error,
    "gaussian_mixture": gaussian_mixture,
    "robust_tail": robust_tail,
}
"""Finite scores float64 [n] and a seed -> the upper class, bool [n]. The first four are those of PIPD, Table 8."""
