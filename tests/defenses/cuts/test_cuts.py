"""Cuts against exact arithmetic, jenkspy, and the best cut there is where it is known; and on scores without poison."""

from fractions import Fraction

import jenkspy
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from defenses.cuts import CLUSTERINGS
from defenses.cuts.variance import explained_variance, natural_breaks, two_class_cut

BY_VARIANCE = ("fisher_jenks", "kmeans", "bisecting_kmeans", "minibatch_kmeans")
MODELLED = ("minimum_error", "gaussian_mixture", "robust_tail")
FIXED = settings(max_examples=200, deadline=None, derandomize=True, database=None)
WHOLE = st.lists(st.integers(-12, 12), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1)
REAL = st.lists(st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 6)), min_size=2, max_size=40, unique=True)


def best_breaks(values: list[float]) -> list[float]:
    """Every optimal break, lowest first, in exact arithmetic."""
    ordered = sorted(Fraction(v) for v in values)

    def within(group: list[Fraction]) -> Fraction:
        return sum(v * v for v in group) - sum(group) ** 2 / len(group)

    costs = [within(ordered[:k]) + within(ordered[k:]) for k in range(1, len(ordered))]
    return sorted({float(ordered[k]) for k, cost in enumerate(costs) if cost == min(costs)})


def array(values: list[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 9, 10], 3),
        ([10, 1, 9, 2, 3], 3),  # order does not matter
        ([1, 2, 3], 1),  # {1}{2,3} and {1,2}{3} are equally good: the lowest counts
        ([-3, 0, 1, 2, 5], 0),  # and here: 13 1/6 for 0 and for 1
        ([0, 0, 0, 1], 0),
        ([0, 1, 1, 1], 0),
        ([5, 7], 5),
        ([2, 2, 2], 2),
        ([4], 4),
    ],
)
def test_cuts_worked_out_by_hand(values: list[float], expected: float) -> None:
    assert two_class_cut(array(values)) == expected


@given(WHOLE)
@FIXED
def test_the_cut_is_the_lowest_optimal_one_with_ties(values: list[float]) -> None:
    assert two_class_cut(array(values)) == best_breaks(values)[0]


@given(REAL, st.sampled_from([0.0, 1e3, -1e6]))
@FIXED
def test_the_cut_is_optimal_for_floats_also_far_from_zero(values: list[float], offset: float) -> None:
    moved = array(values) + offset
    assume(len(np.unique(moved)) > 1)
    assert two_class_cut(moved) == best_breaks(moved.tolist())[0]


# jenkspy rounds: of several optimal breaks it gives any. Where the optimum is unique it must be ours.
@given(WHOLE | REAL)
@example([1, 2, 3, 9, 10])
@FIXED
def test_the_cut_is_jenkspys(values: list[float]) -> None:
    best = best_breaks(values)
    theirs = float(jenkspy.jenks_breaks(array(values), n_classes=2)[1])
    assert theirs in best
    if len(best) == 1:
        assert two_class_cut(array(values)) == theirs


