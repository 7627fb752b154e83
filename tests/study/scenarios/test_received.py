"""Somebody's own data: nobody knows what is poisoned of them, so nothing there is a false positive."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from own_formats import split_folders
from small_images import make_images

from defenses.registry import UserError
from defenses.storage.store import Store
from study.attacks import parse_attack
from study.config.config import StudyConfig, resolve
from study.config.objectives import direction, in_words, parse_objectives
from study.datasets import DatasetSpec, load_dataset
from study.planning.measurable import measurable
from study.planning.plan import Plan, make_plan
from study.scenarios.poison import poison
from study.scenarios.scenario import Scenario
from study.scenarios.stored_poison import stored_poison

CLEAN, BADNETS = Scenario("clean", 0.0, 0, 0), Scenario("badnets", 0.125, 0, 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return split_folders(tmp_path)


def plan_of(dataset: str, root: Path, **options: Any) -> Plan:
    given = {"dataset": dataset, "attacks": ("clean",), "until": "isolate", "trials": 1, "out": root, **options}
    return make_plan(resolve(StudyConfig, given), "cpu", 0.0, "fp32")


def test_what_is_poisoned_of_own_data_is_known_where_we_planted_it() -> None:
    images = make_images()
    own = dataclasses.replace(images, received=True)
    for data, attack, known in ((own, "clean", False), (own, "badnets", True), (images, "clean", True)):
        made = poison(data, parse_attack(attack, "smoke"), 0.125 if attack == "badnets" else 0.0, 0, 0)
        assert made.poison_known is known
        assert ("n_poison" in made.meta) is ("effective_rate" in made.meta) is known


def test_what_was_stored_when_nobody_told_them_apart_is_read_right(tmp_path: Path) -> None:
    images, store = make_images(), Store(tmp_path)
    before, hit = stored_poison(CLEAN, images, store)
    assert (before.poison_known, hit) == (True, False)
    now, hit = stored_poison(CLEAN, dataclasses.replace(images, received=True), store)
    assert (now.poison_known, hit) == (False, True)


def test_own_data_are_received_in_every_process(place: Path, tmp_path: Path) -> None:
    images = load_dataset(DatasetSpec(f"own:{place}", store=tmp_path / "store"))
    assert images.received
    assert images.reopen is not None
    assert images.reopen().received
    assert not load_dataset(DatasetSpec()).received


def test_the_objective_is_the_share_that_is_flagged(place: Path, tmp_path: Path) -> None:
    own = plan_of(f"own:{place}", tmp_path)
    assert own.goal.objectives == ("flagged_share",)
    assert plan_of("digits", tmp_path).goal.objectives == ("fpr",)
    assert plan_of(f"own:{place}", tmp_path, attacks=("clean", "badnets")).goal.objectives == ("isolation_score",)
    assert measurable((CLEAN,), make_images()) == {"ca", "fpr"}
    assert parse_objectives("flagged_share") == ("flagged_share",)  # as a manifest has it
    assert (direction("flagged_share"), in_words("flagged_share")) == ("minimize", "flagged share")


def test_it_is_no_objective_where_more_is_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'flagged_share' cannot be measured, since .* that is known: use fpr"):
        plan_of("digits", tmp_path, objective="flagged_share")
