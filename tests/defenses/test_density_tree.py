"""The density tree against scikit-learn's, which it keeps to itself, and against scipy's on all distances."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import HDBSCAN

from defenses.density_tree import density_tree

Points = NDArray[np.float64]


def points(n: int = 200, k: int = 5) -> Points:
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(n, k))
    drawn[: n // 5] += 6
    return drawn


def reachability(rows: Points, min_samples: int) -> Points:
    distances = squareform(pdist(rows))
    cores = np.sort(distances, axis=1)[:, min_samples - 1]
    reach = np.maximum(distances, np.maximum(cores[:, None], cores))
    np.fill_diagonal(reach, 0)
    return squareform(reach, checks=False)


@pytest.mark.parametrize("min_samples", [1, 10])
def test_it_is_single_linkage_of_mutual_reachability(min_samples: int) -> None:
    tree = density_tree(points(), min_samples)
    dense = linkage(reachability(points(), min_samples), "single")
    assert tree.heights == pytest.approx(dense[:, 2], rel=1e-9)
    assert tree.sizes[-1] == 200
    for height in np.quantile(dense[:, 2], (0.3, 0.7, 0.95)):
        from scipy.cluster.hierarchy import fcluster

        theirs = fcluster(dense, height + 1e-9, "distance")
        ours = tree.cut(height + 1e-9)
        assert np.array_equal(theirs[:, None] == theirs, ours[:, None] == ours)


def test_it_is_the_tree_of_hdbscan() -> None:
    ours = density_tree(points(500), 15)
    theirs = HDBSCAN(min_cluster_size=15, min_samples=15, copy=True).fit(points(500))
    assert ours.heights == pytest.approx(theirs._single_linkage_tree_["value"], rel=1e-9)


def test_nodes_by_hand() -> None:
    tree = density_tree(np.array([[0.0], [1.0], [3.0], [10.0], [11.5]]), 1)
    assert tree.heights.tolist() == [1.0, 1.5, 2.0, 7.0]
    assert tree.root == 8
    larger, smaller = tree.halves(tree.root)
    assert (tree.members(larger).tolist(), tree.members(smaller).tolist()) == ([0, 1, 2], [3, 4])
    assert (tree.size(0), tree.height(0), tree.size(larger), tree.height(larger)) == (1, 0.0, 3, 2.0)
    assert tree.split(tree.root, 2) == tree.root
    assert tree.split(tree.root, 3) == larger, "two samples leave it, and then neither half has three"
    assert tree.parents()[[larger, smaller, tree.root]].tolist() == [8, 8, 8]
    assert len(np.unique(tree.cut(0.5))) == 5
    assert len(np.unique(tree.cut(2.0))) == 2


def test_it_tells_how_far_it_is_and_copes_with_equal_points() -> None:
    told: list[float] = []
    tree = density_tree(np.zeros((30, 2)), 5, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert not tree.heights.any()
