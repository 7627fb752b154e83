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


def test_intervals_hold_the_truth() -> None:
    """Of 2,000 plantings of 30 images that are each found with probability 0.8 about 95 % hold 0.8."""
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
    assert (rate.low, rate.high) == pytest.approx(wilson(14, 20))
    assert rate.fpr == pytest.approx(4 / 400)


def test_the_table_says_what_did_not_take() -> None:
    (table,) = [item for item in canaries().items() if isinstance(item, Table)]
    assert [row[6] for row in table.rows] == ["0.60 to 0.98", "0.17 to 0.69", "did not take"]
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
