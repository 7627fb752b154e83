"""Which runs of the clean control a study lacks, and what is kept and told of one. The runs themselves need Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, judged
from small_study import save_npz, small_plan

from study.datasets.images import Images
from study.driver.clean_control import missing_controls
from study.ledger.clean_control import keep_clean_control
from study.planning.plan import Plan


@pytest.fixture
def make(tmp_path: Path, images: Images) -> Callable[..., Desk]:
    dataset = save_npz(tmp_path / "data.npz", images)

    def opened(trials: tuple[float, ...] = (0.5, 0.9), **options: Any) -> Desk:
        plan: Plan = small_plan(dataset, tmp_path / "out", **options)
        folder = tmp_path / plan.config.study_name
        folder.mkdir()
        desk = Desk(plan, folder)
        desk.ledger.enqueue_default(plan.default_point)
        for good in trials:
            desk.trial(*(judged(good, 0.0, good, 1 - good) for _ in plan.scenarios))
        return desk

    return opened


def missing(desk: Desk) -> list[tuple[int, str]]:
    return [(one.trial, one.scenario.name) for one in missing_controls(desk.plan, desk.closing().results)]


def test_the_default_and_the_best_are_run_with_each_seed_once(make: Callable[..., Desk]) -> None:
    desk = make(seeds=(0, 1))
    assert missing(desk) == [(trial, f"clean-0-s{seed}") for trial in (0, 1) for seed in (0, 1)]
    first, *_, last = missing_controls(desk.plan, desk.closing().results)
    assert first.config == {**desk.plan.base, **desk.plan.default_point}
    keep_clean_control(desk.folder, first.key, 1, 0.25)
    assert missing(desk) == [(0, "clean-0-s0"), (1, "clean-0-s0"), (1, "clean-0-s1")]
    assert desk.closing().results.clean_fpr == {0: {1: 0.25}}
    for key in (first.key, last.key):
        for seed in (0, 1):
            keep_clean_control(desk.folder, key, seed, 0.0)
    assert missing(desk) == []
    desk.trial(*(judged(1.0, 0.0, 1.0, 0.0) for _ in desk.plan.scenarios))  # a best that changes adds to them
    assert missing(desk) == [(2, "clean-0-s0"), (2, "clean-0-s1")]


def test_one_trial_is_run_once_and_a_front_four_times(make: Callable[..., Desk]) -> None:
    assert missing(make((0.9, 0.5))) == [(0, "clean-0-s0")]
    front = make(tuple(0.1 * at for at in range(1, 8)), objective="asr,ca", name="front")
    assert len(missing(front)) <= 5
    assert missing(front)[0] == (0, "clean-0-s0")


def test_nothing_is_run_where_it_is_left_out_or_was_judged_anyway(make: Callable[..., Desk]) -> None:
    assert missing(make(clean_control="none", name="left-out")) == []
    assert missing(make((), name="nothing-done")) == []
    own = make(attacks=("badnets", "clean"), name="own")
    assert missing(own) == []
    assert set(own.closing().results.clean_fpr) == {0, 1}


def test_mlflow_is_told_beside_what_the_trial_reached(make: Callable[..., Desk]) -> None:
    desk = make()
    desk.told.control_done("k", 0, 0.125)
    last = desk.records()[-1]
    assert (last.metrics, last.status, last.run) == ({"fpr_clean": 0.125}, "RUNNING", desk.told.trial_run("k"))
