"""Somebody's own data: nobody knows what is poisoned of them, so nothing there is a false positive."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from study.scenarios.evaluation import EvaluationContext, evaluate_scenario
from study.scenarios.poison import poison
from study.scenarios.scenario import Scenario
from study.scenarios.stored_poison import stored_poison

CLEAN, BADNETS = Scenario("clean", 0.0, 0, 0), Scenario("badnets", 0.125, 0, 0)
PIPD = {"pre_isolation_epochs": 1, "batch_size": 32}
PLAIN = {"epochs": 1, "batch_size": 32}


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


@pytest.fixture
def environment(place: Path, tmp_path: Path) -> EvaluationContext:
    plan = plan_of(f"own:{place}", tmp_path, width=4, blocks=(1, 1), undefended_on="attacked")
    return dataclasses.replace(plan.environment, undefended=PLAIN)


def test_nothing_flagged_in_them_is_called_false(environment: EvaluationContext) -> None:
    result = evaluate_scenario("pipd", PIPD, CLEAN, environment, "isolate")
    assert {"tpr", "fpr", "auroc", "auroc_flags"}.isdisjoint(result.metrics)
    assert result.metrics["flagged_share"] is not None
    assert result.flags is not None
    assert result.flags.is_poison is None
    assert not [name for name in result.series if name.endswith(("fpr", "tpr"))]


def test_an_undefended_model_is_trained_where_somebody_asks_for_it(environment: EvaluationContext) -> None:
    received = evaluate_scenario("pipd", PIPD, CLEAN, environment, "isolate")
    assert [run.stage for run in received.stages] == ["poison", "pre_isolation", "channel_activations", "isolate"]
    assert received.metrics["ca_undefended"] is received.metrics["asr_undefended"] is None
    assert not received.attack_failed
    planted = evaluate_scenario("pipd", PIPD, BADNETS, environment, "isolate")
    assert [run.stage for run in planted.stages][:3] == ["poison", "standard_training", "undefended"]
    assert planted.metrics["asr_undefended"] is not None
    shared = evaluate_scenario("ss", PLAIN, CLEAN, environment, "isolate")  # it trains that model in any case
    assert shared.metrics["ca_undefended"] is not None
    everywhere = dataclasses.replace(environment, undefended_on="every")
    assert evaluate_scenario("pipd", PIPD, CLEAN, everywhere, "isolate").metrics["ca_undefended"] is not None


@pytest.mark.parametrize(
    ("space", "fields", "stages"),
    [
        ("pipd", {}, ["pre_isolation", "channel_activations"]),
        ("ss", {"epochs": "3"}, ["standard_training", "penultimate_features", "layer3_features"]),
        ("ss", {}, ["standard_training", "penultimate_features", "layer3_features"]),
    ],
)
def test_what_is_built_before_is_what_is_read(
    space: str, fields: dict[str, str], stages: list[str], place: Path, tmp_path: Path
) -> None:
    options = {"space": space, "set": fields, "attacks": ("clean", "badnets")}
    plan = plan_of(f"own:{place}", tmp_path, **options, undefended_on="attacked")
    usual = plan_of(f"own:{place}", tmp_path, **options)
    built = [build.stage for build in plan.builds if build.scenario.attack == "clean"]
    assert built == ["poison", *stages]
    same = space == "ss" and not fields
    for one in ("clean", "badnets"):
        before = [build.stage for build in usual.builds if build.scenario.attack == one]
        assert before == ["poison", *([] if same else ["standard_training"]), *stages]
    assert plan.point_key(plan.default_point) == usual.point_key(usual.default_point)  # studies on disk go on
    assert plan.config.identity == usual.config.identity


def test_a_defenses_own_plain_training_is_not_taken_for_the_undefended_one(place: Path, tmp_path: Path) -> None:
    from study.driver import worker

    options = {"space": "ss", "set": {"epochs": "1"}, "width": 4, "blocks": (1, 1), "undefended_on": "attacked"}
    plan = plan_of(f"own:{place}", tmp_path, **options)
    torch.set_num_threads(1)
    (build,) = [build for build in plan.builds if build.stage == "standard_training"]
    undefended, (run,) = worker._build(build, plan.environment, lambda *_: None)
    assert undefended == {}
    done = evaluate_scenario("ss", build.config, plan.scenarios[0], plan.environment, "isolate")
    assert run.key in {stage.key for stage in done.stages if stage.hit}
    assert np.isfinite(run.built_seconds)
