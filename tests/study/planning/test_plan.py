"""From a configuration to work: scenarios, shared stages in order, and the name of a trial."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_images import make_images
from small_study import TINY_PIPD, save_npz, small_plan

from defenses import DEFENSES
from defenses.methods.pipd.pipd import PIPD
from defenses.methods.quarantine import QTConfig
from search_spaces import SEARCH_SPACES
from search_spaces.space import Choice, SearchSpace
from study.attacks import ATTACKS
from study.config.config import StudyConfig, resolve
from study.datasets.images import Images
from study.driver.per_scenario import build_plans
from study.planning.dry_run import describe
from study.planning.plan import Plan, build_scenarios
from study.planning.setting_counts import sure_trainings
from study.planning.shared_stages import MAX_VARIANTS, shared_variants
from study.scenarios.evaluation import cached_images, evaluate_scenario, prepare

# All that the isolation of PIPD and its final training read of the space, at the paper's values.
ISOLATION = {
    "isolation_rate": "0.01",
    "clean_rate": "0.2",
    "beta": "3",
    "channels_per_tap": "0.04",
    "rounds": "8",
    "ascent_weight": "1",
}
PlanMaker = Callable[..., Plan]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Images) -> str:
    """128 training images of 16 px as an npz file; SIG can poison at most 32 of them."""
    return save_npz(tmp_path_factory.mktemp("plan") / "data.npz", images)


@pytest.fixture
def make(dataset: str, tmp_path: Path) -> PlanMaker:
    """Plans on the small images."""
    return lambda **options: small_plan(dataset, tmp_path / "out", **options)


def stages_of(plan: Plan) -> list[str]:
    return [build.stage for build in plan.builds]


def test_scenarios_are_a_product_with_one_clean_control_a_seed(make: PlanMaker) -> None:
    plan = make(attacks=("badnets", "clean"), poison_rates=(0.05, 0.1), seeds=(0, 1))
    assert [(s.attack, s.poison_rate, s.seed) for s in plan.scenarios] == [
        ("badnets", 0.05, 0),
        ("badnets", 0.05, 1),
        ("badnets", 0.1, 0),
        ("badnets", 0.1, 1),
        ("clean", 0.0, 0),
        ("clean", 0.0, 1),
    ]
    assert (plan.scenarios[0].name, plan.scenarios[-1].name) == ("badnets-0.05-s0", "clean-0-s1")


def test_scenarios_that_are_named_twice_are_run_once(make: PlanMaker) -> None:
    assert len(make(attacks=("badnets", "badnets@0.1"), seeds=(3,), poison_rates=(0.1,)).scenarios) == 1


def test_names_of_scenarios_are_names_of_files() -> None:
    given = {"attacks": ("badnets:variant=white3", "blended_image"), "trigger_image": Path("/pictures/cat.png")}
    scenarios = build_scenarios(resolve(StudyConfig, given))
    assert scenarios[0].name == "badnets.variant_white3-0.1-s0"
    assert all("/" not in scenario.name and ":" not in scenario.name for scenario in scenarios)
    assert scenarios[1].attack == "blended_image:image=/pictures/cat.png"


def test_a_trigger_picture_serves_every_attack_that_takes_one() -> None:
    given = {"attacks": ("every",), "trigger_image": Path("/pictures/cat.png")}
    with_picture = {scenario.attack for scenario in build_scenarios(resolve(StudyConfig, given))}
    taken = {text.partition(":")[0] for text in with_picture if ":image=/pictures/cat.png" in text}
    takes = {name for name in ATTACKS if "image" in ATTACKS[name].config_type.__dataclass_fields__}
    assert taken == takes == {"blended_image", "adaptive_blend"}


@pytest.mark.parametrize(
    ("space", "stages"),
    [
        # A stage that only searched choices touch is built for each of them; one below a searched number is not.
        (
            "pipd",
            ["poison", "standard_training", "pre_isolation", "channel_activations", "channel_activations"],
        ),
        ("pipd_wide", ["poison", "standard_training"]),
        ("qt", ["poison", "standard_training", "pre_quarantine"]),
        ("no_defense", ["poison", "standard_training"]),
        # What the undefended model gives is shared by all trials.
        ("ac", ["poison", "standard_training", "penultimate_features"]),
        ("ss", ["poison", "standard_training", "penultimate_features", *["layer3_features"] * 2]),
        ("scale_up", ["poison", "standard_training"]),
        ("ibd_psc", ["poison", "standard_training"]),
        ("dbalfa", ["poison", "standard_training", "layer_similarities"]),
        # One model for every trial, and the movement under each of five transforms.
        ("dst", ["poison", "standard_training", "distinguishing", *["feature_movement"] * 5]),
        ("cd", ["poison", "standard_training", *["cognitive_masks"] * 3, *["reference_masks"] * 3]),
        ("cd_wide", ["poison", "standard_training"]),
        ("flare", ["poison", "standard_training", *["bn_likelihoods"] * 2, *["flare_trees"] * 8]),
    ],
)
def test_what_is_built_before_the_trials(space: str, stages: list[str], make: PlanMaker) -> None:
    few = {"clean_images": "8"} if space in ("dbalfa", "ibd_psc") else {}  # there are 64 test images
    plan = make(space=space, seeds=(0, 1), set=few)
    assert stages_of(plan) == stages * 2
    assert Counter(build.scenario for build in plan.builds) == dict.fromkeys(plan.scenarios, len(stages))


@pytest.mark.parametrize("space", [name for name in SEARCH_SPACES if "." not in name])
@pytest.mark.parametrize("per_scenario", [False, True])
def test_a_study_that_stops_once_samples_are_flagged_trains_no_final_model(
    space: str, per_scenario: bool, make: PlanMaker
) -> None:
    defense = DEFENSES[SEARCH_SPACES[space].defense]
    few = {"clean_images": "8"} if hasattr(defense.config_type(), "clean_images") else {}
    if defense.flagged is None:
        return
    plan = make(space=space, trials=1, until="isolate", per_scenario=per_scenario, set=few)
    flagging = {stage.name for stage in defense.stages_until("isolate")}
    for part in build_plans(plan) if per_scenario else (plan,):
        assert set(stages_of(part)) <= {"poison", "standard_training"} | flagging


def test_pipd_builds_both_channel_statistics(make: PlanMaker) -> None:
    plan = make()
    variants = [build.config["channel_statistic"] for build in plan.builds if build.stage == "channel_activations"]
    assert variants == ["max", "mean"]
    assert "channel_statistic" not in plan.builds[2].config, "pre-isolation does not depend on it"
    assert [build.needs for build in plan.builds] == [(), (0,), (0,), (0, 2), (0, 2)]
    assert [build.label for build in plan.builds][2] == "pre_isolation badnets-0.1-s0"


@pytest.mark.parametrize("space", ["pipd", "qt", "ac"])
def test_a_single_trial_builds_what_the_papers_default_reads_alone(space: str, make: PlanMaker) -> None:
    whole = make(space=space, trials=1)
    (part,) = build_plans(make(space=space, trials=1, per_scenario=True))
    assert part.builds == whole.builds, "a search of one scenario plans as the whole study does"
    assert not any(build.variant for build in whole.builds)


def test_a_defenses_own_plain_training_is_built_before_what_needs_it(make: PlanMaker) -> None:
    shared, own = (make(space="ac", set=fields).builds for fields in ({}, {"epochs": "3"}))
    assert [build.needs for build in shared] == [(), (0,), (0, 1)]
    assert [build.needs for build in own] == [(), (0,), (0,), (0, 2)], "the undefended model has other epochs"
    assert [build.stage for build in own[1:3]] == ["standard_training"] * 2
    assert own[2].config["epochs"] == 3


@pytest.mark.parametrize("space", ["pipd", "pipd_wide", "qt", "no_defense", "ac", "scale_up", "dst"])
def test_every_build_comes_after_what_it_needs(space: str, make: PlanMaker) -> None:
    builds = make(space=space, attacks=("badnets", "clean"), seeds=(0, 1)).builds
    for position, build in enumerate(builds):
        needed = [builds[need] for need in build.needs]
        assert all(need < position for need in build.needs)
        assert all(need.scenario == build.scenario for need in needed)
        stages = {stage.name: stage for stage in DEFENSES[build.defense].stages}
        parents = stages[build.stage].parents | {"poison"} if build.stage != "poison" else set()
        assert {need.stage for need in needed} == parents


def test_builds_have_the_configuration_of_the_trials(make: PlanMaker) -> None:
    plan = make(set=TINY_PIPD)
    pre_isolation = next(build for build in plan.builds if build.stage == "pre_isolation")
    assert dict(pre_isolation.config) == plan.base
    assert plan.base["pre_isolation_epochs"] == 2  # the user's
    assert plan.base["gamma"] == 0.2  # the smoke preset's
    standard = next(build for build in plan.builds if build.stage == "standard_training")
    assert (standard.defense, dict(standard.config)) == ("no_defense", plan.environment.undefended)


def test_a_fixed_choice_leaves_one_variant(make: PlanMaker) -> None:
    plan = make(set={"channel_statistic": "mean"})
    assert stages_of(plan).count("channel_activations") == 1
    assert plan.builds[-1].config["channel_statistic"] == "mean"
    assert "channel_statistic" not in plan.space.ranges
    assert "channel_statistic" not in plan.default_point
    assert plan.full_config(plan.default_point).channel_statistic == "mean"  # type: ignore[attr-defined]


def test_a_wide_space_with_its_wide_fields_fixed_shares_like_the_narrow_one(make: PlanMaker) -> None:
    fixed = {name: value for name, value in WIDE_BUT_READ.items() if name not in {*ISOLATION, "channel_statistic"}}
    wide = make(space="pipd_wide", set={**fixed, "read_epoch": "30"})
    assert stages_of(wide) == stages_of(make())


@pytest.mark.parametrize("more", [{}, {"channel_statistic": "max"}])
def test_all_numbers_may_be_fixed(more: dict[str, str], make: PlanMaker) -> None:
    plan = make(set={**ISOLATION, **more})
    assert set(plan.space.ranges) == {"channel_statistic"} - set(more)
    assert not {"isolate", "selective_training"} & set(stages_of(plan))


def test_too_many_variants_are_left_to_the_trials() -> None:
    stage = next(stage for stage in PIPD.stages if stage.name == "pre_isolation")

    def variants(count: int) -> int | None:
        found = shared_variants(stage, PIPD, SearchSpace("toy", "pipd", {"gamma": Choice(tuple(range(count)), "why")}))
        return None if found is None else len(found)

    assert variants(MAX_VARIANTS) == MAX_VARIANTS
    assert variants(MAX_VARIANTS + 1) is None


def test_the_default_point_is_the_paper(make: PlanMaker) -> None:
    expected = {
        "isolation_rate": 0.01,
        "clean_rate": 0.20,
        "beta": 3.0,
        "channels_per_tap": 0.04,
        "rounds": 8,
        "ascent_weight": 1.0,
        "channel_statistic": "max",
    }
    for preset in ("smoke", "paper"):
        plan = make(preset=preset, attacks=("badnets",))
        assert plan.default_point == expected
    qt = make(space="qt").default_point
    assert {name: getattr(QTConfig(), name) for name in qt} == qt
    assert qt["epsilon_init"] == 0.4
    assert make(space="no_defense").default_point == {}


def test_the_objective_suits_what_is_measured(make: PlanMaker) -> None:
    assert make().objective == "overall_score"
    assert make(until="isolate").objective == "isolation_score"
    assert make(space="no_defense").objective == "defense_score"
    assert make(objective="tpr").objective == "tpr"
    # Without poison there is nothing to detect: what is left is to do no harm.
    assert make(attacks=("clean",)).objective == "fpr"
    assert make(attacks=("clean",), space="no_defense").objective == "ca"


def test_the_network_is_the_space_s_unless_the_user_names_one(make: PlanMaker) -> None:
    assert make(space="qt").environment.model == "preact_resnet18"
    assert make(space="qt", model="resnet18").environment.model == "resnet18"


def with_environment(plan: Plan, **changes: object) -> Plan:
    return dataclasses.replace(plan, environment=dataclasses.replace(plan.environment, **changes))  # type: ignore[arg-type]


def test_a_trial_has_the_same_name_wherever_it_runs(make: PlanMaker, dataset: str, tmp_path: Path) -> None:
    plan = make()
    key = plan.point_key(plan.default_point)
    assert len(key) == 32
    assert int(key, 16) >= 0  # a hash in hexadecimal, so safe as a folder's name
    elsewhere = with_environment(
        plan,
        store=Path("/elsewhere"),
        device="cuda",
        dataset=dataclasses.replace(plan.environment.dataset, data_dir=Path("/elsewhere"), download=True),
    )
    assert elsewhere.point_key(plan.default_point) == key
    assert small_plan(dataset, tmp_path / "other", trials=99, name="other").point_key(plan.default_point) == key
    assert plan.point_key({**plan.default_point, "beta": 3}) == key, "3 and 3.0 are one value"
    assert plan.point_key(dict(reversed(plan.default_point.items()))) == key


@pytest.mark.parametrize(
    "options",
    [
        {"attacks": ("clean",)},
        {"poison_rates": (0.2,)},
        {"seeds": (1,)},
        {"seeds": (0, 1)},
        {"target_label": 1},
        {"width": 5},
        {"blocks": (1, 2)},
        {"model": "preact_resnet18"},
        {"train_size": 64},
        {"asr_floor": 0.5},
        {"until": "isolate"},
        {"set": {"gamma": "0.3"}},
        {"space": "qt"},
    ],
)
def test_a_trial_has_another_name_when_something_else_is_judged(options: dict[str, object], make: PlanMaker) -> None:
    plan, other = make(), make(**options)
    assert other.point_key(other.default_point) != plan.point_key(plan.default_point)


def test_a_trial_s_name_depends_on_its_point_and_the_precision(make: PlanMaker) -> None:
    plan = make()
    key = plan.point_key(plan.default_point)
    for name, value in {"beta": 2.0, "rounds": 5, "channel_statistic": "mean"}.items():
        assert plan.point_key({**plan.default_point, name: value}) != key
    assert with_environment(plan, precision="bf16").point_key(plan.default_point) != key


def test_a_trial_has_another_name_when_the_data_changed(tmp_path: Path) -> None:
    keys = []
    for seed in (0, 1):
        name = save_npz(tmp_path / "data.npz", make_images(32, 16, seed=seed))
        cached_images.cache_clear()  # as in a new process
        plan = small_plan(name, tmp_path / "out")
        keys.append(plan.point_key(plan.default_point))
    assert keys[0] != keys[1]


def test_a_trial_has_another_name_when_the_picture_changed(make: PlanMaker, tmp_path: Path) -> None:
    keys = []
    for grey in (0, 255):
        Image.new("L", (16, 16), grey).save(tmp_path / "trigger.png")
        plan = make(attacks=("blended_image",), trigger_image=tmp_path / "trigger.png")
        keys.append(plan.point_key(plan.default_point))
    assert keys[0] != keys[1]


def states(text: str) -> list[str]:
    return [line.split("  ")[-1].strip() for line in text.splitlines() if line.startswith("badnets-0.1-s0")]


def test_a_dry_run_starts_nothing_and_tells_what_is_there(make: PlanMaker) -> None:
    plan = make(set=TINY_PIPD)
    text = describe(plan)
    assert not plan.environment.store.exists()
    assert "0 reused, 5 to build" in text
    assert states(text) == ["to build"] * 5
    assert f"Trials: {plan.config.trials} x 1 scenario," in text
    assert "β beta" in text
    assert "[0, 6]" in text
    prepare(plan.scenarios[0], plan.environment)
    assert states(describe(plan)) == ["reused"] + ["to build"] * 4
    evaluate_scenario("pipd", plan.base, plan.scenarios[0], plan.environment, "isolate")
    # The default reads the maximum; the mean is still missing.
    assert states(describe(plan)) == ["reused"] * 4 + ["to build"]
    assert "4 reused, 1 to build" in describe(plan)


def test_what_no_stage_reads_is_not_searched(make: PlanMaker) -> None:
    assert set(make().space.ranges) - set(make(until="isolate").space.ranges) == {"ascent_weight"}


def test_no_more_trials_are_planned_than_there_are_points(make: PlanMaker) -> None:
    five = {name: ISOLATION[name] for name in ("isolation_rate", "clean_rate", "beta", "channels_per_tap", "rounds")}
    plan = make(set={**TINY_PIPD, **five}, until="isolate", trials=6)  # max or mean is all that is left
    assert list(plan.space.ranges) == ["channel_statistic"]
    assert (plan.config.trials, plan.points) == (2, 2)
    note = "The space has 2 settings in all, so the study ends after as many trials."
    assert note in describe(plan)
    assert make(set={**TINY_PIPD, **five}, until="isolate", trials=2).points == 0
    nothing_left = make(set={**TINY_PIPD, **five, "channel_statistic": "max"}, until="isolate", trials=6)
    assert (nothing_left.config.trials, nothing_left.points) == (1, 1)
    assert make(trials=6).points == 0
    assert make(trials=6).points_note == ""


def test_no_more_trials_are_planned_than_reused_settings_have_points(make: PlanMaker) -> None:
    """γ takes any number, but three of them beside seven read epochs and the two points that are given make 23."""
    fixed = {name: value for name, value in WIDE_BUT_READ.items() if name != "gamma"}
    plan = make(space="pipd_wide", sampler="qmc", set=fixed, trials=40, reuse=3)
    assert (plan.config.trials, plan.points) == (3 * 7 + 2, 23)
    assert "With --reuse 3 there are 23 settings in all, so the study ends after as many trials." in describe(plan)
    assert make(space="pipd_wide", sampler="qmc", set=fixed, trials=40).config.trials == 40


def test_trials_that_are_too_few_for_importances_are_told_with_the_number(make: PlanMaker) -> None:
    few = make(sampler="qmc", trials=10)
    assert few.space.ranges
    needed = 5 * len(few.space.ranges) + 1
    assert f"from {needed} on (--trials {needed})" in few.trials_note
    assert few.trials_note in describe(few)
    assert make(sampler="qmc", trials=needed).trials_note == ""
    assert make(sampler="tpe", trials=10).trials_note == "", "it searches: nobody expects importances of it"


def test_a_single_trial_builds_the_paper_default_alone(make: PlanMaker) -> None:
    plan = make(trials=1)
    assert stages_of(plan) == ["poison", "standard_training", "pre_isolation", "channel_activations"]
    assert plan.builds[3].config["channel_statistic"] == plan.default_point["channel_statistic"]
    assert stages_of(make(trials=2)) == [*stages_of(plan), "channel_activations"]


WIDE_BUT_READ = {
    **ISOLATION,
    **{"ascent_weight": "1", "gamma": "0.2", "pre_isolation_lr": "0.1", "pre_isolation_schedule": "one_cycle"},
    **{"granularity": "batch", "pre_isolation_augment": "false", "batch_size": "64", "taps": "blocks"},
    **{"channel_statistic": "max", "clustering": "fisher_jenks"},
}


def test_a_training_that_is_read_at_several_epochs_is_built_to_its_end_first(make: PlanMaker) -> None:
    plan = make(space="pipd_wide", set=WIDE_BUT_READ)
    assert list(plan.space.ranges) == ["read_epoch"]
    reads = [build for build in plan.builds if build.stage == "pre_isolation"]
    assert [build.config["read_epoch"] for build in reads] == [30, 24, 16, 12, 8, 6, 4]
    whole = plan.builds.index(reads[0])
    assert reads[0].needs == (0,)
    assert all(whole in build.needs for build in reads[1:]), "they read what it keeps"
    activations = [build for build in plan.builds if build.stage == "channel_activations"]
    assert [plan.builds[build.needs[1]].config["read_epoch"] for build in activations] == [
        build.config["read_epoch"] for build in activations
    ]


def test_read_epochs_end_with_the_training_that_was_asked_for(make: PlanMaker) -> None:
    plan = make(space="pipd_wide", set={**WIDE_BUT_READ, "pre_isolation_epochs": "10"})
    assert plan.space.ranges["read_epoch"].options == (4, 6, 8, 10)  # type: ignore[union-attr]
    assert plan.default_point == {"read_epoch": 10}


def test_a_wide_space_tries_the_values_of_the_preset_after_those_of_the_paper(make: PlanMaker) -> None:
    plan = make(space="pipd_wide")
    calibrated = plan.calibrated_point
    assert calibrated is not None
    assert (calibrated["gamma"], plan.default_point["gamma"]) == (0.2, 0.5)
    assert calibrated["read_epoch"] == plan.default_point["read_epoch"] == 30
    assert make().calibrated_point is None
    assert (plan.given_trials, make().given_trials) == (2, 1)
    wanted = 5 * len(plan.space.ranges) + 2
    assert f"(--trials {wanted})" in make(space="pipd_wide", sampler="qmc", trials=wanted - 1).trials_note
    assert f"(--trials {wanted})" not in make(space="pipd_wide", sampler="qmc", trials=wanted).trials_note


@pytest.mark.parametrize(
    ("options", "trainings"),
    [
        ({"sampler": "grid", "resolution": {"gamma": ("0.1", "1"), "pre_isolation_lr": ("0.03", "0.1")}}, 4 + 1),
        ({"sampler": "grid", "resolution": {"gamma": ("0.5", "1"), "pre_isolation_lr": ("0.03", "0.1")}}, 4),
        ({"sampler": "qmc", "trials": 40, "reuse": 3}, 3 + 2),
        ({"sampler": "qmc", "trials": 40}, 40),
    ],
)
def test_a_dry_run_counts_the_trainings_that_trials_can_make(
    make: PlanMaker, options: dict[str, Any], trainings: int
) -> None:
    searched = ("gamma", "pre_isolation_lr", "read_epoch")
    fixed = {"isolation_rate": "0.01", "clean_rate": "0.2", "beta": "3", "channels_per_tap": "0.04", "rounds": "8"}
    fixed |= {"channel_statistic": "max", "pre_isolation_schedule": "one_cycle", "pre_isolation_augment": "false"}
    fixed |= {"granularity": "batch", "batch_size": "64", "taps": "blocks", "clustering": "fisher_jenks"}
    plan = make(space="pipd_wide", until="isolate", set=fixed, **options)
    assert set(plan.space.ranges) == set(searched)
    assert sure_trainings(plan) == (trainings if trainings < plan.config.trials else 0), "shared, and sure to come"
    # Pre-isolation is read at epochs of one training, so that these add none.
    assert f"at most {trainings} as shared" in " ".join(describe(plan).split())
