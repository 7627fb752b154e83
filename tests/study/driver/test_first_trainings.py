"""By which trials the rest of a study is told: those that train what others share."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_study import save_npz, small_plan

from defenses.storage.atomic_files import canonical
from study.datasets.images import Images
from study.driver.first_trainings import FirstTrainings
from study.planning.plan import Plan

_FIXED = {
    **{"isolation_rate": "0.01", "clean_rate": "0.2", "beta": "3", "channels_per_tap": "0.04", "rounds": "8"},
    **{"channel_statistic": "max", "pre_isolation_schedule": "one_cycle", "pre_isolation_augment": "false"},
    **{"granularity": "batch", "batch_size": "64", "taps": "blocks", "clustering": "fisher_jenks"},
}
_LOW = {"gamma": 0.1, "pre_isolation_lr": 0.1, "read_epoch": 4}
_HIGH = {"gamma": 0.5, "pre_isolation_lr": 0.1, "read_epoch": 30}  # the paper's values


class Points:
    """A ledger of given trials."""

    def __init__(self, *points: dict[str, Any], state: str = "complete") -> None:
        self.points, self.state = points, state

    def rows(self) -> list[SimpleNamespace]:
        return [self.row(point) for point in self.points]

    def row(self, point: dict[str, Any]) -> SimpleNamespace:
        own = {"state": self.state, "reason": "it diverged", "comparable": self.state == "complete"}
        return SimpleNamespace(point=point, key=canonical(point), **own)


@pytest.fixture
def plan(images: Images, tmp_path: Path) -> Plan:
    grid = {"gamma": ("0.1", "0.5"), "pre_isolation_lr": ("0.1", "0.02")}
    options: dict[str, Any] = {"sampler": "grid", "resolution": grid, "until": "isolate", "seeds": (0, 1)}
    return small_plan(save_npz(tmp_path / "data.npz", images), tmp_path, space="pipd_wide", set=_FIXED, **options)


def made(first: FirstTrainings, point: dict[str, Any], scenario: str) -> int:
    return first.made(canonical(point), scenario)


def test_each_setting_of_a_grid_trains_once_on_each_scenario(plan: Plan) -> None:
    """Read after 4 epochs, then after 30: the second trains 26 more, of the same training."""
    again = {**_LOW, "read_epoch": 30}
    first = FirstTrainings(plan, Points(_LOW, again, _HIGH, state="running"))  # type: ignore[arg-type]
    assert first.left == 4 * 2 * 30
    assert made(first, _LOW, "badnets-0.1-s0") == 4
    assert made(first, again, "badnets-0.1-s0") == 26
    assert made(first, _LOW, "badnets-0.1-s0") == 0, "there already"
    assert made(first, again, "badnets-0.1-s1") == 30, "another scenario"
    assert made(first, _HIGH, "badnets-0.1-s0") == 30
    assert first.left == 5 * 30


def test_a_study_that_goes_on_counts_what_was_trained_before(plan: Plan) -> None:
    first = FirstTrainings(plan, Points(_LOW))  # type: ignore[arg-type]
    assert first.left == 4 * 2 * 30 - 2 * 4
    assert not made(first, _LOW, "badnets-0.1-s0")


def test_trainings_that_all_trials_read_at_the_end_count_as_such(images: Images, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampler": "qmc", "trials": 20, "reuse": 2, "until": "isolate", "seeds": (0, 1)}
    free = {name: value for name, value in _FIXED.items() if name not in ("beta", "rounds")}
    fixed = free | {"read_epoch": "30"}
    plan = small_plan(save_npz(tmp_path / "data.npz", images), tmp_path, space="pipd_wide", set=fixed, **options)
    first = FirstTrainings(plan, Points({"gamma": 0.1}, state="running"))  # type: ignore[arg-type]
    assert first.left == (2 + 2) * 2
    assert made(first, {"gamma": 0.1}, "badnets-0.1-s0") == 1


def test_nothing_is_awaited_where_a_sampler_may_draw_anything(images: Images, tmp_path: Path) -> None:
    plan = small_plan(save_npz(tmp_path / "data.npz", images), tmp_path, space="pipd_wide", set=_FIXED, trials=40)
    first = FirstTrainings(plan, Points(_LOW))  # type: ignore[arg-type]
    assert (first.left, made(first, _LOW, "badnets-0.1-s0")) == (0, False)


@pytest.mark.parametrize("state", ["fail", "pruned"])
def test_nobody_waits_for_what_a_trial_that_ended_early_would_have_trained(plan: Plan, state: str) -> None:
    """Else the time left would be told of trainings that never come, to the end of the study."""
    ended = Points(_LOW, _HIGH, state=state)
    first = FirstTrainings(plan, Points(_LOW, state="running"))  # type: ignore[arg-type]
    assert made(first, _LOW, "badnets-0.1-s0") == 4
    assert first.given_up(ended.row(_LOW)) == 26 + 30, "on both scenarios, to its end"  # type: ignore[arg-type]
    assert first.given_up(ended.row(_HIGH)) == 60  # type: ignore[arg-type]
    assert first.given_up(ended.row({**_HIGH, "read_epoch": 4})) == 0, "of the same training"  # type: ignore[arg-type]
    assert first.left == 2 * 2 * 30
    assert FirstTrainings(plan, ended).left == 2 * 2 * 30, "when the study goes on, too"  # type: ignore[arg-type]


def test_the_first_trials_of_a_study_that_reuses_settings_may_fail(images: Images, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampler": "qmc", "trials": 20, "reuse": 2, "until": "isolate", "seeds": (0, 1)}
    plan = small_plan(save_npz(tmp_path / "data.npz", images), tmp_path, space="pipd_wide", set=_FIXED, **options)
    first = FirstTrainings(plan, Points())  # type: ignore[arg-type]
    assert first.left == (2 + 2) * 2 * 30
    assert first.given_up(Points(state="fail").row(_LOW)) == 60  # type: ignore[arg-type]
    assert first.left == 3 * 2 * 30