@pytest.mark.parametrize(("n", "seed"), [(3, 0), (100, 1), (2_000, 2), (5_000, 3)])
def test_the_cut_is_jenkspys_at_every_size(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for values in (rng.normal(size=n), rng.exponential(size=n), np.append(rng.normal(size=n - 1), 30.0)):
        assert two_class_cut(values) == jenkspy.jenks_breaks(values, n_classes=2)[1]


def test_the_scores_are_left_as_they_are() -> None:
    scores = array([3, 1, 2])
    two_class_cut(scores)
    assert scores.tolist() == [3, 1, 2]


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("value", [0.0, -7.5, 1e6])
def test_a_constant_flags_nothing(clustering: str, value: float) -> None:
    flagged = CLUSTERINGS[clustering](np.full(20, value), 0)
    assert flagged.dtype == np.bool_
    assert not flagged.any()


def test_exactly_the_planted_samples_are_flagged() -> None:
    rng = np.random.default_rng(0)
    planted = np.zeros(10_000, dtype=bool)
    planted[rng.permutation(10_000)[:500]] = True
    scores = np.where(planted, rng.normal(30, 1, 10_000), rng.normal(0, 1, 10_000))
    assert np.array_equal(CLUSTERINGS["fisher_jenks"](scores, 0), planted)
    # The published rule, for comparison: it takes the largest benign sample along.
    assert (scores >= jenkspy.jenks_breaks(scores, n_classes=2)[1]).sum() == 501


@pytest.mark.parametrize(
    ("clustering", "share"),
    [
        *((name, share) for name in BY_VARIANCE for share in (0.05, 0.5, 0.9)),
        *((name, share) for name in MODELLED for share in (0.05, 0.2)),
    ],
)
def test_all_clusterings_find_well_separated_classes(clustering: str, share: float) -> None:
    rng = np.random.default_rng(1)
    planted = np.arange(400) < share * 400
    rng.shuffle(planted)
    scores = rng.normal(0, 1, 400) + 40 * planted
    assert np.array_equal(CLUSTERINGS[clustering](scores, 3), planted)


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_the_upper_class_is_flagged_whatever_the_sign_and_scale(clustering: str) -> None:
    few = clustering in BY_VARIANCE
    scores = array([-1000, -1001, -999, -1000.5] * (1 if few else 15) + [-10, -11] * (1 if few else 5))
    for scale in (1.0, 1e-4):
        assert CLUSTERINGS[clustering](scores * scale, 0).tolist() == (scores > -500).tolist()


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_the_same_seed_gives_the_same_flags(clustering: str) -> None:
    scores = np.random.default_rng(2).normal(size=300)  # one lump: a clustering that draws could split it anyhow
    np.random.seed(1)  # noqa: NPY002 - a library that draws from the global state must not matter
    first = CLUSTERINGS[clustering](scores, 5)
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(CLUSTERINGS[clustering](scores, 5), first)


# Against the best cut there is


N = 20_000
MIXTURES = {"apart": (6.0, 1.0), "wide": (6.0, 3.0), "near": (4.0, 1.0), "narrow": (10.0, 0.3)}


def mixture(share: float, mean: float, spread: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Clean scores from N(0, 1) and poison from N(mean, spread), and who is poison."""
    rng, count = np.random.default_rng(seed), round(share * N)
    poison = np.arange(N) >= N - count
    return np.concatenate([rng.normal(0, 1, N - count), rng.normal(mean, spread, count)]), poison


def least_errors(scores: NDArray[np.float64], poison: NDArray[np.bool_], mean: float, spread: float) -> int:
    """Errors of the Bayes rule, which knows both distributions and the share."""
    share = poison.mean()
    clean = np.log(1 - share) - scores**2 / 2
    planted = np.log(share) - np.log(spread) - (scores - mean) ** 2 / (2 * spread**2)
    flagged = (planted > clean) & (scores > 0)
    return int((flagged != poison).sum())


@pytest.mark.parametrize("clustering", ["minimum_error", "gaussian_mixture"])
@pytest.mark.parametrize("share", [0.005, 0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("kind", MIXTURES)
def test_cuts_for_normal_scores_err_hardly_more_than_the_best_one(kind: str, share: float, clustering: str) -> None:
    scores, poison = mixture(share, *MIXTURES[kind])
    errors = int((CLUSTERINGS[clustering](scores, 0) != poison).sum())
    # A second class that overlaps the first is cut a little too high by whoever sees the upper class without its foot.
    assert errors <= 1.35 * least_errors(scores, poison, *MIXTURES[kind]) + 10


@pytest.mark.parametrize(("kind", "share"), [("apart", 0.005), ("apart", 0.01), ("near", 0.05)])
def test_a_cut_by_variance_goes_through_the_clean_class_where_poison_is_rare(kind: str, share: float) -> None:
    """Why there are others: the prescribed cut flags a quarter of the clean samples and more."""
    scores, poison = mixture(share, *MIXTURES[kind])
    assert CLUSTERINGS["fisher_jenks"](scores, 0)[~poison].mean() > 0.2
    assert CLUSTERINGS["minimum_error"](scores, 0)[~poison].mean() < 0.005


@pytest.mark.parametrize("seed", range(5))
def test_without_poison_next_to_nothing_is_flagged(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normal, heavy, skewed = rng.normal(size=N), rng.standard_t(3, size=N), rng.lognormal(0, 0.5, size=N)
    assert CLUSTERINGS["fisher_jenks"](normal, 0).mean() > 0.4
    assert not CLUSTERINGS["minimum_error"](normal, 0).any()
    assert CLUSTERINGS["robust_tail"](normal, 0).sum() <= 4
    assert CLUSTERINGS["robust_tail"](heavy, 0).mean() < 0.01
    assert CLUSTERINGS["robust_tail"](skewed, 0).mean() < 0.03
    for scores in (normal, heavy, skewed, rng.exponential(size=N)):
        assert not CLUSTERINGS["gaussian_mixture"](scores, 0).any()


def test_the_criterion_is_kittlers_and_illingworths() -> None:
    """J at every cut, from its definition; the least is where `minimum_error` cuts."""
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(0, 1, 180), rng.normal(7, 0.5, 20)])
    ordered = np.sort((scores - scores.mean()) / scores.std())

    def criterion(k: int) -> float:
        parts = ordered[:k], ordered[k:]
        shares = [len(part) / len(ordered) for part in parts]
        return 1 + 2 * sum(p * np.log(part.std()) - p * np.log(p) for p, part in zip(shares, parts, strict=True))

    best = min(range(80, 196), key=criterion)
    assert CLUSTERINGS["minimum_error"](scores, 0).sum() == len(scores) - best


def test_the_tail_begins_at_the_universal_threshold() -> None:
    # Median 0, and the distances below it are 1, ..., 10 with the median 5.5: 1.4826 * 5.5 * sqrt(2 ln 21) = 20.12.
    scores = array([float(value) for value in range(-10, 10)] + [20.2])
    assert CLUSTERINGS["robust_tail"](scores, 0).tolist() == [False] * 20 + [True]
    scores[-1] = 20.0
    assert not CLUSTERINGS["robust_tail"](scores, 0).any()


@pytest.mark.parametrize("clustering", MODELLED)
def test_a_handful_of_scores_has_no_second_class(clustering: str) -> None:
    assert not CLUSTERINGS[clustering](array([0, 1, 2, 9]), 0).any()


def test_explained_variance_by_hand() -> None:
    # Mean 3, total sum of squares 4 + 1 + 0 + 1 + 4 = 10; between {1,2,3} (mean 2) and {4,5} (mean 4.5):
    # 3 * 1 + 2 * 2.25 = 7.5.
    scores = array([5, 1, 3, 2, 4])
    assert explained_variance(scores, scores > 3) == pytest.approx(0.75)
    assert explained_variance(array([0, 0, 1]), np.array([False, False, True])) == pytest.approx(1)
    assert explained_variance(scores, np.zeros(5, dtype=bool)) == 0
    assert explained_variance(scores, np.ones(5, dtype=bool)) == 0
    assert explained_variance(np.full(5, 2.0), scores > 3) == 0
    # The wrong way round is still a split: the share between the classes has no sign.
    assert explained_variance(scores, scores <= 3) == pytest.approx(0.75)


@given(WHOLE, st.data())
@FIXED
def test_explained_variance_is_a_share(values: list[float], data: st.DataObject) -> None:
    flagged = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    assert -1e-9 <= explained_variance(array(values), flagged) <= 1 + 1e-9


def test_explained_variance_never_passes_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        low, high = np.sort(rng.normal(size=2))
        scores = np.where(np.arange(10) < rng.integers(1, 9), low, high)
        assert 0 <= explained_variance(scores, scores > low) <= 1


def test_breaks_of_more_classes() -> None:
    scores = array([1, 2, 3, 9, 10, 50, 51])
    assert natural_breaks(scores, 2) == [1, 10, 51]
    assert natural_breaks(scores, 3) == [1, 3, 10, 51]


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_what_is_most_suspect_is_flagged_first(clustering: str) -> None:
    """The upper class is narrower than the bulk, whose density is the larger again far above."""
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(0, 3, 950), random.normal(10, 0.3, 48), [14.0, 15.0]])
    flagged = CLUSTERINGS[clustering](scores, 0)
    assert flagged[-2:].all()
    assert scores[flagged].min() > scores[~flagged].max()
