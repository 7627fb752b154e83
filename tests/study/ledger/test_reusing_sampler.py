"""Nested designs: trials share a few settings of some fields, equally often, and draw the others freely."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_study import empty_ledger

from search_spaces.space import Choice, Float, Range, SearchSpace
from study.ledger.ledger import Ledger

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
