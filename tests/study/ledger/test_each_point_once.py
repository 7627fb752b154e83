"""No sampler proposes a point that another trial has, in any state, and a space that is used up is said to be."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_study import empty_ledger

from search_spaces.space import Choice, Float, Int, Range, SearchSpace
from study.config.objectives import Direction
from study.driver.searcher import LedgerSearcher
from study.ledger.ledger import Ledger

SAMPLERS = ["tpe", "nsga2", "random", "qmc"]
SMALL: dict[str, Range] = {"rounds": Int(1, 3, "w"), "statistic": Choice(("max", "mean"), "w")}
ONE: dict[str, Range] = {"beta": Float(0.5, 0.5, "w"), "rounds": Int(2, 2, "w")}
MIXED: dict[str, Range] = {**SMALL, "beta": Float(0.0, 1.0, "w")}


def open_ledger(folder: Path, ranges: Mapping[str, Range], sampler: str, planned: int = 12, goals: int = 1) -> Ledger:
    directions: tuple[Direction, ...] = ("maximize",) * goals
    path = folder / "study.db"
    if not path.exists():
        path.write_bytes(empty_ledger(directions))
    space = SearchSpace("toy", "pipd", ranges)
    return Ledger(path, "toy", space, directions, sampler, 0, planned, lambda point: repr(sorted(point.items())))


def every() -> set[tuple[Any, ...]]:
    return set(itertools.product((1, 2, 3), ("max", "mean")))


@pytest.mark.parametrize("goals", [1, 2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_is_gone_through_whole(tmp_path: Path, sampler: str, goals: int) -> None:
    ledger = open_ledger(tmp_path, SMALL, sampler, goals=goals)
    ledger.enqueue_default({"rounds": 2, "statistic": "max"})
    points, running = [], []
    while not ledger.used_up():
        number, point, _ = ledger.ask()
        points.append(tuple(point.values()))
        running.append(number)
        if len(running) == 2:  # two workers: one trial is always running while the next is asked for
            value = 1.0 if point["rounds"] == 3 else 0.0  # a search that settles on a few points
            ledger.tell(running.pop(0), ((value,) * goals if goals > 1 else value, ""))
    assert points[0] == (2, "max")
    assert len(points) == 6
    assert set(points) == every()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trial_in_any_state_has_its_point(tmp_path: Path, sampler: str) -> None:
    ledger = open_ledger(tmp_path, SMALL, sampler)
    first, one, _ = ledger.ask()
    second, two, _ = ledger.ask()
    _, three, _ = ledger.ask()
    ledger.tell(first, (None, "broken"))  # it would fail again
    ledger.tell(second, (0.5, ""))
    after = open_ledger(tmp_path, SMALL, sampler)
    assert after.recover_interrupted(lambda _key: None) == (0, 1)  # the third is queued again, and comes next
    assert not after.used_up()
    assert after.ask()[1] == three
    rest = [after.ask()[1] for _ in range(3)]
    assert len({tuple(point.values()) for point in (one, two, three, *rest)}) == 6
    assert after.used_up()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("ranges", [ONE, {}], ids=["one", "none"])
def test_a_space_of_one_point_has_one_trial(tmp_path: Path, sampler: str, ranges: dict[str, Range]) -> None:
    ledger = open_ledger(tmp_path, ranges, sampler)
    assert not ledger.used_up()
    ledger.enqueue_default({"beta": 0.5, "rounds": 2} if ranges else {})
    assert not ledger.used_up()
    ledger.ask()
    assert ledger.used_up()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_with_real_numbers_has_no_end(tmp_path: Path, sampler: str) -> None:
    ledger = open_ledger(tmp_path, MIXED, sampler, planned=20)
    points = []
    for _ in range(20):
        number, point, _ = ledger.ask()
        points.append(tuple(point.values()))
        ledger.tell(number, (float(point["rounds"] == 3), ""))
        assert point.keys() == MIXED.keys()
    assert len(set(points)) == 20
    assert not ledger.used_up()


def test_quasi_monte_carlo_covers_the_space_from_the_first_point(tmp_path: Path) -> None:
    """Optuna's own draws at random until a trial is complete: a cluster's first trials would all be random ones."""
    ledger = open_ledger(tmp_path, {"a": Float(0, 1, "w"), "b": Float(0, 1, "w")}, "qmc")
    points = [ledger.ask()[1] for _ in range(16)]
    for name in ("a", "b"):
        assert sorted(int(point[name] * 16) for point in points) == list(range(16))  # one in each sixteenth: Sobol'


def test_the_searcher_ends_where_the_space_does(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, ONE, "tpe")
    searcher = LedgerSearcher(ledger, 6, lambda number, key, error: ledger.tell(number, (0.5, "")) and None, 0.0)
    assert isinstance(searcher.suggest("a"), dict)
    assert searcher.suggest("b") is None  # the running trial may come back
    searcher.on_trial_complete("a", {})
    assert searcher.suggest("b") == searcher.FINISHED
