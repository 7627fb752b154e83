"""Features of one label at a time, and their principal directions: what several detectors look at."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_NULL = 1e-6  # of the largest singular value: below it a direction is rounding


def samples_by_label(labels: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each label that samples have, in order, with their positions int64 [n], in order.

    Args:
        labels: int64 [N].
    """
    for label in np.unique(labels):
        yield int(label), np.flatnonzero(labels == label)


def round_by_round(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions int64 [N] in rounds: the first sample of each label, then the second of each, and so on.

    Every beginning has as many of each label as there are, give or take one.

    Args:
        labels: int64 [N].
    """
    rounds = np.empty(len(labels), dtype=np.int64)
    for _, members in samples_by_label(labels):
        rounds[members] = np.arange(len(members))
    return np.lexsort((labels, rounds))


def centred(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Features [n, D] with their mean taken off, in float64."""
    wide: NDArray[np.float64] = features.astype(np.float64)
    wide -= wide.mean(axis=0)
    return wide


def principal_directions(rows: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The right singular vectors with the largest singular values, largest first.

    Args:
        rows: float64 [n, D], centred.
        count: how many; there are fewer where the matrix has a lower rank.

    Returns:
        Vectors float64 [count, D], of either sign, and singular values float64 [count].
    """
    from scipy.linalg import eigh

    n, size = rows.shape
    wide = n < size  # the smaller of the two products has the same eigenvalues
    product = rows @ rows.T if wide else rows.T @ rows
    most = len(product)
    values, vectors = eigh(product, subset_by_index=(max(0, most - count), most - 1))
    values, vectors = np.sqrt(np.maximum(values[::-1], 0)), vectors[:, ::-1]
    kept = values > _NULL * max(float(values[0]), np.finfo(np.float64).tiny)
    values, vectors = values[kept], vectors[:, kept]
    return (rows.T @ vectors / values if wide else vectors).T, values
