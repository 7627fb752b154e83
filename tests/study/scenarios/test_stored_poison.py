"""What an attack trains is trained once for a dataset and seed, whatever the rate, and its cost is shown."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_attack import TRAININGS
from small_study import save_npz, small_plan

from defenses.storage.store import Store
from study.attacks import ATTACKS, parse_attack
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.planning.dry_run import describe
from study.scenarios.evaluation import prepare, train_trigger
from study.scenarios.poison import poison
from study.scenarios.scenario import Scenario
from study.scenarios.stored_poison import stored_poison, stored_trigger

SCENARIO = Scenario("counted", 0.1, 1, 0)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS._entries, "counted", ("counted_attack:Counted", "for tests"))
    TRAININGS.clear()


def test_all_rates_share_what_was_trained(images: Images, store: Store) -> None:
    for rate in (0.05, 0.1, 0.2):
        scenario = dataclasses.replace(SCENARIO, poison_rate=rate)
        stored_trigger(scenario, images, store)
        stored_poison(scenario, images, store)
    assert TRAININGS == [0]
    for other in ({"seed": 1}, {"target_label": 2}):
        stored_trigger(dataclasses.replace(SCENARIO, **other), images, store)
    assert TRAININGS == [0, 1, 0]


def test_the_cost_is_told_on_the_first_run_and_on_later_ones(images: Images, store: Store) -> None:
    told: list[str] = []
    first = stored_trigger(SCENARIO, images, store, progress=lambda stage, *_: told.append(stage))
    again = stored_trigger(SCENARIO, images, Store(store.root))
    assert told == ["counted_part"]
    assert [(run.stage, run.hit) for run in (*first, *again)] == [("counted_part", False), ("counted_part", True)]
    assert again[0].built_seconds == pytest.approx(first[0].built_seconds, abs=1e-6)
    assert again[0].key == first[0].key


def test_attacks_that_train_nothing_have_no_such_stage(images: Images, store: Store) -> None:
    assert stored_trigger(Scenario("badnets", 0.1, 1, 0), images, store) == []
    assert not (store.root / "trigger").exists()


def test_the_store_changes_no_byte(images: Images, store: Store) -> None:
    stored_trigger(SCENARIO, images, store)
    stored, _ = stored_poison(SCENARIO, images, store)
    fresh = poison(images, parse_attack("counted"), 0.1, 1, 0)
    assert stored.suspect.fingerprint == fresh.suspect.fingerprint
    np.testing.assert_array_equal(stored.triggered_images, fresh.triggered_images)


def test_poison_without_its_trained_part_needs_no_training(images: Images, store: Store) -> None:
    stored_poison(SCENARIO, images, store)
    before = len(TRAININGS)
    for stage in ("trigger", "counted_part"):
        for file in store.root.glob(f"{stage}/*/meta.json"):
            file.unlink()
    assert stored_trigger(SCENARIO, images, Store(store.root)) == []
    assert len(TRAININGS) == before


def test_a_part_without_a_store_is_trained_and_costs(images: Images) -> None:
    context = FitContext(3)
    assert parse_attack("counted").fit(images, context)["step"] == [10]
    assert [(run.stage, run.hit) for run in context.runs] == [("counted_part", False)]
    assert context.device == torch.device("cpu")


def test_a_plan_trains_before_it_poisons_and_once_for_all_rates(images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", images)
    plan = small_plan(dataset, tmp_path, attacks=("counted", "badnets"), poison_rates=(0.1, 0.2))
    triggers = [position for position, build in enumerate(plan.builds) if build.stage == "trigger"]
    assert len(triggers) == 1
    waiting = [b for b in plan.builds if b.stage == "poison" and b.scenario.attack == "counted"]
    assert [build.needs for build in waiting] == [(triggers[0],), (triggers[0],)]
    assert TRAININGS == []  # planning trains nothing
    assert "counted-0.1-s0  trigger" in describe(plan)
    train_trigger(plan.scenarios[0], plan.environment)
    line = next(line for line in describe(plan).splitlines() if " trigger " in line)
    assert line.endswith("reused")


def test_every_cell_lists_what_the_attack_trained(images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", images)
    plan = small_plan(dataset, tmp_path, attacks=("counted",))
    for _ in range(2):
        _, _, runs = prepare(plan.scenarios[0], plan.environment)
        assert [run.stage for run in runs] == ["counted_part", "poison"]
    assert [run.hit for run in runs] == [True, True]
