"""Planted attacks: intervals, the sentence that quotes them, and where an attack that did not take counts nowhere."""

import math

import numpy as np
import pytest
from cleaning_parts import canaries, planted

from study.cleaning.canaries import Canaries
from study.cleaning.intervals import wilson
from study.cleaning.planting import planting_rates, target_of
from study.report.elements import Table


def test_wilson_intervals() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits, total, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(hits, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(20, 20)[1] == pytest.approx(1.0)


def test_images_of_one_planting_are_one_draw() -> None:
    """Trainings find a backdoor or not: of 400 sets of 3 plantings 95 % hold the share of trainings that find it.

    Counted by images, as if each were found or missed by itself, the intervals hold it almost never.
    """
    rng = np.random.default_rng(0)
    by_plantings, by_images = [], []
    for truth in rng.uniform(0, 1, 400):
        hits = [10 * int(share) for share in rng.binomial(1, truth, 3)]
        (rate,) = Canaries(tuple(planted(hits=one, seed=seed) for seed, one in enumerate(hits))).rates
        assert rate.low is not None
        assert rate.high is not None
        by_plantings.append(rate.low <= truth <= rate.high)
        low, high = wilson(sum(hits), 30)
        by_images.append(low <= truth <= high)
    assert 0.93 <= float(np.mean(by_plantings)) <= 0.99
    assert float(np.mean(by_images)) < 0.6


def test_plantings_that_differ_are_told_by_their_interval() -> None:
    """Measured on digits: FLARE finds 0.65 to 1.00 of patches in one set or another, and none in a third."""
    rates = [Canaries((planted(hits=9, seed=0), planted(hits=hits, seed=1))).rates[0] for hits in (9, 0)]
    assert [rate.tpr for rate in rates] == [pytest.approx(0.9), pytest.approx(0.45)]
    assert rates[0].low == pytest.approx(wilson(1.8, 2)[0])
    (one,) = Canaries((planted(hits=10),)).rates
    assert (one.low, one.high) == (pytest.approx(0.2065, abs=1e-4), pytest.approx(1.0))


def test_intervals_hold_the_truth() -> None:
    """Of 2,000 sets of 30 draws that each succeed with probability 0.8 about 95 % hold 0.8."""
    hits = np.random.default_rng(0).binomial(30, 0.8, 2000)
    held = [low <= 0.8 <= high for low, high in (wilson(int(one), 30) for one in hits)]
    assert 0.93 <= float(np.mean(held)) <= 0.98


def test_the_sentence_quotes_what_took() -> None:
    assert canaries().sentence == (
        "On your data a 1 % patch would have been found with TPR 0.90 and a 1 % blend with 0.40. A 1 % warp did not "
        "take on these data and counts nowhere."
    )
    failed = Canaries((planted(asr=0.2),))
    assert failed.sentence.startswith(
        "No planted attack took on these data, so nothing says what would have been found"
    )
    assert failed.counted == []


def test_plantings_of_one_attack_are_put_together() -> None:
    several = Canaries((planted(hits=9), planted(hits=5, seed=1), planted(hits=0, seed=2, asr=0.1)))
    (rate,) = several.rates
    assert (rate.tpr, rate.taken, rate.plantings) == (0.7, 2, 3)
    assert (rate.low, rate.high) == pytest.approx(wilson(1.4, 2))
    assert rate.fpr == pytest.approx(4 / 400)


def test_the_table_says_what_did_not_take() -> None:
    (table,) = [item for item in canaries().items() if isinstance(item, Table)]
    assert [row[6] for row in table.rows] == ["0.17 to 1.00", "0.04 to 0.92", "did not take"]
    assert [row[8] for row in table.rows] == ["1 of 1 took", "1 of 1 took", "0 of 1 took"]
    assert table.rows[2][5] is None


@pytest.mark.parametrize(
    ("samples", "rates"), [(50_000, (0.01, 0.05)), (500, (0.01, 0.05)), (200, (0.05,)), (40, (0.125,))]
)
def test_rates_plant_enough(samples: int, rates: tuple[float, ...]) -> None:
    assert planting_rates(samples) == rates
    assert all(math.floor(rate * samples + 1e-6) >= 5 for rate in rates)


def test_targets_are_classes_that_there_are() -> None:
    labels = np.array([1, 1, 4, 7])
    targets = {target_of(seed, labels) for seed in range(30)}
    assert targets == {1, 4, 7}
    assert target_of(3, labels) == target_of(3, labels)
