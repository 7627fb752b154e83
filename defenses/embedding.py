"""Rows of numbers of unlike scales as points whose distances mean something."""

import warnings

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError

Floats = NDArray[np.float64]
EMBEDDINGS = ("standardised", "rank_gaussian", "umap")


def embedded(rows: Floats, embedding: str, components: int, neighbours: int, seed: int) -> Floats:
    """Points of rows.

    Args:
        rows: float64 [N, L], finite.
        embedding: ``standardised`` gives each column mean 0 and variance 1, ``rank_gaussian`` the normal values of its
            ranks; a constant column becomes 0. ``umap`` takes the package umap-learn.
        components: principal components that are left, each with variance 1, or UMAP's dimensions; 0 leaves columns as
            they are, and UMAP has 2.
        neighbours, seed: of UMAP.

    Returns:
        float64 [N, k].

    Raises:
        UserError: UMAP is asked for and not installed.
    """
    if embedding == "umap":
        return _umap(rows, components or 2, min(neighbours, len(rows) - 1), seed)
    points = _standardised(rows) if embedding == "standardised" else _rank_gaussian(rows)
    if not components:
        return points
    left, values, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    kept = min(components, int((values > 1e-6 * max(values[0], 1e-300)).sum()))
    return np.ascontiguousarray(left[:, : max(1, kept)]) * float(np.sqrt(len(rows)))


def _standardised(rows: Floats) -> Floats:
    spread = rows.std(axis=0)
    points: Floats = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return points


def _rank_gaussian(rows: Floats) -> Floats:
    from scipy.special import ndtri
    from scipy.stats import rankdata

    points: Floats = ndtri((rankdata(rows, axis=0) - 0.5) / len(rows))
    return points


def _umap(rows: Floats, components: int, neighbours: int, seed: int) -> Floats:
    try:
        import umap
    except ImportError as error:
        raise UserError(
            "embedding=umap needs the package umap-learn, and it is not installed: pip install umap-learn, or take "
            "standardised",
            about="field embedding",
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one thread, which the seed asks for, and of the libraries below it
        reducer = umap.UMAP(neighbours, components, min_dist=0.0, random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(rows), dtype=np.float64)
