"""What a metric does along one hyperparameter, beside what chance alone would do."""

import numpy as np
import pytest

from study.analysis.bins import span


def test_bins_of_noise_lie_apart_by_chance_alone() -> None:
    """Their largest difference was told as an effect; at 5 % it stands out in one of twenty."""
    rng = np.random.default_rng(0)
    bins = np.repeat(np.arange(6), 10)
    spans = [span(rng.normal(size=60), bins) for _ in range(100)]
    assert min(one.difference for one in spans) > 0.1
    assert sum(one.stands_out for one in spans) <= 12


def test_an_effect_stands_out() -> None:
    rng = np.random.default_rng(0)
    bins = np.repeat(np.arange(2), 12)
    one = span(bins + 0.1 * rng.normal(size=24), bins, tests=7)
    assert one.stands_out
    assert (one.low, one.high) == (0, 1)
    assert one.difference == pytest.approx(1.0, abs=0.1)


def test_equal_means_have_no_lowest_and_no_highest() -> None:
    one = span(np.full(20, 0.1 + 0.2), np.repeat([0, 1], 10))
    assert one.difference == 0.0
    assert not one.stands_out


def test_more_hyperparameters_take_more() -> None:
    values, bins = np.random.default_rng(1).normal(size=60), np.repeat(np.arange(6), 10)
    assert span(values, bins, tests=7).by_chance > span(values, bins).by_chance


def test_what_shares_a_training_changes_places_together() -> None:
    """Two settings a bin, of 30 trials each: chance puts bins as far apart as the orders of four settings do."""
    settings = np.repeat(np.arange(4), 30)
    values = np.array([0.0, 0.0, 1.0, 1.0])[settings]
    bins = settings // 2
    assert span(values, bins).stands_out, "as single trials, of which no order comes near"
    together = span(values, bins, settings=settings)
    assert together.difference == 1.0
    assert together.by_chance == 1.0, "two of six orders of the four"
    assert not together.stands_out
