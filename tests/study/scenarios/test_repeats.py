"""Repeats: the same poisoned data, trained on with other seeds; what was there before is called and keyed as it was."""

import dataclasses
from pathlib import Path

import pytest
from small_study import TINY_PIPD, save_npz, small_plan

from defenses.registry import UserError
from study.config.config import MOST_REPEATS, StudyConfig, resolve
from study.datasets.images import Images
from study.driver.per_scenario import build_plans
from study.evaluate import EvaluateConfig
from study.ledger.manifest import Manifest, ScenarioParts
from study.planning.control_builds import with_control_builds
from study.planning.dry_run import describe
from study.scenarios.clean_control import clean_scenarios
from study.scenarios.evaluation import prepare
from study.scenarios.scenario import Scenario, stage_seed
from study.scenarios.stored_poison import poison_key, trigger_key

FIRST = Scenario("sig", 0.1, 1, 7)
SECOND = dataclasses.replace(FIRST, repeat=1)


def test_the_first_repeat_is_what_a_scenario_was_before_there_were_others(images: Images) -> None:
    """The values are of the version before."""
    assert FIRST.name == "sig-0.1-s7"
    assert FIRST.fields() == {"attack": "sig", "poison_rate": 0.1, "target_label": 1, "seed": 7, "preset": "paper"}
    assert stage_seed(FIRST) == 8764046103368504337
    assert FIRST.key(images) == "0ee2f2b8278592a18fac8969a2c26c63add11427bdfd08e9d4e2719987e59dc0"


def test_another_repeat_has_the_same_data_and_another_seed_and_name(images: Images) -> None:
    assert SECOND.name == "sig-0.1-s7-r1"
    assert SECOND.fields() == {**FIRST.fields(), "repeat": 1}
    assert SECOND.first_repeat == FIRST
    for key in (poison_key, trigger_key):
        assert key(SECOND, images) == key(FIRST, images)
    repeats = [dataclasses.replace(FIRST, repeat=repeat) for repeat in range(5)]
    others = [dataclasses.replace(one, seed=8) for one in repeats]
    assert len({stage_seed(one) for one in (*repeats, *others)}) == 10


def test_the_longest_name_of_a_repeat_has_room_in_a_file_s_name() -> None:
    longest = Scenario(f"blended_image:image={'long' * 60}.png", 0.12345678901234567, 0, 2**63 - 1, "smoke", 98)
    assert MOST_REPEATS == 99
    assert len(longest.name.encode()) <= 100


def test_repeats_are_poisoned_once_and_trained_apart(images: Images, tmp_path: Path) -> None:
    plan = small_plan(save_npz(tmp_path / "data.npz", images), tmp_path / "out", repeats=3, set=TINY_PIPD)
    made = [prepare(scenario, plan.environment) for scenario in plan.scenarios]
    assert [runs[-1].hit for _, _, runs in made] == [False, True, True]
    assert len({runs[-1].key for _, _, runs in made}) == 1
    assert len({poisoned.suspect.fingerprint for poisoned, _, _ in made}) == 1
    assert len({context.seed for _, context, _ in made}) == 3, "all training derives its seeds from this one"


def test_a_plan_builds_data_and_trigger_once_and_a_model_a_repeat(images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", images)
    plan = small_plan(dataset, tmp_path / "out", attacks=("dynamic",), repeats=2)
    assert [scenario.name for scenario in plan.scenarios] == ["dynamic-0.1-s0", "dynamic-0.1-s0-r1"]
    labels = [build.label for build in plan.builds]
    assert len(set(labels)) == len(labels)
    assert [label for label in labels if label.startswith(("trigger", "poison"))] == [
        "trigger dynamic-0.1-s0",
        "poison dynamic-0.1-s0",
    ]
    assert {label for label in labels if label.startswith("standard_training")} == {
        "standard_training dynamic-0.1-s0",
        "standard_training dynamic-0.1-s0-r1",
    }
    assert all(1 in build.needs for build in plan.builds[2:]), "all train on the same data"
    controls = with_control_builds(plan, ()).builds[len(plan.builds) :]
    assert {build.scenario.name for build in controls} == {"clean-0-s0"}, "the control is run once a seed"
    assert "10 x 1 scenario x 2 repeats" in describe(plan)


def test_the_trials_of_one_repeat_are_those_from_before(images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", images)
    plan, same, more = (small_plan(dataset, tmp_path / "out", **o) for o in ({}, {"repeats": 1}, {"repeats": 2}))
    keys = [one.point_key(one.default_point) for one in (plan, same, more)]
    assert keys[0] == keys[1] != keys[2]
    assert plan.config.identity == same.config.identity != more.config.identity
    assert plan.data_keys[0] == more.data_keys[0] == more.data_keys[1]


@pytest.mark.parametrize("repeats", [0, MOST_REPEATS + 1])
def test_a_number_of_repeats_that_cannot_be_is_one_line(repeats: int) -> None:
    with pytest.raises(UserError, match=f"--repeats: .* (1|{MOST_REPEATS}), got {repeats}"):
        resolve(StudyConfig, {"repeats": repeats})


def test_one_cell_of_a_repeat_can_be_run_alone() -> None:
    assert resolve(EvaluateConfig, {}).repeat == 0
    assert resolve(EvaluateConfig, {"repeat": 2}).repeat == 2
    with pytest.raises(UserError, match=f"--repeat: .* {MOST_REPEATS}, got"):
        resolve(EvaluateConfig, {"repeat": MOST_REPEATS})


def test_controls_are_shared_by_repeats() -> None:
    assert clean_scenarios("pipd", (SECOND, FIRST)) == clean_scenarios("pipd", (FIRST,))


def test_each_scenario_s_own_study_holds_its_repeats(images: Images, tmp_path: Path) -> None:
    dataset = save_npz(tmp_path / "data.npz", images)
    plan = small_plan(dataset, tmp_path / "out", per_scenario=True, repeats=2, seeds=(0, 1), name="own")
    plans = build_plans(plan)
    assert [one.config.study_name for one in plans] == ["own.badnets-0.1-s0", "own.badnets-0.1-s1"]
    assert [[s.repeat for s in one.scenarios] for one in plans] == [[0, 1], [0, 1]]


def test_a_manifest_finds_the_studies_of_repeated_scenarios(tmp_path: Path) -> None:
    parts = tuple(ScenarioParts(Scenario("sig", 0.1, 0, s, repeat=r).name, "sig", 0.1, s, repeat=r) for s, r in PAIRS)
    names = tuple(part.name for part in parts)
    whole = Manifest("", (), {"per_scenario": True, "name": "own"}, scenarios=names, parts=parts)
    assert [child.name for child in whole.child_studies(tmp_path / "own")] == ["own.sig-0.1-s0", "own.sig-0.1-s1"]
    settings = {"per_scenario": True, "name": "own.sig-0.1-s0"}
    own = Manifest("", (), settings, scenarios=names[:2], parts=parts[:2])
    assert own.whole_study().settings["name"] == "own"
    assert whole.whole_study() is whole


PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))
