"""Samplers, grids and ledgers over a space of which fields act only at some values of others."""

import itertools
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from small_study import empty_ledger

from defenses.registry import UserError
from search_spaces.conditions import Conditions, where, where_above
from search_spaces.space import Choice, Float, Int, Range, SearchSpace
from study.config.objectives import Direction
from study.ledger.grid import Grid, Points, make_grid
from study.ledger.ledger import Ledger
from study.ledger.samplers import _WholeParents

SAMPLERS = ["tpe", "nsga2", "random", "qmc"]
SMALL: dict[str, Range] = {
    "rule": Choice(("all", "some"), "w"),
    "limit": Int(1, 3, "w", when=where("rule", "some")),
    "passed": Choice(("above", "reached"), "w", when=where_above("limit", 1)),
}
POINTS: list[dict[str, Any]] = [
    {"rule": "all"},
    {"rule": "some", "limit": 1},
    *({"rule": "some", "limit": limit, "passed": passed} for limit in (2, 3) for passed in ("above", "reached")),
]
ENDLESS: dict[str, Range] = {
    "rule": Choice(("all", "some", "most"), "w"),
    "limit": Float(0.0, 1.0, "w", when=where("rule", "some")),
    "beta": Float(0.0, 1.0, "w"),
}


def key(point: Mapping[str, Any]) -> str:
    return repr(sorted(point.items()))


def open_ledger(
    folder: Path,
    ranges: Mapping[str, Range],
    sampler: str,
    goals: int = 1,
    grid: Grid | Points | None = None,
    planned: int = 12,
    reused: Any = None,
) -> Ledger:
    directions: tuple[Direction, ...] = ("maximize",) * goals
    path = folder / "study.db"
    if not path.exists():
        path.write_bytes(empty_ledger(directions))
    space = SearchSpace("toy", "pipd", ranges)
    return Ledger(path, "toy", space, directions, sampler, 0, planned, key, grid, reused=reused)


def go_through(ledger: Ledger, goals: int = 1) -> list[dict[str, Any]]:
    """All points in the order of trials, two of which are always open."""
    points, running = [], []
    while not ledger.used_up():
        number, point, name = ledger.ask()
        assert name == key(point)
        points.append(point)
        running.append(number)
        if len(running) == 2:
            value = float(point.get("limit", 0))
            ledger.tell(running.pop(0), ((value,) * goals if goals > 1 else value, ""))
        assert len(points) < 20
    return points


@pytest.mark.parametrize(("sampler", "goals"), [*((name, 1) for name in SAMPLERS), ("tpe", 2), ("nsga2", 2)])
def test_every_point_comes_once_and_has_no_idle_field(tmp_path: Path, sampler: str, goals: int) -> None:
    ledger = open_ledger(tmp_path, SMALL, sampler, goals)
    ledger.enqueue_default({"rule": "some", "limit": 1})
    points = go_through(ledger, goals)
    assert points[0] == {"rule": "some", "limit": 1}
    assert len(points) == len(POINTS) == 6
    assert all(point in points for point in POINTS)
    assert [row.point for row in ledger.rows()] == points
    assert all(list(point) == [name for name in SMALL if name in point] for point in points)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_of_real_numbers_goes_on_after_a_stop(tmp_path: Path, sampler: str) -> None:
    points = []
    for _ in range(2):
        ledger = open_ledger(tmp_path, ENDLESS, sampler, planned=20)
        for _ in range(10):
            number, point, _ = ledger.ask()
            ledger.tell(number, (point.get("limit", 0.3) - point["beta"], ""))
            points.append(point)
    space = SearchSpace("toy", "pipd", ENDLESS)
    assert all(point in space for point in points)
    assert all(("limit" in point) is (point["rule"] == "some") for point in points)
    assert len({key(point) for point in points}) == 20
    assert len({point["rule"] for point in points}) > 1


def test_tpe_learns_what_a_conditional_field_does(tmp_path: Path) -> None:
    """Trials in which it does nothing do not keep the search from it, nor it from them."""
    ledger = open_ledger(tmp_path, ENDLESS, "tpe", planned=40)
    points = []
    for _ in range(40):
        number, point, _ = ledger.ask()
        ledger.tell(number, (-abs(point.get("limit", 0.0) - 0.8), ""))
        points.append(point)
    late = points[20:]
    assert sum(point["rule"] == "some" for point in late) > 10, "chance would make it 7"
    assert np.median([abs(point["limit"] - 0.8) for point in late if "limit" in point]) < 0.15, "and this 0.35"


def test_a_parent_hands_on_what_did_nothing_in_it_as_drawn_once() -> None:
    space = SearchSpace("toy", "pipd", ENDLESS)
    sampler = _WholeParents(space, 3, 4)
    study = optuna.create_study(sampler=sampler)
    point: dict[str, Any] = {"rule": "all", "beta": 0.5}
    own = {name: space.distributions()[name] for name in point}
    parents = [optuna.trial.create_trial(params=point, distributions=own, value=0.0) for _ in range(2)]
    parents[1].number = 1
    whole = [sampler._whole(study, parent) for parent in (*parents, *parents)]
    assert all(parent.params == {**point, "limit": whole[at].params["limit"]} for at, parent in enumerate(whole))
    limits = [parent.params["limit"] for parent in whole]
    assert limits[:2] == limits[2:]
    assert limits[0] != limits[1]
    assert parents[0].params == point, "in the ledger it stays as it is"


