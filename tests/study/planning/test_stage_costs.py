"""What is left of the shared stages, by what they cost: cheap ones that come first promise nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_images import make_images
from small_study import save_npz, small_plan

from study.planning.plan import Plan
from study.planning.shared_stages import Build
from study.planning.stage_costs import Left, Running, StageCosts
from study.planning.stored_stages import StoredStages
from study.scenarios.evaluation import cached_images, cached_store, prepare
from study.scenarios.scenario import Scenario


def builds() -> list[Build]:
    """Two scenarios: poison in a second, training in a minute, which the next stage waits for."""
    made = []
    for number, attack in enumerate(("badnets", "sig")):
        scenario, first = Scenario(attack, 0.1, 0, 0), 3 * number
        made += [Build(scenario, "no_defense", {}, "poison", ())]
        made += [Build(scenario, "no_defense", {}, "standard_training", (first,))]
        made += [Build(scenario, "pipd", {}, "channel_activations", (first + 1,))]
    return made


@pytest.mark.parametrize("at_once", [1, 2])
def test_cheap_stages_that_come_first_promise_nothing(at_once: int) -> None:
    costs = StageCosts(builds(), at_once)
    assert costs.left({}) == Left(None, at_least=True), "nothing is known"
    costs.finished(0, 1.0)
    costs.finished(3, 1.0)
    assert costs.left({}) == Left(None, at_least=True), "the cheap ones are over, and the rest was never measured"
    under_way = {1: Running(25.0, 20.0, 0.0, 10, 30, 20)}  # a third of a minute's training
    assert costs.left(under_way) == Left(60.0 if at_once == 2 else 100.0, at_least=True)
    nearly = {1: Running(60.0, 55.0, 0.0, 28, 30, 1), 4: Running(60.0, 55.0, 0.0, 28, 30, 1)}
    assert costs.left(nearly) == Left(None, at_least=True), "over two seconds helps nobody"
    costs.finished(1, 60.0)
    costs.finished(4, 60.0)
    costs.finished(2, 5.0)
    assert costs.left({}) == Left(5.0, at_least=False)
    costs.finished(5, 5.0)
    assert costs.left({}) == Left(None, at_least=False)


@pytest.mark.parametrize(("lanes", "seconds"), [(1, 132.0), (2, 66.0), (8, 66.0)])
def test_stages_that_wait_for_each_other_gain_nothing_from_more_room(lanes: int, seconds: float) -> None:
    known = {"poison": 1.0, "standard_training": 60.0, "channel_activations": 5.0}
    assert StageCosts(builds(), lanes, known).left({}) == Left(seconds)
    assert StageCosts(builds(), lanes, known, reused=range(6)).left({}) == Left(None), "all of it is there"


def test_a_stage_that_runs_counts_down_between_its_steps() -> None:
    def paced(since: float) -> Running:
        return Running(99.0, 20.0, since, 10, 30, ahead=19)  # two seconds a step, after a slow start

    assert [paced(since).left for since in (0.0, 1.0)] == [38, 37]
    assert paced(60.0).left == pytest.approx(36.2), "no more than the step that is under way"
    assert paced(0.0).whole == 60
    assert Running(3.0, steps=30, ahead=30).left is None
    known = {"poison": 1.0, "standard_training": 60.0, "channel_activations": 5.0}
    costs = StageCosts(builds(), 1, known)
    assert costs.left({1: Running(20.0, steps=30, ahead=30)}) == Left(132.0 - 20)
    assert costs.left({1: Running(600.0, steps=30, ahead=30)}) == Left(132.0 - 54), (
        "it takes longer than the others did"
    )


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    """A small study of a dataset, whose store is the same for all of them."""

    def make(train: int = 128, **options: object) -> Plan:
        dataset = save_npz(tmp_path / f"{train}.npz", make_images(train=train))
        return small_plan(dataset, tmp_path, **options)

    return make


def write_entry(plan: Plan, build: Build, seconds: float) -> None:
    """What a stage leaves in the store when it is built, less its outputs."""
    from defenses.methods.pipd.pipd import PIPD
    from defenses.runner import stage_identity, stage_key

    cached_store.cache_clear()
    poisoned, context, _ = prepare(build.scenario, plan.environment)
    config = PIPD.config_type.from_mapping(build.config)
    stage = next(stage for stage in PIPD.stages if stage.name == build.stage)
    identity = stage_identity(stage, config, poisoned.suspect.fingerprint, context, {})
    folder = context.store.folder(stage.name, stage_key(identity))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").write_text(json.dumps({"built_seconds": seconds, "describe": identity}))


def test_the_store_tells_what_stages_took_for_another_study(plan: Callable[..., Plan]) -> None:
    first = plan()
    assert (StoredStages(first).costs(), StoredStages(first).there()) == ({}, frozenset())
    position, build = next((n, build) for n, build in enumerate(first.builds) if build.stage == "pre_isolation")
    write_entry(first, build, 12.0)
    known = StoredStages(first)
    assert known.costs() == {"pre_isolation": 12.0}
    assert known.there() == {0, position}, "the poisoned data and that stage"
    larger = plan(train=256)
    assert StoredStages(larger).costs() == {"pre_isolation": 24.0}, "twice as many samples"
    assert StoredStages(larger).there() == frozenset()
    assert StoredStages(plan(width=16)).costs() == {}, "another network"
    assert StoredStages(plan(set={"pre_isolation_epochs": "7"})).costs() == {}, "other settings"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"built_seconds": "x", "describe": {}}', '{"describe": 3}'])
def test_damaged_entries_say_nothing(content: str, plan: Callable[..., Plan]) -> None:
    made = plan()
    for stage in ("pre_isolation", "poison"):
        folder = Path(made.environment.store) / stage / "abc"
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(content)
    assert (StoredStages(made).costs(), StoredStages(made).there()) == ({}, frozenset())
    cached_images.cache_clear()
