"""fANOVA: which share of a metric's variance over the space each hyperparameter explains, alone and in pairs.

After Hutter, Hoos, Leyton-Brown: An Efficient Approach for Assessing Hyperparameter Importance (ICML 2014): a forest is
a sum of boxes, so its mean over all but one or two axes is exact. Two things differ from theirs. Marginals are those of
the whole forest and not of each tree, in one pass over all leaves. And since a forest flattens weak effects, the main
effects are corrected by what is left out of bag (the residual of each trial under the trees that never saw it), fitted
to bins of all axes at once, and the effects of pairs likewise, a pair at a time. The noise that a correction brings in
is subtracted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from study.analysis.discretise import Axis, Cells, Numbers

TREES = 64
LEAF = 5  # trials in a leaf, at least; what larger leaves flatten, the correction gives back
_SEEN = 0.7  # share of the axes that a split chooses from: a fifth of the time less, the same shares
RESAMPLES = 200
LEVEL = 0.95
_BINS = (4, 8)  # of an axis, for the correction: fewer than four miss what rises and falls
_PER_BIN = 6  # trials to each bin of all axes, where that leaves enough bins
_CONSTANT = 1e-12  # variance of a metric that is the same in all trials but for rounding


@dataclass(frozen=True)
class Design:
    """What all metrics of the same trials share.

    Attributes:
        cells: [trials, axes].
        bins: of each axis, the bin of every cell.
        fit: [bins of all axes, trials]: residuals to the effects of bins, each axis's with mean zero over the space.
        spread: [trials, bins of all axes]: effects back to trials.
        draws: [resamples, trials]: how often each resample has a trial.
    """

    axes: tuple[Axis, ...]
    cells: Cells
    bins: tuple[Cells, ...]
    fit: Numbers
    spread: Numbers
    draws: Numbers


@dataclass(frozen=True)
class Shares:
    """Of the variance of a metric over the space.

    Attributes:
        alone: [axes]: each hyperparameter's main effect, in [0, 1].
        low, high: [axes]: 95 % percentile interval over 200 resamples of the trials, with the forest held fixed: the
            out-of-bag residuals and the total variance are drawn anew.
        pairs: [axes, axes]: what two explain beyond their main effects. Symmetric, zero on the diagonal.
        explained: R² of the forest out of bag; at most 1, below 0 when it predicts worse than the mean.
    """

    alone: Numbers
    low: Numbers
    high: Numbers
    pairs: Numbers
    explained: float


def build_design(axes: Sequence[Axis], columns: Sequence[Any], seed: int = 0) -> Design:
    """Prepares trials for `fanova`.

    Args:
        columns: of each axis, the trials' values.
    """
    cells = np.stack([axis.cells(column) for axis, column in zip(axes, columns, strict=True)], axis=1)
    trials = len(cells)
    most = int(np.clip(trials // (_PER_BIN * len(axes)), *_BINS))
    bins = tuple(_bins(axis, most) for axis in axes)
    parts, centres = [], []
    for position, bin_of_trials in enumerate(bins):
        count = int(bin_of_trials.max()) + 1
        weights = np.bincount(bin_of_trials, axes[position].weights, count)
        parts.append(np.eye(count)[bin_of_trials[cells[:, position]]] - weights)
        centres.append(np.eye(count) - weights)  # takes the mean over the space from an axis's effects
    spread = np.concatenate(parts, axis=1)
    raw = np.linalg.pinv(np.column_stack([np.ones(trials), spread]))[1:]
    edges = np.cumsum([len(part) for part in centres])[:-1]
    fit = np.concatenate([centre @ rows for centre, rows in zip(centres, np.split(raw, edges), strict=True)])
    draws = np.random.default_rng(seed).multinomial(trials, np.full(trials, 1 / trials), RESAMPLES).astype(float)
    return Design(tuple(axes), cells, bins, fit, spread, draws)


def _bins(axis: Axis, most: int) -> Cells:
    """The bin of every cell: an option's own, or neighbours together."""
    count = len(axis.weights)
    if axis.levels and not isinstance(axis.levels[0], int | float):
        return np.arange(count)
    middle = np.cumsum(axis.weights) - axis.weights / 2
    return np.unique(np.floor(middle * min(most, count)).astype(np.int64), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Forest:
    """What a forest says of one metric.

    Attributes:
        values: the metric, one a trial.
        residuals: of the values, out of bag.
        alone, pairs: as `forest_marginals` gives them.
    """

    values: Numbers
    residuals: Numbers
    alone: tuple[Numbers, ...]
    pairs: Mapping[tuple[int, int], Numbers]


def fanova(design: Design, values: Numbers, seed: int = 0) -> Shares | None:
    """Shares of the variance: `grow` and `build_shares` in one.

    Args:
        values: float64 [trials] of one metric, finite.
    """
    return build_shares(design, grow(design, values, seed))


def grow(design: Design, values: Numbers, seed: int = 0) -> Forest:
    """Fits a forest.

    Args:
        values: float64 [trials] of one metric, finite, one a trial of the design.
        seed: of the forest.
    """
    from sklearn.ensemble import RandomForestRegressor

    if values.var() < _CONSTANT:
        nothing = {(one, two): np.zeros((1, 1)) for one in range(len(design.axes)) for two in range(one)}
        return Forest(values, np.zeros(len(values)), tuple(np.zeros(1) for _ in design.axes), nothing)
    forest = RandomForestRegressor(TREES, min_samples_leaf=LEAF, max_features=_SEEN, oob_score=True, random_state=seed)
    forest.fit(design.cells.astype(np.float32), values)
    alone, pairs = forest_marginals([tree.tree_ for tree in forest.estimators_], design.axes)
    return Forest(values, values - forest.oob_prediction_, tuple(alone), pairs)


def together(one: Forest, two: Forest, factors: tuple[float, float]) -> Forest:
    """The forest of a weighted sum of two metrics: means and residuals add up, so that none is grown."""
    a, b = factors
    return Forest(
        a * one.values + b * two.values,
        a * one.residuals + b * two.residuals,
        tuple(a * x + b * y for x, y in zip(one.alone, two.alone, strict=True)),
        {at: a * one.pairs[at] + b * two.pairs[at] for at in one.pairs},
    )


def widen_forest(forest: Forest, at: Sequence[int], axes: int) -> Forest:
    """The same forest among more axes, on which its metric does not depend.

    Args:
        at: where its own axes stand among them, ascending.
        axes: how many there are.
    """
    alone = [np.zeros(1) for _ in range(axes)]
    for own, marginal in zip(at, forest.alone, strict=True):
        alone[own] = marginal
    pairs = {(one, two): np.zeros((1, 1)) for one in range(axes) for two in range(one)}
    pairs |= {(at[one], at[two]): effect for (one, two), effect in forest.pairs.items()}
    return Forest(forest.values, forest.residuals, tuple(alone), pairs)


def widen_shares(shares: Shares, at: Sequence[int], axes: int) -> Shares:
    """The same shares among more axes, on which the metric does not depend: theirs are zero.

    Args:
        at, axes: as of `widen_forest`.
    """
    alone, low, high = np.zeros((3, axes))
    alone[list(at)], low[list(at)], high[list(at)] = shares.alone, shares.low, shares.high
    pairs = np.zeros((axes, axes))
    pairs[np.ix_(at, at)] = shares.pairs
    return Shares(alone, low, high, pairs, shares.explained)


def build_shares(design: Design, forest: Forest) -> Shares | None:
    """Shares of the variance; None where the metric is the same in all trials: no share is defined."""
    values, residuals = forest.values, forest.residuals
    total = float(values.var())
    if total < _CONSTANT:
        return None
    effects = design.fit @ residuals
    left = residuals - residuals.mean() - design.spread @ effects
    alone, low, high = main_effects(design, values, forest.alone, effects, left)
    both = _pairs(design, forest.pairs, left) / total
    both /= max(1.0, float(both.sum()) / 2)  # all pairs together cannot exceed the whole, as below for main effects
    return Shares(alone, low, high, both, 1 - float((residuals**2).mean()) / total)


def main_effects(
    design: Design, values: Numbers, marginals: Sequence[Numbers], effects: Numbers, left: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """Shares of the main effects with their intervals: float64 [axes] each.

    Args:
        values: float64 [trials].
        marginals: of each axis, float64 [cells].
        effects: of the bins of all axes, on the residuals, float64 [bins of all axes].
        left: what these leave of the residuals, float64 [trials].
    """
    trials = len(values)
    noise = design.fit**2 @ (left**2 * trials / max(1, trials - np.linalg.matrix_rank(design.spread) - 1))
    drawn = effects + ((design.draws - 1) * left) @ design.fit.T
    totals = (design.draws @ values**2) / trials - ((design.draws @ values) / trials) ** 2
    alone, low, high = [], [], []
    start = 0
    for axis, bins, marginal in zip(design.axes, design.bins, marginals, strict=True):
        count = int(bins.max()) + 1
        own = slice(start, start + count)
        start += count
        brought_in = float(np.bincount(bins, axis.weights, count) @ noise[own])
        variance = axis.weights @ (marginal + effects[own][bins]) ** 2 - brought_in
        # A resample has the noise of the trials and that of drawing them again.
        again = ((marginal + drawn[:, own][:, bins]) ** 2) @ axis.weights - 2 * brought_in
        alone.append(variance / values.var())
        ends = np.quantile(again / np.maximum(totals, _CONSTANT), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        low.append(ends[0])
        high.append(ends[1])
    # Main effects cannot exceed the whole: evenly spread points leave holes where one is out of bag, so that residuals
    # overstate by up to a tenth what a forest of some 100 trials flattens.
    scale = 1 / max(1.0, float(np.maximum(alone, 0).sum()))
    return _clipped(alone, scale), _clipped(low, scale), _clipped(high, scale)


def _pairs(design: Design, pairs: Mapping[tuple[int, int], Numbers], left: Numbers) -> Numbers:
    """Variances of the effects of pairs, corrected by what the main effects leave: [axes, axes]."""
    shares = np.zeros((len(design.axes), len(design.axes)))
    coarse = [_bins(axis, _BINS[0]) for axis in design.axes]
    for (one, two), beyond in pairs.items():
        counts = [int(coarse[at].max()) + 1 for at in (one, two)]
        weights = [np.bincount(coarse[at], design.axes[at].weights, counts[i]) for i, at in enumerate((one, two))]
        place = coarse[one][design.cells[:, one]] * counts[1] + coarse[two][design.cells[:, two]]
        trials = np.bincount(place, minlength=counts[0] * counts[1])
        sums, squares = (np.bincount(place, left**power, len(trials)) for power in (1, 2))
        means = np.where(trials > 1, sums / np.maximum(trials, 1), 0.0)
        noise = np.where(trials > 1, (squares / np.maximum(trials, 1) - means**2) / np.maximum(trials - 1, 1), 0.0)
        effect = means.reshape(counts)
        effect = effect - (weights[0] @ effect)[None, :]
        effect = effect - (effect @ weights[1])[:, None]
        freedom = (1 - weights[0])[:, None] * (1 - weights[1])[None, :]  # what both centrings leave of a bin's noise
        brought_in = weights[0] @ (noise.reshape(counts) * freedom) @ weights[1]
        whole = beyond + effect[coarse[one]][:, coarse[two]]
        variance = design.axes[one].weights @ whole**2 @ design.axes[two].weights - brought_in
        shares[one, two] = shares[two, one] = max(0.0, float(variance))
    return shares


def _clipped(shares: Sequence[float], scale: float) -> Numbers:
    clipped: Numbers = np.clip(np.array(shares, float) * scale, 0.0, 1.0)
    return clipped


def forest_marginals(
    trees: Sequence[Any], axes: Sequence[Axis]
) -> tuple[list[Numbers], dict[tuple[int, int], Numbers]]:
    """Means of a forest over all but one axis, and over all but two, less what each explains alone.

    Args:
        trees: of scikit-learn, grown on cells.

    Returns:
        Of each axis float64 [cells], less the overall mean; and of each pair float64 [cells, cells].
    """
    parts = [_boxes(tree, [len(axis.weights) for axis in axes]) for tree in trees]
    low, high = (np.concatenate([part[end] for part in parts]) for end in (0, 1))
    values = np.concatenate([part[2] for part in parts]) / len(trees)
    edges = [np.concatenate([[0.0], np.cumsum(axis.weights)]) for axis in axes]
    widths = np.stack([edge[high[:, at]] - edge[low[:, at]] for at, edge in enumerate(edges)], axis=1)
    mass = values * widths.prod(axis=1)
    mean = mass.sum()
    shapes = [len(axis.weights) for axis in axes]
    alone = []
    for at, count in enumerate(shapes):
        steps = np.bincount(low[:, at], mass / widths[:, at], count + 1)
        steps -= np.bincount(high[:, at], mass / widths[:, at], count + 1)
        alone.append(np.cumsum(steps)[:count] - mean)
    pairs = {}
    for one in range(len(axes)):
        for two in range(one):
            ends = (low[:, one], high[:, one], low[:, two], high[:, two])
            both = _over_two(ends, mass / (widths[:, one] * widths[:, two]), shapes[one], shapes[two])
            pairs[one, two] = both - mean - alone[one][:, None] - alone[two][None, :]
    return alone, pairs


def _over_two(ends: tuple[Cells, Cells, Cells, Cells], heights: Numbers, rows: int, columns: int) -> Numbers:
    """The sum of boxes over two axes: four corners each, summed up along both."""
    low_row, high_row, low_column, high_column = ends
    width = columns + 1
    corners = (
        (low_row, low_column, 1),
        (high_row, high_column, 1),
        (low_row, high_column, -1),
        (high_row, low_column, -1),
    )
    flat = np.concatenate([row * width + column for row, column, _ in corners])
    signed = np.concatenate([sign * heights for _, _, sign in corners])
    steps = np.bincount(flat, signed, (rows + 1) * width).reshape(rows + 1, width)
    summed: Numbers = steps.cumsum(axis=0).cumsum(axis=1)[:rows, :columns]
    return summed


def _boxes(tree: Any, counts: Sequence[int]) -> tuple[Cells, Cells, Numbers]:
    """The leaves of a tree: first cell and end of each along every axis, and its value."""
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    cut = np.floor(tree.threshold).astype(np.int64) + 1  # the first cell to the right of a split
    low = np.zeros((len(left), len(counts)), np.int64)
    high = np.tile(np.asarray(counts, np.int64), (len(left), 1))
    level = np.array([0])
    while len(level := level[left[level] >= 0]):
        lefts, rights, split = left[level], right[level], feature[level]
        for children in (lefts, rights):
            low[children], high[children] = low[level], high[level]
        high[lefts, split] = cut[level]
        low[rights, split] = cut[level]
        level = np.concatenate([lefts, rights])
    leaves = left < 0
    return low[leaves], high[leaves], tree.value[leaves, 0, 0]
