"""Every search space against the Config that it searches."""

import dataclasses
from typing import Any

import optuna
import pytest

from defenses import DEFENSES
from defenses.api import Trajectory
from defenses.config import Config
from defenses.methods.flare import smallest_cluster
from defenses.storage.trajectory import GRID
from search_spaces import SEARCH_SPACES
from search_spaces.space import Choice, Float, Int, Range, SearchSpace, finite_values
from study.config.config import PRESETS
from study.scenarios.oracle_defenses import ORACLE_DEFENSES, find_defense

SPACES = sorted(SEARCH_SPACES)
RANGES = [(name, field) for name in SPACES for field in SEARCH_SPACES[name].ranges]
PRESETS_OF_SPACES = [(name, preset) for name in SPACES for preset in ("paper", *SEARCH_SPACES[name].presets)]
READS = [
    (name, preset, stage.trajectory)
    for name, preset in PRESETS_OF_SPACES
    for stage in find_defense(SEARCH_SPACES[name].defense).stages
    if stage.trajectory is not None and stage.trajectory.read in SEARCH_SPACES[name].ranges
]
POINTS = 120


def config_type(space: SearchSpace) -> type[Config]:
    return find_defense(space.defense).config_type


def fields(space: SearchSpace) -> set[str]:
    return {field.name for field in dataclasses.fields(config_type(space))}


def test_spaces_and_defenses_belong_together() -> None:
    assert {SEARCH_SPACES[name].defense for name in SPACES} == {*DEFENSES, *ORACLE_DEFENSES}
    for name in SPACES:
        assert SEARCH_SPACES[name].name == name
        assert find_defense(SEARCH_SPACES[name].defense).name == SEARCH_SPACES[name].defense


@pytest.mark.parametrize("name", SPACES)
def test_searched_fields_exist(name: str) -> None:
    space = SEARCH_SPACES[name]
    assert set(space.ranges) <= fields(space)


@pytest.mark.parametrize(("name", "field"), RANGES)
def test_every_default_lies_inside_its_range(name: str, field: str) -> None:
    space = SEARCH_SPACES[name]
    for preset in ("paper", *space.presets):
        there = space.at(preset)
        built = config_type(space).from_mapping(there.preset(preset))
        point = there.default(built)
        assert point in there
        idle = field in there.conditions.idle({name: getattr(built, name) for name in there.ranges})
        assert (field not in point) is idle
        assert (getattr(built, field) if idle else point[field]) in there.ranges[field]


@pytest.mark.parametrize(("name", "preset"), PRESETS_OF_SPACES)
def test_what_a_user_sets_is_read_beside_the_preset(name: str, preset: str) -> None:
    """Not beside the values of the paper, beside which the preset's may make no sense: it has QT trained longer."""
    space = SEARCH_SPACES[name]
    kind, given = config_type(space), space.preset(preset)
    built = kind.from_mapping(given)
    for field in dataclasses.fields(kind):
        value = getattr(built, field.name)
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert getattr(kind.from_text({field.name: text}, given), field.name) == value
    for stage in find_defense(space.defense).stages:
        if stage.trajectory is not None:
            last = stage.trajectory.length(built)
            assert kind.from_text({stage.trajectory.read: str(last)}, given)


@pytest.mark.parametrize(("name", "field"), RANGES)
def test_every_range_has_a_reason(name: str, field: str) -> None:
    reason = SEARCH_SPACES[name].ranges[field].why
    assert len(reason.split()) >= 4, "a reason, not a label"
    assert "\n" not in reason


@pytest.mark.parametrize(("name", "preset"), PRESETS_OF_SPACES)
def test_presets_leave_the_searched_fields_alone(name: str, preset: str) -> None:
    space = SEARCH_SPACES[name].at(preset)
    assert preset in PRESETS
    values = space.preset(preset)
    assert set(values) <= fields(space)
    assert not set(values) & set(space.ranges)
    built = config_type(space).from_mapping(values)
    assert {field: getattr(built, field) for field in values} == values, "a preset's value must not be converted"
    assert space.default(built) == space.default(config_type(space)())
    assert list(space.default(built)) == [field for field in space.ranges if field in space.default(built)]


def test_the_paper_preset_changes_nothing() -> None:
    assert all(SEARCH_SPACES[name].preset("paper") == {} for name in SPACES)


@pytest.mark.parametrize(("name", "preset", "trajectory"), READS)
def test_a_training_is_read_where_its_state_is_kept_or_at_its_end(
    name: str, preset: str, trajectory: Trajectory
) -> None:
    space = SEARCH_SPACES[name].at(preset)
    reads = space.ranges[trajectory.read]
    assert isinstance(reads, Choice)
    *early, last = reads.options
    assert last == trajectory.length(config_type(space).from_mapping(space.preset(preset)))
    assert set(early) <= set(GRID)
    assert [*early, last] == sorted({*early, last})


