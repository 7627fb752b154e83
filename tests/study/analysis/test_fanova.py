"""Shares of variance: planted truths, exact marginals, Optuna's own evaluator as the reference."""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pandas
import pytest
from synthetic_study import draw, unit

from search_spaces.space import Choice, Float, Int, Range
from study.analysis.discretise import CELLS, Numbers, build_axes, build_axis
from study.analysis.fanova import Design, build_design, build_shares, fanova, forest_marginals, grow, together

SPACE: dict[str, Range] = {
    "line": Float(-1.0, 3.0, ""),
    "decade": Float(0.001, 10.0, "", log=True),
    "option": Choice(("a", "b", "c"), ""),
    "count": Int(1, 12, ""),
    "idle": Float(0.0, 1.0, ""),
}


def design(points: "pandas.DataFrame", space: Mapping[str, Range] = SPACE) -> Design:
    axes = build_axes(space, points)
    return build_design(axes, [points[axis.name] for axis in axes])


def planted(points: "pandas.DataFrame", noise: float = 0.0) -> Numbers:
    """Variances over the space: line 0.36, decade 0.25, option 0.16, count 0.09, line and decade together 0.14."""
    line = np.array([unit(SPACE["line"], value) for value in points["line"]])
    decade = np.array([unit(SPACE["decade"], value) for value in points["decade"]])
    steps = {"a": -math.sqrt(1.5), "b": 0.0, "c": math.sqrt(1.5)}  # variance 1
    option = np.array([steps[value] for value in points["option"]])
    count = (points["count"].to_numpy(float) - 6.5) / math.sqrt(143 / 12)
    even = [math.sqrt(12) * (values - 0.5) for values in (line, decade)]
    both = even[0] * even[1]
    found = 0.6 * even[0] + 0.5 * even[1] + 0.4 * option + 0.3 * count + math.sqrt(0.14) * both
    return found + noise * np.random.default_rng(1).normal(size=len(points))


TRUTH = np.array([0.36, 0.25, 0.16, 0.09, 0.0])


@pytest.mark.parametrize("even", [True, False], ids=["sobol", "random"])
@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["exact", "noisy"])
def test_a_planted_truth_is_recovered_within_0_05(even: bool, noise: float) -> None:
    points = draw(SPACE, 1000, seed=3, even=even)
    shares = fanova(design(points), planted(points, noise))
    assert shares is not None
    truth = TRUTH / (1 + noise**2)
    assert np.abs(shares.alone - truth).max() < 0.05
    assert abs(shares.pairs[0, 1] - 0.14 / (1 + noise**2)) < 0.05
    others = shares.pairs.copy()
    others[0, 1] = others[1, 0] = 0
    assert others.max() < 0.02
    assert shares.low[4] == 0
    assert (shares.low <= shares.alone + 1e-9).all()
    assert (shares.alone <= shares.high + 1e-9).all()


def test_a_log_range_counts_in_its_logarithm() -> None:
    """A control: the same numbers taken as an even range would give the upper decade nearly all of the measure."""
    points = draw(SPACE, 500, seed=0)
    step = np.where(points["decade"] < 0.1, 0.0, 1.0)  # half of the log range, a hundredth of the even one
    right = fanova(design(points), step)
    wrong = fanova(design(points, {**SPACE, "decade": Float(0.001, 10.0, "")}), step)
    assert right is not None
    assert wrong is not None
    assert right.alone[1] > 0.95
    assert wrong.alone[1] < 0.6


def test_intervals_hold_the_truth_and_shrink_with_trials() -> None:
    widths = []
    for trials in (150, 600):
        held = []
        for seed in range(4):
            points = draw(SPACE, trials, seed=seed, even=False)
            shares = fanova(design(points), planted(points))
            assert shares is not None
            held.append((shares.low <= TRUTH + 0.005) & (shares.high + 0.005 >= TRUTH))
            width = float((shares.high - shares.low)[0])
        widths.append(width)
        assert np.mean(held) >= 0.8
    assert widths[1] < widths[0]


def test_a_constant_metric_has_no_shares() -> None:
    points = draw(SPACE, 64)
    assert fanova(design(points), np.full(64, 0.1) + 1e-9 * np.arange(64)) is None


def test_a_score_has_the_shares_of_its_sum() -> None:
    """A difference of two metrics that have one effect in common: it is gone from the difference."""
    points = draw(SPACE, 1000, seed=2)
    made = design(points)
    line = np.array([unit(SPACE["line"], value) for value in points["line"]])
    decade = np.array([unit(SPACE["decade"], value) for value in points["decade"]])
    constant = grow(made, np.ones(1000))
    found = together(grow(made, 2 * line + decade), together(grow(made, decade), constant, (1.0, 3.0)), (1.0, -1.0))
    assert np.allclose(found.values, 2 * line - 3)
    shares = build_shares(made, found)
    assert shares is not None
    assert np.abs(shares.alone - [1, 0, 0, 0, 0]).max() < 0.05
    assert shares.pairs.max() < 0.02


