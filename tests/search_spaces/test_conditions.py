"""Fields that act only at some values of another: what a point has of them, how many points there are, what is fixed.

What is said to do nothing is run, and does nothing.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from field_effects import SPEC, mislabelled
from small_images import make_reserve

from defenses import DEFENSES
from defenses.api import stage_params
from defenses.config import Config
from defenses.methods.ac import ACConfig
from defenses.methods.quarantine import QTConfig
from defenses.runner import RunContext, run_stages
from defenses.storage.atomic_files import canonical
from defenses.storage.store import Store
from defenses.trajectories import key_params
from search_spaces import SEARCH_SPACES
from search_spaces.conditions import Condition, Conditions, where, where_above, where_below
from search_spaces.space import Choice, Float, Int, Range, SearchSpace
from study.scenarios.oracle_defenses import find_defense

# rule -> limit, and where the limit is not the least one -> how it is passed.
CHAIN: dict[str, Range] = {
    "rule": Choice(("all", "some"), "w"),
    "limit": Int(1, 3, "w", when=where("rule", "some")),
    "passed": Choice(("above", "reached"), "w", when=where_above("limit", 1)),
    "beside": Choice((0, 1), "w"),
}
CONDITIONAL = [name for name in sorted(SEARCH_SPACES) if SEARCH_SPACES[name].conditions.conditional]
POINTS = 150


def toy(ranges: Mapping[str, Range]) -> SearchSpace:
    return SearchSpace("toy", "pipd", ranges)


def by_hand() -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    for beside in (0, 1):
        points += [{"rule": "all", "beside": beside}, {"rule": "some", "limit": 1, "beside": beside}]
        for limit, passed in itertools.product((2, 3), ("above", "reached")):
            points.append({"rule": "some", "limit": limit, "passed": passed, "beside": beside})
    return points


def test_which_fields_act_at_a_point() -> None:
    conditions = toy(CHAIN).conditions
    assert conditions.conditional == ("limit", "passed")
    assert conditions.idle({"rule": "all"}) == {"limit", "passed"}, "what does nothing has no say"
    assert conditions.idle({"rule": "all", "limit": 3}) == {"limit", "passed"}
    assert conditions.idle({"rule": "some", "limit": 1}) == {"passed"}
    assert conditions.idle({"rule": "some", "limit": 2}) == set()
    whole = {"rule": "all", "limit": 3, "passed": "above", "beside": 1}
    assert conditions.drop_idle(whole) == {"rule": "all", "beside": 1}
    assert not conditions.is_whole(whole, CHAIN)
    assert conditions.is_whole({"rule": "all", "beside": 1}, CHAIN)
    assert not conditions.is_whole({"rule": "some", "beside": 1}, CHAIN)


def test_a_space_has_each_point_once() -> None:
    space = toy(CHAIN)
    expected = by_hand()
    values: dict[str, Any] = {
        "rule": ("all", "some"),
        "limit": (1, 2, 3),
        "passed": ("above", "reached"),
        "beside": (0, 1),
    }
    points = list(space.conditions.points(values))
    assert len(points) == len(expected) == space.size == 12
    assert all(point in points for point in expected)
    assert all(point in space for point in expected)
    assert [list(point) for point in points] == [[name for name in CHAIN if name in point] for point in points]
    assert {"rule": "all", "limit": 1, "beside": 0} not in space
    assert {"rule": "some", "beside": 0} not in space
    assert {"rule": "some", "limit": 4, "passed": "above", "beside": 0} not in space


def test_without_conditions_points_are_a_product_in_its_order() -> None:
    values: dict[str, Any] = {"a": (1, 2), "b": ("x", "y", "z"), "c": (0.5,)}
    expected = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    assert list(Conditions().points(values)) == expected
    assert Conditions().count({name: len(own) for name, own in values.items()}, values.get) == 6


def test_a_space_has_no_end_where_a_field_that_may_act_has_none() -> None:
    endless = {**CHAIN, "limit": Float(0.0, 3.0, "w", when=where("rule", "some"))}
    assert toy(endless).size is None
    assert toy({"rule": CHAIN["rule"], "share": Float(0.0, 1.0, "w", when=where("rule", "none of these"))}).size == 2


@pytest.mark.parametrize(
    ("ranges", "why"),
    [
        ({"a": Int(1, 2, "w", when=where("a", 1))}, "a field must hang on another one than itself, got a"),
        (
            {"a": Int(1, 2, "w", when=where("b", 1)), "b": Int(1, 2, "w", when=where("a", 1)), "c": Int(1, 2, "w")},
            "conditions must not go in a circle, got one through a, b",
        ),
    ],
)
def test_what_hangs_on_itself_is_refused(ranges: dict[str, Range], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        toy(ranges)


def test_a_field_may_stand_before_the_one_that_it_hangs_on() -> None:
    space = toy({name: CHAIN[name] for name in ("passed", "limit", "beside", "rule")})
    assert space.size == 12
    trial = optuna.create_study().ask({"rule": optuna.distributions.CategoricalDistribution(("all",))})
    space = toy({"limit": Int(1, 3, "w", when=where("rule", "some")), "rule": Choice(("all",), "w")})
    assert space.suggest(trial) == {"rule": "all"}


def test_conditions_read_well() -> None:
    assert str(CHAIN["limit"]) == "1 to 3, where rule some"
    assert str(CHAIN["passed"]) == "above, reached, where limit > 1"
    both = where("rule", "a", "b") + where_above("epochs", 5) + where_below("limit", 1)
    assert str(Float(0.0, 1.0, "w", when=both)) == "[0, 1], where rule a or b and epochs > 5 and limit < 1"


def test_the_end_of_a_training_is_later_than_any_epoch() -> None:
    assert Condition("read_epoch", above=5).holds(None)
    assert [epoch for epoch in range(4, 8) if Condition("read_epoch", above=5).holds(epoch)] == [6, 7]


def test_a_default_has_the_fields_that_act_there() -> None:
    space = SEARCH_SPACES["ac"]
    assert space.default(ACConfig()) == {
        "reducer": "pca",
        "dims": 10,
        "clusters": 2,
        "rule": "share",
        "max_share": 0.35,
    }
    assert space.default(ACConfig(rule="smaller", reducer="none")) == {
        "reducer": "none",
        "clusters": 2,
        "rule": "smaller",
    }


@pytest.mark.parametrize(
    ("name", "fixed", "gone"),
    [
        ("ac", {}, set()),
        ("ac", {"rule": "smaller"}, {"rule", "max_share", "min_silhouette"}),
        ("ac", {"rule": "share"}, {"rule", "min_silhouette"}),
        ("ac", {"rule": "share_and_silhouette", "reducer": "none"}, {"rule", "reducer", "dims"}),
        ("dbalfa", {"layers_used": 1}, {"layers_used", "weights"}),
        ("dbalfa", {"layers_used": 2}, {"layers_used"}),
        ("qt", {"epsilon_schedule": "fixed"}, {"epsilon_schedule", "epsilon_step"}),
        ("qt", {"dynamic_epochs": 1}, {"dynamic_epochs", "epsilon_schedule", "epsilon_step"}),
        ("qt", {"quarantine_epochs": 5}, {"release_threshold"}),
        ("qt", {"quarantine_epochs": 5, "release_epochs": (2,)}, set()),
        ("qt", {"quarantine_epochs": 6}, set()),
        ("qt_wide", {"release_threshold": 1.0}, {"release_threshold", "release_lasts"}),
        ("qt_wide", {"release_threshold": 1.0, "release_at": "reached"}, {"release_threshold"}),
        ("qt_wide", {"pre_quarantine_ratio": 0.0}, {"pre_quarantine_ratio", "pre_quarantine_label"}),
        ("dst_wide", {"transform": "flip"}, {"transform", "kernel_size", "draws"}),
        ("dst_wide", {"transform": "blur"}, {"transform", "draws"}),
    ],
)
def test_what_does_nothing_at_a_fixed_value_is_not_searched(name: str, fixed: dict[str, Any], gone: set[str]) -> None:
    space = SEARCH_SPACES[name]
    config = find_defense(space.defense).config_type.from_mapping(fixed)
    settled = space.without([*fixed]).settled(config)
    assert space.ranges.keys() - settled.ranges.keys() == gone | (fixed.keys() & space.ranges.keys())
    hung_on = {one.field for own in settled.ranges.values() for one in own.when}
    assert hung_on <= settled.ranges.keys()
    assert settled.settled(config) == settled


def test_a_training_that_is_too_short_for_a_check_is_searched_without_it() -> None:
    space = SEARCH_SPACES["qt_wide"]
    reads = Choice((2, 4), "w")
    short = SearchSpace("toy", "qt", {**space.ranges, "quarantine_read_epoch": reads}).settled(
        QTConfig(quarantine_epochs=4)
    )
    assert space.ranges.keys() - short.ranges.keys() == {"release_threshold", "release_lasts"}


def test_a_condition_on_a_field_that_is_none_is_refused() -> None:
    space = SearchSpace("toy", "ac", {"dims": Int(2, 50, "w", when=where("reduser", "pca"))})
    with pytest.raises(ValueError, match="must be on a field of ACConfig, got one on 'reduser'"):
        space.settled(ACConfig())


@pytest.mark.parametrize("name", sorted(SEARCH_SPACES))
def test_conditions_are_on_fields_and_say_something(name: str) -> None:
    space = SEARCH_SPACES[name]
    config = find_defense(space.defense).config_type()
    assert space.settled(config).ranges.keys() == space.ranges.keys(), "no field does nothing at all defaults"
    for own in space.ranges.values():
        for one in own.when:
            assert one.assumes is None or getattr(config, one.assumes[0]) == one.assumes[1]


def drawn(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(count)]


def names(space: SearchSpace, config: Config) -> tuple[str, ...]:
    """Of what each stage does, inputs apart: two runs with the same do the same."""
    stages = find_defense(space.defense).stages
    return tuple(canonical({**stage_params(stage, config), **key_params(stage, config)}) for stage in stages)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_points_have_no_idle_field_and_those_that_do_the_same_are_the_same(name: str) -> None:
    space = SEARCH_SPACES[name]
    config_type = find_defense(space.defense).config_type
    known: dict[tuple[str, ...], dict[str, Any]] = {}
    idle = 0
    for point in drawn(space, POINTS):
        config = config_type.from_mapping(point)
        whole = {field: getattr(config, field) for field in space.ranges}
        assert space.conditions.idle(whole) == space.ranges.keys() - point.keys()
        idle += len(point) < len(space.ranges)
        assert known.setdefault(names(space, config), point) == point
    assert idle > 0


# Defense, the fields that make the condition fail, the field that then does nothing, two values, a stage to compare.
IDLE: dict[str, tuple[str, dict[str, Any], str, tuple[Any, Any], str]] = {
    "ac, dims": ("ac", {"reducer": "none"}, "dims", (2, 9), "activation_clustering"),
    "ac, share": ("ac", {"rule": "smaller"}, "max_share", (0.0, 0.5), "activation_clustering"),
    "ac, silhouette": ("ac", {"rule": "share"}, "min_silhouette", (-1.0, 1.0), "activation_clustering"),
    "dbalfa": ("dbalfa", {"layers_used": 1, "clean_images": 32}, "weights", ("equal", "gains"), "dbalfa"),
    "dst, kernel": ("dst", {"transform": "rotate_affine"}, "kernel_size", (3, 7), "feature_movement"),
    "dst, draws": ("dst", {"transform": "blur"}, "draws", (1, 8), "feature_movement"),
    "qt, label": (
        "qt",
        {"pre_quarantine_ratio": 0.0},
        "pre_quarantine_label",
        ("maximum", "multiplied"),
        "quarantine_training",
    ),
    "qt, step": ("qt", {"epsilon_schedule": "fixed"}, "epsilon_step", (0.04, 0.2), "quarantine_training"),
    "qt, schedule": ("qt", {"dynamic_epochs": 1}, "epsilon_schedule", ("linear", "cumulative"), "quarantine_training"),
    "qt, threshold": ("qt", {"quarantine_read_epoch": 5}, "release_threshold", (0.0, 1.0), "quarantine_training"),
    "qt, lasts": (
        "qt",
        {"quarantine_read_epoch": 6, "release_threshold": 0.0},
        "release_lasts",
        ("epoch", "end"),
        "quarantine_training",
    ),
    "qt, all stay": ("qt", {"release_threshold": 1.0}, "release_lasts", ("epoch", "end"), "quarantine_training"),
    "pipd": ("pipd", {"gamma": 0.0}, "granularity", ("batch", "sample"), "pre_isolation"),
    "none": ("none", {"finetuning_epochs": 0}, "finetuning_lr", (1e-5, 0.1), "none_cleaning"),
    "abl": ("abl", {"finetuning_epochs": 0}, "finetuning_lr", (0.01, 0.3), "finetuning"),
}
BRIEF: dict[str, dict[str, Any]] = {
    "ac": {"epochs": 2, "batch_size": 32},
    "dbalfa": {"epochs": 6, "lr": 0.1, "batch_size": 32, "augment": False, "schedule": "one_cycle"},
    "dst": {"budget_fraction": 0.1, "first_batch_size": 32},
    "qt": {"pre_epochs": 1, "quarantine_epochs": 8, "batch_size": 96},
    "pipd": {"pre_isolation_epochs": 2, "batch_size": 32},
    "none": {
        **{"epochs": 6, "lr": 0.1, "batch_size": 32, "augment": False, "schedule": "one_cycle"},
        **{"strong_probability": 0.3, "weak_probability": 0.3},
    },
    "abl": {"pre_isolation_epochs": 1, "batch_size": 32},
}


@pytest.mark.parametrize("row", IDLE)
def test_what_is_left_out_does_nothing_to_the_last_bit(row: str, tmp_path: Path) -> None:
    name, fixed, field, values, stage = IDLE[row]
    context = RunContext(Store(tmp_path), SPEC, 5, torch.device("cpu"), "fp32", reserve=make_reserve())
    digests = []
    for value in values:
        config = DEFENSES[name].config_type.from_mapping({**BRIEF[name], **fixed, field: value})
        digests.append(run_stages(DEFENSES[name](config), mislabelled(), context, stop_at=stage)[stage].digests)
    assert digests[0] == digests[1]
