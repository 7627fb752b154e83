"""The stability region, against boxes found by hand."""

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.space import Choice, Float, Int, Range
from study.analysis.prim import peel_prim_box
from study.report.sections.region import Region, build_region

LINE: dict[str, Range] = {"x": Float(0.0, 10.0, "")}
NO_CHOICES = np.zeros((0, 0), np.int64)


def region(
    ranges: dict[str, Range], rows: list[tuple[object, ...]], good: list[bool], default: int | None = None
) -> Region:
    trials = pandas.DataFrame(rows, columns=list(ranges)).assign(paper_default=False)
    if default is not None:
        trials.loc[default, "paper_default"] = True
    return build_region(ranges, trials, np.array(good), trials)


def test_one_number_gives_the_longest_run() -> None:
    # place:          1     2      3     4     5     6     7      8     9
    good = [True, True, False, True, True, True, False, True, True]
    found = region(LINE, [(float(at),) for at in range(1, 10)], good, default=0)
    assert (found.trials, found.good, found.inside) == (9, 7, 3)
    assert found.bounds == {"x": "4 to 6"}
    assert found.volume == pytest.approx(0.2)
    assert found.default_inside is False


def test_an_end_without_a_bad_trial_is_the_range_s_own() -> None:
    found = region(LINE, [(float(at),) for at in range(1, 10)], [True] * 6 + [False] * 3, default=2)
    assert found.bounds == {"x": "0 to 6"}
    assert found.volume == pytest.approx(0.6)
    assert found.default_inside is True


def test_all_good_is_the_whole_space() -> None:
    found = region({**LINE, "o": Choice(("a", "b"), "")}, [(1.0, "a"), (9.0, "b")], [True, True])
    assert (found.inside, found.volume) == (2, 1.0)
    assert found.bounds == {"x": "0 to 10 (the whole range)", "o": "a, b (the whole range)"}
    assert found.default_inside is None


def test_none_good_is_no_box() -> None:
    found = region(LINE, [(1.0,), (2.0,)], [False, False])
    assert (found.good, found.inside, found.volume, found.bounds) == (0, 0, 0.0, {})


def test_a_log_range_is_measured_in_its_logarithm() -> None:
    ranges: dict[str, Range] = {"x": Float(0.01, 100.0, "", log=True)}
    found = region(ranges, [(0.1,), (1.0,), (10.0,)], [True, True, False])
    assert found.bounds == {"x": "0.01 to 1"}
    assert found.volume == pytest.approx(0.5)


def test_a_whole_number_is_as_wide_as_it_is_drawn() -> None:
    ranges: dict[str, Range] = {"n": Int(1, 4, "")}
    found = region(ranges, [(1,), (2,), (3,), (4,)], [False, True, True, False])
    assert found.bounds == {"n": "2 to 3"}
    assert found.volume == pytest.approx(0.5)


def test_two_numbers_and_a_corner() -> None:
    """Good where both are low, on a grid of 5 by 5: 9 of the 11 good trials lie in one box."""
    ranges: dict[str, Range] = {"x": Float(0.0, 4.0, ""), "y": Float(0.0, 4.0, "")}
    rows = [(float(x), float(y)) for x in range(5) for y in range(5)]
    good = [(x <= 2 and y <= 2) or (x, y) in ((4, 4), (0, 4)) for x, y in rows]
    found = region(ranges, rows, good)
    assert (found.good, found.inside) == (11, 9)
    assert found.bounds == {"x": "0 to 2", "y": "0 to 2"}
    assert found.volume == pytest.approx(0.25)


def test_an_option_is_cut_or_kept() -> None:
    """``b`` fails everywhere, ``a`` and ``c`` fail above 5: the box needs both cuts."""
    ranges: dict[str, Range] = {**LINE, "o": Choice(("a", "b", "c"), "")}
    rows = [(float(x), o) for x in range(1, 10) for o in "abc"]
    found = region(ranges, rows, [x <= 5 and o != "b" for x, o in rows])
    assert found.inside == 10
    assert found.bounds == {"x": "0 to 5", "o": "a, c"}
    assert found.volume == pytest.approx(0.5 * 2 / 3)


def test_a_good_trial_at_the_place_of_a_bad_one_is_in_no_box() -> None:
    found = region(LINE, [(1.0,), (1.0,), (5.0,)], [True, False, True])
    assert found.inside == 1
    assert found.bounds == {"x": "5 to 10"}


def test_only_good_trials_at_places_of_bad_ones_leave_no_box() -> None:
    found = region(LINE, [(1.0,), (1.0,)], [True, False])
    assert (found.good, found.inside, found.bounds) == (1, 0, {})


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2), st.booleans()), min_size=1, max_size=30)
)
def test_no_bad_trial_is_ever_inside(rows: list[tuple[int, int, int, bool]]) -> None:
    numbers = np.array([row[:2] for row in rows], float)
    choices = np.array([row[2:3] for row in rows], np.int64)
    good = np.array([row[3] for row in rows])
    box = peel_prim_box(numbers, choices, good, [(0.0, 6.0)] * 2, [3])
    if box is None:
        return
    inside = box.holds(numbers, choices)
    assert not (inside & ~good).any()
    assert (inside & good).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=25))
def test_one_number_is_always_the_best_run(good: list[bool]) -> None:
    numbers = np.arange(len(good), dtype=float)[:, None]
    box = peel_prim_box(numbers, np.zeros((len(good), 0), np.int64), np.array(good), [(0.0, float(len(good) - 1))], [])
    longest = max(map(len, "".join("x" if g else " " for g in good).split()), default=0)
    found = 0 if box is None else int(box.holds(numbers, np.zeros((len(good), 0), np.int64)).sum())
    assert found == longest