@pytest.mark.parametrize(("name", "preset"), PRESETS_OF_SPACES)
def test_the_second_trial_has_the_values_that_the_narrower_space_fixes(name: str, preset: str) -> None:
    space = SEARCH_SPACES[name].at(preset)
    built = config_type(space).from_mapping(space.preset(preset))
    point = space.calibrated_point(preset, built)
    if not name.endswith("_wide") or preset == "paper":
        assert point is None
        return
    assert point is not None
    assert point in space
    narrow = SEARCH_SPACES[name.removesuffix("_wide")]
    known = narrow.preset(preset)
    for field, value in point.items():
        assert (
            value == known.get(field, space.default(built)[field]) or name == "cd_wide"
        )  # whose masks are the paper's


@pytest.mark.parametrize(("name", "preset"), PRESETS_OF_SPACES)
def test_sampled_points_make_configs(name: str, preset: str) -> None:
    space = SEARCH_SPACES[name].at(preset)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: dict[str, set[Any]] = {field: set() for field in space.ranges}
    distributions = space.distributions()
    for _ in range(POINTS):
        trial = study.ask()
        point = space.suggest(trial)
        assert trial.distributions == {field: distributions[field] for field in point}
        assert point in space
        built = config_type(space).from_mapping({**space.preset(preset), **point})
        assert space.default(built) == point
        for field, value in point.items():
            seen[field].add(value)
    for field, found in space.ranges.items():
        if isinstance(found, Choice):
            assert seen[field] == set(found.options)
        else:
            assert len(seen[field]) > 5, f"{field} hardly varies"


@pytest.mark.parametrize(("name", "field"), RANGES)
def test_the_ends_of_a_range_make_configs(name: str, field: str) -> None:
    space = SEARCH_SPACES[name]
    found = space.ranges[field]
    for end in found.options if isinstance(found, Choice) else (found.low, found.high):
        assert getattr(config_type(space).from_mapping({field: end}), field) == end


def test_ranges_hold_values_of_their_type() -> None:
    real, whole = Float(0.5, 2.0, "why"), Int(1, 3, "why")
    assert 0.5 in real
    assert 2.0 in real
    assert 2.1 not in real
    assert 1 not in real  # a count where a share is meant must not slip through
    assert "1" not in real
    assert float("nan") not in real
    assert 1 in whole
    assert 3 in whole
    assert 4 not in whole
    assert 1.0 not in whole
    assert "max" in Choice(("max", "mean"), "why")
    assert "min" not in Choice(("max", "mean"), "why")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Float(0.002, 0.05, "why", log=True), "[0.002, 0.05] log"),
        (Float(0.0, 6.0, "why"), "[0, 6]"),
        (Int(1, 12, "why"), "1 to 12"),
        (Int(5, 200, "why", log=True), "5 to 200 log"),
        (Choice(("max", "mean"), "why"), "max, mean"),
    ],
)
def test_ranges_read_well(found: Range, text: str) -> None:
    assert str(found) == text


def test_a_fixed_field_is_no_longer_searched() -> None:
    space = SEARCH_SPACES["pipd"]
    left = space.without(("beta", "rounds", "no_such_field"))
    assert set(left.ranges) == set(space.ranges) - {"beta", "rounds"}
    assert (left.name, left.defense, left.model, left.presets) == (
        space.name,
        space.defense,
        space.model,
        space.presets,
    )
    assert {"beta", "rounds"} <= set(space.ranges), "the registered space stays as it is"


def test_a_preset_of_a_searched_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"preset 'smoke' must not set searched fields, got \['beta'\]"):
        SearchSpace("toy", "pipd", {"beta": Float(0.0, 6.0, "why")}, {"smoke": {"beta": 3.0}})


def test_only_choices_can_be_enumerated() -> None:
    assert finite_values(Choice(("max", "mean"), "why")) == ("max", "mean")
    assert finite_values(Float(0.0, 1.0, "why")) is None
    assert finite_values(Int(1, 12, "why")) is None


@pytest.mark.parametrize(("preset", "images"), [("smoke", 1437), ("small", 10_000), ("paper", 50_000)])
@pytest.mark.parametrize("name", ["flare", "flare_wide"])
def test_each_smallest_cluster_that_is_searched_is_another(name: str, preset: str, images: int) -> None:
    searched = SEARCH_SPACES[name].at(preset).ranges["min_cluster_size"]
    assert isinstance(searched, Choice)
    sizes = [smallest_cluster(float(share), images) for share in searched.options]
    assert len(set(sizes)) == len(sizes)
