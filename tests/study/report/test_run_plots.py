"""Plots of what a trial flagged: drawn once for those that are looked at, and sent with their runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk import BAD, GOOD, Desk, judged
from small_study import save_npz, small_plan

from study.datasets.images import Images
from study.driver.best_trial import BestTrial
from study.report.run_plots import draw_plots
from tracking import names
from tracking.artifacts import Flags, write_flags
from tracking.outbox import Record

LOST, WON = judged(0.5, 0.5, 0.5, 0.5), judged(1.0, 0.0, 1.0, 0.0)
PLOTS = {names.HISTOGRAM_PNG, names.ROC_PNG}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Images) -> str:
    return save_npz(tmp_path_factory.mktemp("plots") / "data.npz", images)


@pytest.fixture
def desk(dataset: str, tmp_path: Path) -> Desk:
    (tmp_path / "study").mkdir()
    plan = small_plan(dataset, tmp_path / "out", attacks=("badnets", "blended_random"), name="study")
    return Desk(plan, tmp_path / "study")


def flags(seed: int) -> Flags:
    scores = np.random.default_rng(seed).random(40)
    poison = np.arange(40) < 6
    return Flags(scores > 0.8, scores, np.zeros(40, dtype=np.int64), poison, "f" * 64)


def run_trial(desk: Desk, metrics: dict[str, Any]) -> str:
    number, point, key = desk.ledger.ask()
    desk.write(key, point, [metrics, metrics])
    for scenario in desk.plan.scenarios:
        write_flags(desk.reader.points / key / scenario.name, flags(number))
        desk.settlement.finish_scenario(key, scenario.name)
    desk.settlement.finish_trial(number, key, "")
    return key


def drawn(desk: Desk) -> list[Record]:
    return [record for record in desk.records() if "/drawn/" in record.artifacts]


def test_the_best_trial_is_drawn_once(desk: Desk) -> None:
    keys = [run_trial(desk, metrics) for metrics in (LOST, WON)]
    for _ in range(2):  # the study ends, goes on, and ends again
        BestTrial(desk.closing().results, desk.reader).draw(desk.outbox)
    records = drawn(desk)
    assert [record.run for record in records] == [desk.told.scenario_run(keys[1], name) for name in (BAD, GOOD)]
    assert {record.status for record in records} == {"RUNNING"}, "the run has ended, and is not ended anew"
    for record in records:
        place = desk.folder / record.artifacts
        assert {path.relative_to(place).as_posix() for path in place.rglob("*.png")} == PLOTS


def test_any_trial_is_drawn_when_it_is_asked_for(desk: Desk) -> None:
    keys = [run_trial(desk, metrics) for metrics in (LOST, WON)]
    assert draw_plots(desk.folder, desk.outbox, keys[0], lambda _: flags(0)) == 2
    assert draw_plots(desk.folder, desk.outbox, keys[0], lambda _: flags(0)) == 0
    assert {record.run for record in drawn(desk)} == {desk.told.scenario_run(keys[0], name) for name in (BAD, GOOD)}


def test_a_defense_that_flags_nothing_has_no_plots(desk: Desk) -> None:
    key = run_trial(desk, WON)
    assert draw_plots(desk.folder, desk.outbox, key, lambda _: None) == 0
    assert drawn(desk) == []


def test_nothing_is_drawn_through_a_link(desk: Desk, tmp_path: Path) -> None:
    key = run_trial(desk, WON)
    (tmp_path / "away").mkdir()
    (desk.reader.points / key / "drawn").symlink_to(tmp_path / "away")
    assert draw_plots(desk.folder, desk.outbox, key, lambda _: flags(0)) == 0
    assert list((tmp_path / "away").iterdir()) == []