def test_marginals_of_a_forest_are_exact() -> None:
    """Against the mean of the trees' own predictions over every cell of a small space."""
    from sklearn.ensemble import RandomForestRegressor

    space: dict[str, Range] = {
        "count": Int(1, 4, "", log=True),
        "option": Choice(("x", "y", "z"), ""),
        "other": Int(0, 4, ""),
    }
    points = draw(space, 60, seed=1, even=False)
    made = design(points, space)
    values = np.random.default_rng(0).normal(size=60)
    forest = RandomForestRegressor(5, random_state=0).fit(made.cells.astype(np.float32), values)
    alone, pairs = forest_marginals([tree.tree_ for tree in forest.estimators_], made.axes)
    grid = np.stack(np.meshgrid(*[np.arange(len(a.weights)) for a in made.axes], indexing="ij"), axis=-1)
    table = forest.predict(grid.reshape(-1, 3).astype(np.float32)).reshape(grid.shape[:3])
    w = [axis.weights for axis in made.axes]
    mean = np.einsum("ijk,i,j,k", table, *w)
    assert np.allclose(alone[0], np.einsum("ijk,j,k->i", table, w[1], w[2]) - mean)
    assert np.allclose(alone[1], np.einsum("ijk,i,k->j", table, w[0], w[2]) - mean)
    two = np.einsum("ijk,j->ik", table, w[1])
    assert np.allclose(pairs[2, 0].T, two - mean - alone[0][:, None] - alone[2][None, :])


def test_ranks_as_optuna_s_own_evaluator() -> None:
    """Few trees and trials: its evaluator takes 26 s for a metric of 1,000 trials."""
    import optuna

    space: dict[str, Range] = {name: Float(0.0, 1.0, "") for name in ("x", "y", "z")}
    points = draw(space, 128)
    values = (2 * points["x"] + points["y"]).to_numpy(float)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    ranges = {name: found.distribution() for name, found in space.items()}
    rows = points.to_dict("records")
    study.add_trials(
        [
            optuna.trial.create_trial(params={str(k): v for k, v in row.items()}, distributions=ranges, value=value)
            for row, value in zip(rows, values, strict=True)
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = optuna.importance.FanovaImportanceEvaluator(n_trees=8, seed=0).evaluate(study)
    ours = fanova(design(points, space), values)
    assert ours is not None
    assert np.abs(ours.alone - [theirs[name] for name in space]).max() < 0.1
    assert np.abs(ours.alone - [0.8, 0.2, 0.0]).max() < 0.05


def weight_of(name: str, found: Range, chosen: Callable[[float], bool]) -> float:
    axis = build_axis(name, found, pandas.Series([1.0]))
    return float(sum(w for level, w in zip(axis.levels, axis.weights, strict=True) if chosen(level)))


def test_cells_have_the_measure_of_what_is_drawn() -> None:
    assert weight_of("n", Int(1, 4, ""), lambda n: n == 1) == pytest.approx(0.25)
    # Optuna draws log whole numbers from 0.5 to 4.5: a third of log 9 is below 1.5.
    assert weight_of("n", Int(1, 4, "", log=True), lambda n: n == 1) == pytest.approx(math.log(3) / math.log(9))
    axis = build_axis("x", Float(0.01, 1.0, "", log=True), pandas.Series([0.01, 0.0999, 0.1001, 1.0]))
    assert axis.cells(pandas.Series([0.01, 0.0999, 0.1001, 1.0])).tolist() == [0, CELLS // 2 - 1, CELLS // 2, CELLS - 1]
    wide = build_axis("epochs", Int(5, 200, "", log=True), pandas.Series([5, 200]))
    assert wide.cells(pandas.Series([5, 200])).tolist() == [1, CELLS - 1]  # drawn from 4.5 on


def test_levels_of_a_grid_count_alike() -> None:
    """At levels 0, 1, 10 a forest that took the range as drawn would give the last level nearly all of it."""
    space: dict[str, Range] = {"beta": Float(0.0, 10.0, ""), "option": Choice(("a", "b"), "")}
    points = pandas.DataFrame([(b, o) for b in (0.0, 1.0, 10.0) for o in ("a", "b")] * 10, columns=["beta", "option"])
    axes = build_axes(space, points, grid=True)
    assert [len(axis.weights) for axis in axes] == [3, 2]
    made = build_design(axes, [points[axis.name] for axis in axes])
    values = (points["beta"] == 0).to_numpy(float) + 0.0
    shares = fanova(made, values)
    assert shares is not None
    assert shares.alone[0] > 0.95
    assert shares.alone[1] < 0.001


def test_a_fixed_field_is_no_axis() -> None:
    points = draw(SPACE, 16).assign(idle=0.5)
    assert "idle" not in [axis.name for axis in build_axes(SPACE, points)]
