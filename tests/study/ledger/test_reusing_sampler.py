"""Nested designs: trials share a few settings of some fields, equally often, and draw the others freely."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from small_study import empty_ledger

from search_spaces.conditions import where
from search_spaces.space import Choice, Float, Int, Range, SearchSpace
from study.ledger.ledger import Ledger
from study.ledger.samplers import draw_settings, make_sampler

RANGES: dict[str, Range] = {
    "gamma": Float(0.05, 2.0, "costs a training", log=True),
    "granularity": Choice(("batch", "sample"), "costs a training"),
    "beta": Float(0.0, 6.0, "costs next to nothing"),
}
COSTLY = ("gamma", "granularity")


def open_ledger(folder: Path, sampler: str, settings: int = 8) -> Ledger:
    path = folder / "study.db"
    if not path.exists():
        path.write_bytes(empty_ledger(("maximize",)))
    return Ledger(
        path,
        "toy",
        SearchSpace("toy", "pipd", RANGES),
        "maximize",
        sampler,
        3,
        64,
        lambda point: repr(sorted(point.items())),
        reused=(COSTLY, settings),
    )


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_settings_come_equally_often_and_other_fields_are_all_different(tmp_path: Path, sampler: str) -> None:
    ledger = open_ledger(tmp_path, sampler)
    points = [ledger.ask()[1] for _ in range(24)]
    again = open_ledger(tmp_path, sampler)  # a driver that goes on
    points += [again.ask()[1] for _ in range(40)]
    used = Counter(tuple(point[name] for name in COSTLY) for point in points)
    assert len(used) == 8
    assert set(used.values()) == {8}
    betas = np.sort([float(point["beta"]) for point in points])
    assert len(set(betas)) == 64
    assert np.abs(betas / 6 - (np.arange(64) + 0.5) / 64).max() < (0.05 if sampler == "qmc" else 0.25), "spread evenly"


def test_a_setting_is_tied_to_no_part_of_the_sequence(tmp_path: Path) -> None:
    """In turn, a setting would come with every eighth point, which for some fields lie in one part of the range."""
    ledger = open_ledger(tmp_path, "qmc")
    points = [ledger.ask()[1] for _ in range(64)]
    settings = [tuple(point[name] for name in COSTLY) for point in points]
    blocks = [tuple(settings[start : start + 8]) for start in range(0, 64, 8)]
    assert all(len(set(block)) == 8 for block in blocks)
    assert len(set(blocks)) == 8, "each in an order of its own"
    betas = np.array([float(point["beta"]) for point in points])
    ranges = [np.ptp([beta for beta, own in zip(betas, settings, strict=True) if own == one]) for one in set(settings)]
    assert min(ranges) > 3.0


def test_there_are_no_more_settings_than_the_space_has(tmp_path: Path) -> None:
    space = {"granularity": RANGES["granularity"], "beta": RANGES["beta"]}
    (tmp_path / "study.db").write_bytes(empty_ledger(("maximize",)))
    ledger = Ledger(
        tmp_path / "study.db",
        "toy",
        SearchSpace("toy", "pipd", space),
        "maximize",
        "random",
        0,
        8,
        repr,
        reused=(("granularity",), 5),
    )
    assert Counter(ledger.ask()[1]["granularity"] for _ in range(8)) == {"batch": 4, "sample": 4}


def draw(ranges: dict[str, Range], sampler: str, fields: tuple[str, ...], count: int, trials: int) -> list[Any]:
    """The points of a study that reuses settings, as it draws them."""
    space = SearchSpace("toy", "pipd", ranges)
    settings = draw_settings(sampler, space, fields, count, 0)
    study = optuna.create_study(sampler=make_sampler(sampler, space, 0, trials, fields, settings))
    return [space.suggest(study.ask()) for _ in range(trials)]


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_beside_few_settings_no_trial_is_a_copy_of_another(sampler: str) -> None:
    """Three settings beside seven epochs are 21 points, though γ itself takes any number."""
    ranges: dict[str, Range] = {"gamma": RANGES["gamma"], "read_epoch": Choice((4, 6, 8, 12, 16, 24, 30), "")}
    points = draw(ranges, sampler, ("gamma",), 3, 21)
    assert len({tuple(point.values()) for point in points}) == 21
    assert len({point["gamma"] for point in points}) == 3


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_the_last_points_are_of_the_same_settings(sampler: str) -> None:
    ranges: dict[str, Range] = {"batch_size": Choice((32, 64, 128, 256, 512, 1024), ""), "rounds": Int(1, 3, "")}
    points = draw(ranges, sampler, ("batch_size",), 2, 6)
    assert len({tuple(point.values()) for point in points}) == 6
    assert sorted(Counter(point["batch_size"] for point in points).values()) == [3, 3]


def test_a_setting_whose_points_are_used_up_is_taken_no_more() -> None:
    """β acts beside one of two values alone: beside the other there are two points, and then none."""
    ranges: dict[str, Range] = {
        "granularity": RANGES["granularity"],
        "statistic": Choice(("max", "mean"), ""),
        "beta": Float(0.0, 6.0, "", when=where("granularity", "batch")),
    }
    points = draw(ranges, "qmc", ("granularity",), 2, 12)
    assert Counter(point["granularity"] for point in points) == {"batch": 10, "sample": 2}
    assert len({tuple(point.values()) for point in points}) == 12
