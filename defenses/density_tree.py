"""The tree of HDBSCAN (Campello, Moulavi and Sander, 2013): which samples join at which density, and its clusters.

scikit-learn's `HDBSCAN` makes the same tree, which a test compares, and keeps it to itself; it takes twice as long, and
says nothing meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2000  # rows between two signs of life
Floats = NDArray[np.float64]
Told = Callable[[float], None]
"""Is told now and then which share is done."""


@dataclass(frozen=True)
class DensityTree:
    """Samples that join, the closest first; node N + k is what the k-th merge makes.

    Attributes:
        children: int64 [N - 1, 2], the two nodes of each merge.
        heights: float64 [N - 1], ascending: the distance at which they join.
        sizes: int64 [N - 1], samples of the node that is made.
    """

    children: NDArray[np.int64]
    heights: Floats
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.heights) + 1

    @property
    def root(self) -> int:
        """The node of all samples."""
        return 2 * len(self) - 2

    def size(self, node: int) -> int:
        """Samples below a node."""
        return int(self.sizes[node - len(self)]) if node >= len(self) else 1

    def height(self, node: int) -> float:
        """The distance at which a node's samples are all joined; 0 for one sample."""
        return float(self.heights[node - len(self)]) if node >= len(self) else 0.0

    def halves(self, node: int) -> tuple[int, int]:
        """The larger and the smaller node that a merge joins; of equal ones the first is the larger."""
        first, second = (int(child) for child in self.children[node - len(self)])
        return (first, second) if self.size(first) >= self.size(second) else (second, first)

    def members(self, node: int) -> NDArray[np.int64]:
        """The samples below a node, sorted: int64 [n]."""
        waiting, leaves = [node], []
        while waiting:
            top = waiting.pop()
            if top < len(self):
                leaves.append(top)
            else:
                waiting.extend(int(child) for child in self.children[top - len(self)])
        return np.sort(np.array(leaves, dtype=np.int64))

    def split(self, node: int, smallest: int) -> int:
        """Where a cluster ends: the node at or below it whose halves are not one cluster and samples that leave it.

        Both halves then have `smallest` samples, or neither has: it splits, or it is too small to go on.
        """
        while node >= len(self):
            larger, smaller = self.halves(node)
            if self.size(smaller) >= smallest or self.size(larger) < smallest:
                break
            node = larger
        return node

    def parents(self) -> NDArray[np.int64]:
        """The node that each node is part of, int64 [2N - 1]; the root's is itself."""
        above = np.full(2 * len(self) - 1, self.root)
        above[self.children] = np.arange(len(self), 2 * len(self) - 1)[:, None]
        return above

    def cut(self, height: float) -> NDArray[np.int64]:
        """The node of each sample's component when all merges up to a height are made, int64 [N]."""
        nodes = np.arange(2 * len(self) - 1)
        made = int(np.searchsorted(self.heights, height, side="right"))
        for merge in range(made - 1, -1, -1):  # from the top, so that a node knows its component first
            nodes[self.children[merge]] = nodes[len(self) + merge]
        return nodes[: len(self)]


def density_tree(points: Floats, min_samples: int, told: Told = lambda share: None) -> DensityTree:
    """Single linkage by mutual reachability: the largest of two samples' distance and both their core distances.

    O(N^2) time and O(N) memory; runs in the caller's thread, and gives the same on any number of them.

    Args:
        points: float64 [N, k], finite.
        min_samples: a sample's core distance is that to its so many-th nearest, itself included; at most N.
        told: of core distances and the tree together.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        cores = _core_distances(points, min_samples, lambda share: told(share / 2))
        edges, lengths = _spanning_tree(points, cores, lambda share: told(0.5 + share / 2))
    return _linkage(edges, lengths)


def _core_distances(points: Floats, min_samples: int, told: Told) -> Floats:
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=min_samples, algorithm="brute", n_jobs=1).fit(points)
    cores = np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        cores[start : start + _BLOCK] = neighbours.kneighbors(points[start : start + _BLOCK])[0][:, -1]
        told(min(1.0, (start + _BLOCK) / len(points)))
    return cores


def _spanning_tree(points: Floats, cores: Floats, told: Told) -> tuple[NDArray[np.int64], Floats]:
    """The minimum spanning tree by Prim's algorithm, in squares: edges int64 [N - 1, 2] and lengths float64 [N - 1].

    Samples in the tree leave the arrays, the last one taking their place: each step is shorter than the one before.
    """
    n = len(points)
    rows, inside = np.arange(n), points.copy()
    squares, reach = np.einsum("ij,ij->i", inside, inside), cores**2
    nearest, source = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    distances, closer = np.empty(n), np.empty(n, dtype=bool)
    edges, lengths = np.empty((n - 1, 2), dtype=np.int64), np.empty(n - 1)
    chosen = 0
    for left in range(n - 1, 0, -1):
        here, point, square, core = rows[chosen], inside[chosen].copy(), squares[chosen], reach[chosen]
        for array in (rows, inside, squares, reach, nearest, source):
            array[chosen] = array[left]
        d, best = distances[:left], nearest[:left]
        np.dot(inside[:left], point, out=d)
        d *= -2
        d += squares[:left]
        d += square
        np.maximum(d, reach[:left], out=d)
        np.maximum(d, core, out=d)
        np.less(d, best, out=closer[:left])
        np.copyto(best, d, where=closer[:left])
        np.copyto(source[:left], here, where=closer[:left])
        chosen = int(np.argmin(best))
        edges[n - 1 - left], lengths[n - 1 - left] = (source[chosen], rows[chosen]), best[chosen]
        if left % _BLOCK == 0:
            told(1 - (left / n) ** 2)
    told(1.0)
    return edges, np.sqrt(lengths)


def _linkage(edges: NDArray[np.int64], lengths: Floats) -> DensityTree:
    """The tree of the edges, the shortest first, by union-find."""
    n = len(lengths) + 1
    order = np.argsort(lengths, kind="stable")
    parents, size = list(range(2 * n - 1)), [1] * n + [0] * (n - 1)
    children = np.empty((n - 1, 2), dtype=np.int64)
    for merge, (first, second) in enumerate(edges[order].tolist()):
        node = n + merge
        for side, start in enumerate((first, second)):
            top = start
            while parents[top] != top:
                parents[top] = parents[parents[top]]
                top = parents[top]
            children[merge, side] = top
            size[node] += size[top]
        for child in children[merge].tolist():
            parents[child] = node
    return DensityTree(children, lengths[order], np.array(size[n:], dtype=np.int64))