def test_a_quasi_random_design_stays_what_it_is(tmp_path: Path) -> None:
    """Points of the space without conditions, each without its idle fields: all others are spread as ever."""
    (tmp_path / "free").mkdir()
    free = {name: Float(0.0, 1.0, "w") if name == "limit" else own for name, own in ENDLESS.items()}
    whole = open_ledger(tmp_path / "free", free, "qmc")
    ledger = open_ledger(tmp_path, ENDLESS, "qmc")
    conditions = SearchSpace("toy", "pipd", ENDLESS).conditions
    for _ in range(12):
        assert ledger.ask()[1] == conditions.drop_idle(whole.ask()[1])


def test_a_grid_has_no_two_points_that_are_the_same(tmp_path: Path) -> None:
    grid = make_grid(SearchSpace("toy", "pipd", SMALL), {"limit": 2})
    expected = [
        {"rule": "all"},
        {"rule": "some", "limit": 1},
        {"rule": "some", "limit": 3, "passed": "above"},
        {"rule": "some", "limit": 3, "passed": "reached"},
    ]
    assert grid.size == 4
    assert sorted(map(key, grid.points(0))) == sorted(map(key, expected))
    assert all(point in grid for point in expected)
    assert {"rule": "all", "limit": 1} not in grid
    assert {"rule": "some", "limit": 2, "passed": "above"} not in grid
    ledger = open_ledger(tmp_path, SMALL, "grid", grid=grid)
    assert sorted(map(key, go_through(ledger))) == sorted(map(key, expected))


def test_a_grid_without_conditions_keeps_its_order() -> None:
    """Of studies on disk, whose next point is the first that no trial has."""
    values: dict[str, Any] = {"a": (1, 2, 3), "b": ("x", "y")}
    points = list(itertools.product(*values.values()))
    random.Random(7).shuffle(points)
    assert [tuple(point.values()) for point in Grid(values, Conditions()).points(7)] == points


def test_given_points_may_have_other_fields(tmp_path: Path) -> None:
    given = Points(tuple(POINTS[:3]))
    assert POINTS[1] in given
    assert POINTS[4] not in given
    assert go_through(open_ledger(tmp_path, SMALL, "qmc", grid=given)) == POINTS[:3]


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_settings_that_trials_share_have_no_idle_field(tmp_path: Path, sampler: str) -> None:
    ranges = {**SMALL, "beta": Float(0.0, 1.0, "w")}
    ledger = open_ledger(tmp_path, ranges, sampler, reused=(("rule", "limit", "passed"), 4))
    points = [ledger.ask()[1] for _ in range(16)]
    settings = Counter(key({name: value for name, value in point.items() if name != "beta"}) for point in points)
    assert len(settings) == 4
    assert set(settings.values()) == {4}
    assert settings.keys() <= {key(point) for point in POINTS}
    assert len({point["beta"] for point in points}) == 16


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_a_study_that_was_begun_before_goes_on(tmp_path: Path, sampler: str) -> None:
    """Its points have the field where it does nothing: they count as those without it, and are not tried again."""
    free = {
        name: type(own)(*[getattr(own, part) for part in parts], "w")
        for name, (own, parts) in {
            "rule": (SMALL["rule"], ("options",)),
            "limit": (SMALL["limit"], ("low", "high")),
            "passed": (SMALL["passed"], ("options",)),
        }.items()
    }
    before = open_ledger(tmp_path, free, "random")
    begun = [{"rule": "all", "limit": 3, "passed": "above"}, {"rule": "some", "limit": 2, "passed": "reached"}]
    for point in begun:
        before._study.enqueue_trial(point)
        assert before.ask()[1] == point
    before.tell(0, (0.5, ""))  # the other is open when the driver is stopped
    ledger = open_ledger(tmp_path, SMALL, sampler)
    assert ledger.recover_interrupted(lambda _key: None) == (0, 1)
    points = go_through(ledger)
    assert points[0] == begun[1], "first what was open"
    assert sorted(map(key, points)) == sorted(map(key, POINTS[1:])), "all but what was told"


def test_an_open_trial_of_before_comes_again_without_its_idle_fields(tmp_path: Path) -> None:
    before = open_ledger(
        tmp_path, {name: own for name, own in ENDLESS.items()} | {"limit": Float(0.0, 1.0, "w")}, "qmc"
    )
    asked = next(point for point in (before.ask()[1] for _ in range(20)) if point["rule"] != "some")
    ledger = open_ledger(tmp_path, ENDLESS, "qmc")
    ledger.recover_interrupted(lambda _key: None)
    again = [ledger.ask()[1] for _ in range(1 + asked_before(before, asked))][-1]
    assert again == {"rule": asked["rule"], "beta": asked["beta"]}


def asked_before(ledger: Ledger, point: Mapping[str, Any]) -> int:
    return [row.point for row in ledger.rows()].index(dict(point))


def test_a_study_of_a_version_with_other_options_is_refused_in_one_line(tmp_path: Path) -> None:
    before = open_ledger(tmp_path, {**SMALL, "rule": Choice(("all", "some", "most"), "w")}, "random")
    before.ask()
    with pytest.raises(UserError, match="'toy' was begun by a version in which rule was searched among other") as told:
        open_ledger(tmp_path, SMALL, "random")
    assert len(str(told.value).splitlines()) == 1


def test_tools_that_open_a_ledger_see_the_fields_that_act(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, SMALL, "qmc")
    points = go_through(ledger)
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [trial.params for trial in study.trials] == points
