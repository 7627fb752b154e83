"""The grid: its points, what cannot be listed, and how a study goes through it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_study import empty_ledger, save_npz, small_plan

from defenses.registry import UserError
from search_spaces.space import Choice, Float, Int, SearchSpace
from study.datasets.images import Images
from study.ledger.grid import make_grid
from study.ledger.ledger import Ledger
from study.planning.plan import Plan

SPACE = SearchSpace(
    "toy",
    "pipd",
    {
        "beta": Float(0.0, 6.0, "why"),
        "rate": Float(0.01, 1.0, "why", log=True),
        "rounds": Int(1, 3, "why"),
        "statistic": Choice(("max", "mean"), "why"),
    },
)
DEFAULT: dict[str, Any] = {"beta": 1.5, "rate": 0.1, "rounds": 2, "statistic": "max"}


def test_the_values_of_each_kind_of_range() -> None:
    found = make_grid(SPACE, {"beta": 4, "rate": 3})
    assert found.values["beta"] == (0.0, 2.0, 4.0, 6.0)
    assert found.values["rate"] == pytest.approx((0.01, 0.1, 1.0))  # equal ratios
    assert (found.values["rate"][0], found.values["rate"][-1]) == (0.01, 1.0), "the ends are exact"
    assert found.values["rounds"] == (1, 2, 3)
    assert found.values["statistic"] == ("max", "mean")
    assert found.size == 4 * 3 * 3 * 2


def test_values_that_are_named_are_taken_as_they_are() -> None:
    space = SearchSpace(
        "toy", "pipd", {**SPACE.ranges, "epoch": Choice((4, 8, 30), "why"), "crop": Choice((False, True), "")}
    )
    named = {
        "beta": ("3", "0.5"),
        "rate": 2,
        "rounds": ("3", "1"),
        "epoch": ("30", "4"),
        "crop": ("true", "False"),
    }
    found = make_grid(space, named)
    assert found.values["beta"] == (3.0, 0.5), "in the order given"
    assert all(isinstance(value, float) for value in found.values["beta"]), "as the ledger has them"
    assert (found.values["rounds"], found.values["epoch"], found.values["crop"]) == ((3, 1), (30, 4), (True, False))
    assert (found.values["statistic"], found.size) == (("max", "mean"), 2 * 2 * 2 * 2 * 2 * 2)


def test_a_range_of_one_number_needs_no_resolution() -> None:
    space = SearchSpace("toy", "pipd", {"rounds": Int(2, 2, "why"), "beta": Float(3.0, 3.0, "why")})
    assert make_grid(space, {}).values == {"rounds": (2,), "beta": (3.0,)}


def test_whole_numbers_stay_whole_and_apart() -> None:
    space = SearchSpace("toy", "pipd", {"epochs": Int(5, 200, "why", log=True), "few": Int(1, 3, "why")})
    found = make_grid(space, {"epochs": 4, "few": 8})
    assert found.values["epochs"] == (5, 17, 58, 200)  # 5 * 40 ** (1 / 3) = 17.1, 5 * 40 ** (2 / 3) = 58.5
    assert found.values["few"] == (1, 2, 3)


def test_the_order_covers_the_grid_and_depends_on_the_seed_alone() -> None:
    grid = make_grid(SPACE, {"beta": 4, "rate": 3})
    points = list(grid.points(1))
    assert len({tuple(point.values()) for point in points}) == grid.size
    assert all(point in grid for point in points)
    assert list(grid.points(1)) == points
    assert list(grid.points(2)) != points
    assert len({point["beta"] for point in points[:12]}) > 1, "the first points do not stay in one corner"


@pytest.mark.parametrize(
    ("resolution", "parts"),
    [
        ({}, ["beta, rate may be any number", "--resolution beta=4 rate=4", "--set beta=VALUE", "--sampler qmc"]),
        ({"beta": 3}, ["rate may be any number", "--resolution rate=4"]),
        ({"gamma": 3}, ["names a field that is searched", "searched: beta, rate"]),
        ({"betta": 3}, ["did you mean 'beta'?"]),
        ({"statistic": 3}, ["--resolution statistic", "max, mean", "leave it out"]),
        ({"beta": ("1", "7")}, ["--resolution beta", "[0, 6]", "got '7'"]),
        ({"beta": ("1", "x")}, ["--resolution beta", "got 'x'"]),
        ({"beta": ("1", "1.0")}, ["--resolution beta", "more than once", "got 1,1.0"]),
        ({"rounds": ("1", "1.5")}, ["--resolution rounds", "1 to 3", "got '1.5'"]),
        ({"statistic": ("max", "median")}, ["--resolution statistic", "max, mean", "got 'median'"]),
        ({"beta": 1000, "rate": 1000}, ["at most 100000 configurations", "6000000", "lower --resolution"]),
    ],
)
def test_what_makes_no_grid_is_refused(resolution: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        make_grid(SPACE, resolution)
    assert all(part in str(refused.value) for part in parts), str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[[], Ledger]:
    """Opens a ledger on a grid of 12 points, as each driver does."""
    path = tmp_path / "study.db"
    path.write_bytes(empty_ledger("maximize"))
    space = SearchSpace("toy", "pipd", {name: SPACE.ranges[name] for name in ("beta", "statistic")})
    grid = make_grid(space, {"beta": 6})

    def open_ledger() -> Ledger:
        return Ledger(path, "toy", space, "maximize", "grid", 0, 12, lambda point: repr(sorted(point.items())), grid)

    return open_ledger


def test_every_point_is_tried_once_through_kills_and_failures(reopen: Callable[[], Ledger]) -> None:
    ledger = reopen()
    ledger.enqueue_default({"beta": 3.0, "statistic": "max"})  # not on the grid: 0, 1.2, 2.4, 3.6, 4.8, 6
    done: list[str] = []
    for turn in range(100):
        if ledger.remaining(13) == 0:
            break
        number, _, key = ledger.ask()
        if turn % 3 == 1:  # killed while this one runs
            ledger = reopen()
            assert ledger.recover_interrupted(lambda _: None) == (0, 1)
            continue
        ledger.tell(number, (None, "broken") if turn == 5 else (0.5, ""))
        done.append(key)
    assert len(done) == len(set(done)) == 13
    assert ledger.remaining(13) == 0


def test_two_at_a_time_get_different_points(reopen: Callable[[], Ledger]) -> None:
    ledger = reopen()
    assert len({ledger.ask()[2] for _ in range(12)}) == 12


@pytest.fixture
def make(images: Images, tmp_path: Path) -> Callable[..., Plan]:
    """Plans in which two fields of PIPD are left to search."""
    dataset = save_npz(tmp_path / "data.npz", images)
    fixed = {"isolation_rate": "0.01", "clean_rate": "0.2", "channels_per_tap": "0.04", "ascent_weight": "1"}

    def plan(**options: Any) -> Plan:
        return small_plan(dataset, tmp_path / "out", **{"set": {**fixed, "channel_statistic": "max"}, **options})

    return plan


def test_a_study_has_as_many_trials_as_its_grid_has_points(make: Callable[..., Plan]) -> None:
    assert make().config.trials == 10
    assert make(sampler="grid", resolution={"beta": 3}).config.trials == 36  # with the default: beta 3, rounds 8
    assert make(sampler="grid", resolution={"beta": 4}).config.trials == 48 + 1  # beta 3 is not among 0, 2, 4, 6
    assert make(sampler="grid", resolution={"beta": ("1", "5"), "rounds": ("2", "8")}).config.trials == 2 * 2 + 1
    assert make(sampler="grid", resolution={"beta": 3}, trials=5).config.trials == 5
    assert make(sampler="grid", resolution={"beta": 3}, trials=99).config.trials == 36
    assert (
        make(sampler="grid", resolution={"beta": 3}).config.identity
        == make(sampler="grid", resolution={"beta": 3}, trials=5).config.identity
    )


def test_a_resolution_without_a_grid_is_refused(make: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match="--resolution changes nothing with --sampler tpe"):
        make(resolution={"beta": 3})
