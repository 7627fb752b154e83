"""Paired numbers, each against one worked out by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.analysis.paired_tests import Difference, Pairs, differences, holm, sign_flip_p, t_interval


def pairs_of(rows: list[tuple[str, int, float, float]], metric: str = "ca") -> Pairs:
    """(stratum, seed, A, B), one a scenario."""
    frame = pandas.DataFrame(rows, columns=["stratum", "seed", f"{metric}_a", f"{metric}_b"])
    return Pairs(frame, {})


def one(rows: list[tuple[str, int, float, float]], metric: str = "ca") -> Difference:
    found = differences(pairs_of(rows, metric), [metric])
    return next(difference for difference in found if difference.stratum is None)


def test_interval_is_students_by_hand() -> None:
    # Differences 0.01, 0.02, 0.06: mean 0.03, s = sqrt(0.0014 / 2) = 0.0264575, t(0.975, 2) = 4.30265.
    low, high = t_interval([0.01, 0.02, 0.06])
    half = 4.30265272975 * 0.02645751311064591 / math.sqrt(3)
    assert (low, high) == (pytest.approx(0.03 - half), pytest.approx(0.03 + half))
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert t_interval([0.5]) == (None, None)


def test_p_of_three_pairs_by_hand() -> None:
    # |sums| over the 8 flips of 1, 2, 4: 7, 5, 3, 1, each twice.
    assert sign_flip_p([1, 2, 4]) == pytest.approx(2 / 8)
    assert sign_flip_p([1, 2, -4]) == pytest.approx(8 / 8)
    assert sign_flip_p([-1, 2, 4]) == pytest.approx(4 / 8)
    assert sign_flip_p([1, -2, 4]) == pytest.approx(6 / 8)


def test_pairs_that_do_not_differ_change_no_p() -> None:
    assert sign_flip_p([1, 2, 4, 0, 0, 1e-17]) == sign_flip_p([1, 2, 4])
    assert sign_flip_p([0.0, 0.0]) == sign_flip_p([]) == sign_flip_p([3.0]) == 1.0


@pytest.mark.parametrize("n", [2, 5, 9, 13])
def test_the_smallest_p_is_two_to_the_one_minus_n(n: int) -> None:
    assert sign_flip_p([0.25] * n) == pytest.approx(2.0 ** (1 - n))


def test_many_pairs_are_sampled_and_the_same_each_time() -> None:
    values = list(np.random.default_rng(1).normal(0.4, 1.0, 30))
    assert sign_flip_p(values) == sign_flip_p(values)
    exact = _enumerated(values[:12])
    assert sign_flip_p(values[:12]) == pytest.approx(exact)
    assert sign_flip_p([1.0] * 40) <= 2e-4


def _enumerated(values: list[float]) -> float:
    reached = abs(sum(values))
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(found >= reached - 1e-12 for found in sums) / len(sums)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=2, max_size=8))
def test_p_is_what_going_through_all_flips_gives(values: list[int]) -> None:
    assert sign_flip_p([value / 8 for value in values]) == pytest.approx(_enumerated([value / 8 for value in values]))


def test_holm_by_a_worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and never below an earlier one.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("seeds", "strata", "metrics", "picked_of", "needed"),
    [
        (1, 1, 1, 1, 5),  # one test: 2^(1-n) < 0.05 first at n = 6
        (3, 1, 5, 1, 5),  # all five metrics become testable together: 5 * 2^(1-n) < 0.05 first at n = 8
        (1, 3, 5, 1, 2),  # nine pairs; a stratum's three cannot reach 5 %, and cost nothing
        (8, 1, 5, 1, 0),
        (8, 1, 5, 2, 1),  # the best of two: 10 * 2^(1-n) < 0.05 first at n = 9
    ],
)
def test_seeds_needed_are_the_first_that_separate(
    seeds: int, strata: int, metrics: int, picked_of: int, needed: int
) -> None:
    """By hand, and tried: with as many seeds more whose signs agree the test separates, with one fewer it does not."""
    names = [f"tpr{number}" for number in range(metrics)]

    def judged(count: int) -> Difference:
        rows = [(f"x{stratum}", seed) for stratum in range(strata) for seed in range(count)]
        frame = pandas.DataFrame(rows, columns=["stratum", "seed"])
        for name in names:
            frame[f"{name}_a"], frame[f"{name}_b"] = 0.9, 0.8
        return differences(Pairs(frame, {}, picked_of=picked_of), names)[0]

    assert judged(seeds).more_seeds == needed
    assert judged(seeds + needed).verdict == "A"
    assert needed == 0 or judged(seeds + needed - 1).verdict in ("not separated", "not tested")


def test_differences_by_hand() -> None:
    rows = [("x", 0, 0.9, 0.8), ("x", 1, 0.9, 0.7), ("y", 0, 0.5, 0.5), ("y", 1, 0.6, 0.4)]
    found = {difference.stratum: difference for difference in differences(pairs_of(rows), ["ca"])}
    assert list(found) == [None, "x", "y"]
    # By seed: (0.1 + 0) / 2 = 0.05 and (0.2 + 0.2) / 2 = 0.2; t(0.975, 1) = 12.7062, s / sqrt(2) = 0.075.
    overall = found[None]
    assert (overall.pairs, overall.seeds, overall.differing) == (4, 2, 3)
    assert overall.mean == pytest.approx(0.125)
    assert (overall.a, overall.b) == (pytest.approx(0.725), pytest.approx(0.6))
    assert overall.low == pytest.approx(0.125 - 12.706204736 * 0.075)
    assert overall.high == pytest.approx(0.125 + 12.706204736 * 0.075)
    assert found["x"].mean == pytest.approx(0.15)
    assert found["y"].low == pytest.approx(0.1 - 12.706204736 * 0.1)


def test_what_cannot_reach_five_percent_is_not_tested_and_costs_nothing() -> None:
    rows = [(stratum, seed, 0.9, 0.8) for stratum in "xyz" for seed in range(3)]
    found = differences(pairs_of(rows), ["ca"])
    assert [(one.stratum, one.p, one.corrected, one.verdict) for one in found] == [
        (None, 2.0**-8, 2.0**-8, "A"),  # corrected for one test, not for four
        ("x", None, None, "not tested"),
        ("y", None, None, "not tested"),
        ("z", None, None, "not tested"),
    ]
    # Each stratum's test becomes possible with the same seeds: 4 * 2^(1-n) < 0.05 first at n = 8, and 3 differ.
    assert [one.more_seeds for one in found] == [0, 5, 5, 5]


def test_holm_goes_over_metrics_and_strata_together() -> None:
    rows = [(stratum, seed, 0.9, 0.8) for stratum in "xy" for seed in range(6)]
    frame = pairs_of(rows).frame.assign(asr_a=0.5, asr_b=0.25)
    found = differences(Pairs(frame, {}), ["ca", "asr"])
    assert [one.corrected for one in found] == pytest.approx([6 * 2.0**-11, 4 * 2.0**-5, 4 * 2.0**-5] * 2, abs=1e-3)
    ca, asr = (one for one in found if one.stratum is None)
    assert (ca.verdict, asr.verdict) == ("A", "B"), "a higher ASR is worse"


def test_one_seed_is_never_tested_however_many_scenarios() -> None:
    found = one([(f"attack{number}", 0, 0.9, 0.1) for number in range(20)])
    assert (found.low, found.high, found.p, found.verdict, found.more_seeds) == (None, None, None, "not tested", 1)


def test_seeds_that_a_stratum_lacks_do_not_count_over_all() -> None:
    rows = [("x", 0, 0.9, 0.8), ("x", 1, 0.9, 0.1), ("y", 0, 0.7, 0.6)]
    found = one(rows)
    assert (found.pairs, found.seeds) == (1 + 1, 1)
    assert found.mean == pytest.approx(0.1)
    apart = differences(pairs_of([("x", 0, 0.9, 0.8), ("y", 1, 0.7, 0.6)]), ["ca"])
    assert [difference.stratum for difference in apart] == ["x", "y"], "no seed is shared: nothing over all"


def test_undefined_metrics_are_left_out() -> None:
    nan = float("nan")
    found = differences(pairs_of([("x", 0, 0.9, nan), ("x", 1, 0.9, 0.8), ("x", 2, nan, 0.8)]), ["ca"])
    assert [difference.pairs for difference in found] == [1]
    assert differences(pairs_of([("x", 0, nan, 0.1)]), ["ca"]) == ()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=4, max_size=12), st.integers(1, 3))
def test_exchanging_the_sides_exchanges_the_answer(values: list[tuple[int, int]], strata: int) -> None:
    rows = [(f"x{at % strata}", at // strata, a / 100, b / 100) for at, (a, b) in enumerate(values)]
    swapped = [(stratum, seed, b, a) for stratum, seed, a, b in rows]
    other = {"A": "B", "B": "A"}
    for left, right in zip(differences(pairs_of(rows), ["ca"]), differences(pairs_of(swapped), ["ca"]), strict=True):
        assert right.verdict == other.get(left.verdict, left.verdict)
        assert (right.p is None) == (left.p is None)
        assert right.p is None or right.p == pytest.approx(left.p)
        assert right.mean == pytest.approx(-left.mean)
        assert left.corrected is None or left.corrected >= (left.p or 0) >= left.smallest_p - 1e-12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=20))
def test_the_same_numbers_are_never_separated(values: list[int]) -> None:
    rows = [(f"x{at % 2}", at // 2, value / 100, value / 100) for at, value in enumerate(values)]
    assert {found.verdict for found in differences(pairs_of(rows), ["ca"])} == {"equal"}


def test_chance_alone_is_separated_in_five_percent_of_all_cases_at_most() -> None:
    """The level of the whole procedure: two metrics, three strata, three seeds, no difference in truth."""
    rng = np.random.default_rng(7)
    wrong, repeats = 0, 40
    for _ in range(repeats):
        frame = pandas.DataFrame([(s, seed) for s in "xyz" for seed in range(3)], columns=["stratum", "seed"])
        for column in ("ca_a", "ca_b", "asr_a", "asr_b"):
            frame[column] = rng.normal(0.5, 0.1, len(frame))
        found = differences(Pairs(frame, {}), ["ca", "asr"])
        wrong += any(one.verdict in ("A", "B") for one in found)
    assert wrong <= 6, f"{wrong} of {repeats}: at a level of 5 % seven or more happen once in 300 times"


def test_the_best_of_many_is_separated_by_chance_in_five_percent_of_all_cases_at_most() -> None:
    """Twenty trials without a difference in truth: the best of them is no better, however it looks."""
    rng = np.random.default_rng(3)
    wrong = lucky = 0
    for _ in range(40):
        trials = rng.normal(0.5, 0.1, (20, 10))
        best = max(trials[1:], key=np.mean)
        rows = [("x", seed, a, b) for seed, (a, b) in enumerate(zip(best, trials[0], strict=True))]
        (judged,) = differences(dataclasses.replace(pairs_of(rows), picked_of=19), ["ca"])
        wrong += judged.verdict == "A"
        lucky += judged.p is not None and judged.p < 0.05
    assert wrong <= 6, f"{wrong}: at a level of 5 % seven or more happen once in 300 times"
    assert lucky > 6, f"{lucky}: without a correction for the choice the level does not hold"
