"""What a stage is handed, what its key depends on, and what is run or left alone."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from defenses import DEFENSES
from defenses.api import CleanReserve, Defense, Outputs, Params, Stage, StageContext, SuspectDataset
from defenses.config import Config, param
from defenses.models import ModelSpec
from defenses.runner import (
    RunContext,
    missing_stages,
    needed_stages,
    run_defense,
    run_stages,
    stage_identity,
    stage_key,
)

MakeContext = Callable[..., RunContext]
STAGES = [(name, stage.name) for name in DEFENSES for stage in DEFENSES[name].stages]


@dataclass(frozen=True)
class ToyConfig(Config):
    a: int = param(1, "read by the first stage")
    b: int = param(2, "read by the second stage")
    c: int = param(3, "read by the third stage")
    unused: int = param(0, "read by none")


class Toy:
    """A chain base -> middle (not cached) -> last, and a side stage on base; each run is written down."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.base_run: Callable[..., Outputs] = self.base

        def base(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
            return self.base_run(context, inputs, params)

        class ToyDefense(Defense):
            name = "toy"
            config_type = ToyConfig
            scores = "middle.scores"
            flagged = "middle.flagged"
            stages = (
                Stage("base", base, reads=("a",), outputs=("x",)),
                Stage("side", self.side, reads=("c",), outputs=("y",), inputs={"x": "base.x"}),
                Stage(
                    "middle",
                    self.middle,
                    reads=("b",),
                    outputs=("scores", "flagged", "series", "flagged_series"),
                    inputs={"mine": "base.x"},
                    cached=False,
                ),
                Stage("last", self.last, reads=("c",), outputs=("z",), inputs={"flagged": "middle.flagged"}),
            )

        self.type = ToyDefense

    def base(self, context: StageContext, inputs: Outputs, params: Params) -> Outputs:
        self.ran.append("base")
        assert inputs == {}
        return {"x": np.full(len(context.dataset), float(params.a))}

    def side(self, context: StageContext, inputs: Outputs, params: Params) -> Outputs:
        self.ran.append("side")
        return {"y": inputs["x"] + params.c}

    def middle(self, context: StageContext, inputs: Outputs, params: Params) -> Outputs:
        self.ran.append("middle")
        assert list(inputs) == ["mine"]
        scores = inputs["mine"] * np.arange(len(context.dataset))
        flagged = scores >= params.b
        return {"scores": scores, "flagged": flagged, "series": {"v": [1.0]}, "flagged_series": flagged[None]}

    def last(self, context: StageContext, inputs: Outputs, params: Params) -> Outputs:
        self.ran.append("last")
        return {"z": int(inputs["flagged"].sum()) + params.c}

    def __call__(self, **values: int) -> Defense:
        return self.type(ToyConfig(**values))


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="module")
def data() -> SuspectDataset:
    return SuspectDataset.of(np.zeros((5, 8, 8, 3), dtype=np.uint8), np.arange(5) % 2, 2)


# What is run


def test_results_come_from_the_named_outputs(toy: Toy, data: SuspectDataset, make_context: MakeContext) -> None:
    result = run_defense(toy(a=2, b=4), data, make_context())
    assert result.scores.tolist() == [0, 2, 4, 6, 8]
    assert result.flagged.tolist() == [False, False, True, True, True]
    assert result.model is None
    assert result.series == {"middle.v": [1.0]}
    assert result.flagged_series["middle"].tolist() == [result.flagged.tolist()]
    assert [run.stage for run in result.stages] == ["base", "side", "middle", "last"] == toy.ran


def test_a_second_run_builds_only_what_is_not_cached(toy: Toy, data: SuspectDataset, make_context: MakeContext) -> None:
    first = run_defense(toy(), data, make_context())
    toy.ran.clear()
    second = run_defense(toy(), data, make_context())
    assert toy.ran == ["middle"]
    assert [run.hit for run in first.stages] == [False] * 4
    assert [run.hit for run in second.stages] == [True, True, False, True]
    assert [run.key for run in first.stages] == [run.key for run in second.stages]
    # The honest cost stays what it was when the stage was built; what this run spent is its own.
    for built, read in zip(first.stages, second.stages, strict=True):
        if read.hit:
            assert read.built_seconds == built.built_seconds <= built.wall_seconds
        else:
            assert read.built_seconds == read.wall_seconds


def test_a_change_reruns_what_depends_on_it_and_no_more(
    toy: Toy, data: SuspectDataset, make_context: MakeContext
) -> None:
    run_defense(toy(), data, make_context())
    for values, expected in (
        ({"unused": 9}, ["middle"]),
        ({"b": 3}, ["middle", "last"]),  # other flags, so what reads them is built again
        ({"b": 3, "a": 1}, ["middle"]),
        ({"c": 5}, ["side", "middle", "last"]),
        ({"a": 7}, ["base", "side", "middle", "last"]),  # flags all samples but the first
        ({"a": 2}, ["base", "side", "middle"]),  # other scores, the same flags: their content decides, not their path
    ):
        toy.ran.clear()
        run_defense(toy(**values), data, make_context())
        assert toy.ran == expected, values


def test_until_isolate_stops_at_the_flags(toy: Toy, data: SuspectDataset, make_context: MakeContext) -> None:
    result = run_defense(toy(), data, make_context(), until="isolate")
    assert "last" not in toy.ran
    assert result.flagged is not None
    assert result.model is None


def test_stop_at_runs_only_what_it_needs(toy: Toy, data: SuspectDataset, make_context: MakeContext) -> None:
    done = run_stages(toy(), data, make_context(), stop_at="last")
    assert toy.ran == ["base", "middle", "last"] == list(done)
    assert done["last"].load("z") == 3 + 3
    toy.ran.clear()
    assert list(run_stages(toy(a=5), data, make_context(), stop_at="base")) == ["base"] == toy.ran


def test_needed_stages_are_in_order_and_without_the_others(toy: Toy) -> None:
    def names(last: str) -> list[str]:
        return [stage.name for stage in needed_stages(toy.type, last)]

    assert names("base") == ["base"]
    assert names("side") == ["base", "side"]
    assert names("last") == ["base", "middle", "last"]
    assert [stage.name for stage in needed_stages(DEFENSES["pipd"], "isolate")] == [
        "pre_isolation",
        "channel_activations",
        "isolate",
    ]
    assert [stage.name for stage in needed_stages(DEFENSES["qt"](), "quarantine_training")] == [
        "pre_quarantine",
        "quarantine_training",
    ]


def test_missing_stages_before_and_after(toy: Toy, data: SuspectDataset, make_context: MakeContext) -> None:
    context = make_context()

    def missing(stop_at: str, **values: int) -> list[str]:
        return missing_stages(toy(**values), data.fingerprint, context, stop_at)

    assert missing("side") == ["base", "side"]
    assert toy.ran == []
    run_stages(toy(), data, context, stop_at="base")
    assert missing("side") == ["side"]
    run_stages(toy(), data, context, stop_at="side")
    assert missing("side") == missing("base") == []
    assert missing("side", c=9) == ["side"]
    assert missing("side", a=9) == ["base", "side"]
    # A stage that is not cached is always missing, and what follows it is unknown until it has run.
    run_defense(toy(), data, context)
    assert missing("last") == ["middle", "last"]


@pytest.mark.parametrize("outputs", [{}, {"y": 1}, {"x": 1, "y": 2}])
def test_outputs_other_than_declared_are_an_error(
    toy: Toy, data: SuspectDataset, make_context: MakeContext, outputs: Outputs
) -> None:
    toy.base_run = lambda *_: outputs
    with pytest.raises(TypeError, match=r"stage base declares \['x'\]"):
        run_defense(toy(), data, make_context())
    assert missing_stages(toy(), data.fingerprint, make_context(), "base") == ["base"]


# What a stage is handed


def test_a_stage_is_handed_only_what_it_reads(toy: Toy, data: SuspectDataset, make_context: MakeContext) -> None:
    held: list[dict[str, Any]] = []

    def curious(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
        held.append(vars(params).copy())
        return {"x": np.full(5, params.b)}

    toy.base_run = curious
    with pytest.raises(AttributeError, match="'b'"):
        run_defense(toy(), data, make_context())
    assert held == [{"a": 1}]


def test_the_context_of_a_stage_is_the_runs(toy: Toy, data: SuspectDataset, make_context: MakeContext) -> None:
    held: list[StageContext] = []

    def keep(context: StageContext, inputs: Outputs, params: Params) -> Outputs:
        held.append(context)
        return toy.base(context, inputs, params)

    toy.base_run = keep
    context = make_context(seed=7)
    run_stages(toy(), data, context, stop_at="base")
    found = held[0]
    assert (found.stage, found.seed, found.precision, found.device) == ("base", 7, "fp32", torch.device("cpu"))
    assert found.model == context.model
    assert found.dataset is data
    draws = [torch.rand(3, generator=found.generator("role")).tolist() for _ in range(2)]
    assert draws[0] == draws[1]
    other = dataclasses.replace(found, stage="another")
    for generator in (
        found.generator("else"),
        other.generator("role"),
        dataclasses.replace(found, seed=8).generator("role"),
    ):
        assert torch.rand(3, generator=generator).tolist() != draws[0]
    assert found.derive("a") == found.derive("a") != found.derive("b")
    assert 0 <= found.derive("a") < 2**32


# Keys


RESERVE = CleanReserve(np.zeros((1000, 8, 8, 3), np.uint8), np.zeros(1000, np.int64), 2)


def key(stage: Stage, config: Config, context: RunContext, fingerprint: str = "f", **digests: str) -> str:
    inputs = {local: "0" * 64 for local in stage.inputs} | digests
    context = dataclasses.replace(context, reserve=RESERVE)
    return stage_key(stage_identity(stage, config, fingerprint, context, inputs))


def stage_of(name: str, stage: str) -> Stage:
    return next(found for found in DEFENSES[name].stages if found.name == stage)


def another(config: Config, name: str) -> Config:
    """The config with another value of one field, whatever its type and range."""
    declared = next(field for field in dataclasses.fields(config) if field.name == name)
    value, metadata = getattr(config, name), declared.metadata
    candidates: list[Any] = [*(metadata["choices"] or ()), (1, 2), 0.25, 0.5, 3, 5, True, False]
    for candidate in candidates:
        try:
            changed = dataclasses.replace(config, **{name: candidate})
        except ValueError:
            continue
        if getattr(changed, name) != value:
            return changed
    raise AssertionError(f"no other value of {name} found")


@pytest.mark.parametrize(("name", "stage_name"), STAGES)
def test_a_key_changes_with_the_fields_read_and_with_no_other(
    make_context: MakeContext, name: str, stage_name: str
) -> None:
    stage, config, context = stage_of(name, stage_name), DEFENSES[name].config_type(), make_context()
    plain = key(stage, config, context)
    seen = {plain}
    for declared in dataclasses.fields(config):
        other = another(config, declared.name)
        if stage.trajectory is not None and declared.name == stage.trajectory.read:
            other = dataclasses.replace(
                config, **{declared.name: 2}
            )  # a training of 3 without end is that read after 3
        changed = key(stage, other, context)
        if declared.name in stage.reads:
            assert changed not in seen, f"{declared.name} must change the key of {stage_name}"
            seen.add(changed)
        else:
            assert changed == plain, f"{declared.name} must not change the key of {stage_name}"


@pytest.mark.parametrize("name", DEFENSES)
def test_every_field_is_read_by_a_stage_and_every_read_is_a_field(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(DEFENSES[name].config_type)}
    reads = [read for stage in DEFENSES[name].stages for read in stage.reads]
    assert set(reads) == fields
    for stage in DEFENSES[name].stages:
        assert len(set(stage.reads)) == len(stage.reads)


@pytest.mark.parametrize("name", DEFENSES)
def test_stages_take_declared_outputs_of_earlier_stages(name: str) -> None:
    given: set[str] = set()
    for stage in DEFENSES[name].stages:
        assert set(stage.inputs.values()) <= given
        given |= {f"{stage.name}.{output}" for output in stage.outputs}
    defense = DEFENSES[name]
    assert {source for source in (defense.scores, defense.flagged, defense.weights) if source} <= given


def test_stages_of_one_name_are_one_function() -> None:
    """A key holds a stage's name and not what it runs: another function would be given this one's outputs."""
    runs: dict[str, set[Callable[..., Outputs]]] = {}
    for name in DEFENSES:
        for stage in DEFENSES[name].stages:
            runs.setdefault(stage.name, set()).add(stage.run)
    assert {name for name, functions in runs.items() if len(functions) > 1} == set()


@pytest.mark.parametrize(("name", "stage_name"), STAGES)
def test_a_key_changes_with_everything_else_the_stage_depends_on(
    make_context: MakeContext, name: str, stage_name: str
) -> None:
    stage, config, context = stage_of(name, stage_name), DEFENSES[name].config_type(), make_context()
    spec = context.model
    specs = [
        dataclasses.replace(spec, name="preact_resnet18"),
        dataclasses.replace(spec, width=9),
        dataclasses.replace(spec, blocks=(1, 1, 1, 2)),
        dataclasses.replace(spec, num_classes=5),
        dataclasses.replace(spec, image_size=17),
        dataclasses.replace(spec, mean=(1.0, 2.0, 3.0)),
        dataclasses.replace(spec, std=(1.0, 2.0, 3.0)),
    ]
    assert len(specs) == len(dataclasses.fields(ModelSpec))
    keys = [key(stage, config, context), key(stage, config, context, fingerprint="other")]
    keys += [key(stage, config, dataclasses.replace(context, model=changed)) for changed in specs]
    keys += [key(stage, config, dataclasses.replace(context, seed=1))]
    keys += [key(stage, config, dataclasses.replace(context, precision="bf16"))]
    keys += [key(dataclasses.replace(stage, version=stage.version + 1), config, context)]
    keys += [key(dataclasses.replace(stage, name="renamed"), config, context)]
    keys += [key(stage, config, context, **{local: "1" * 64}) for local in stage.inputs]
    assert len(set(keys)) == len(keys)
    assert all(len(found) == 64 and set(found) <= set("0123456789abcdef") for found in keys)


@pytest.mark.parametrize(("name", "stage_name"), STAGES)
def test_what_computes_it_is_part_of_a_key_and_where_it_is_kept_is_not(
    make_context: MakeContext, name: str, stage_name: str
) -> None:
    stage, config, context = stage_of(name, stage_name), DEFENSES[name].config_type(), make_context()
    elsewhere = dataclasses.replace(make_context(folder="another"), progress=lambda *_: None)
    assert key(stage, config, elsewhere) == key(stage, config, context)
    assert key(stage, config, dataclasses.replace(context, device=torch.device("cuda"))) != key(stage, config, context)
    of_one_thread = key(stage, config, context)
    torch.set_num_threads(2)
    assert key(stage, config, context) != of_one_thread
    torch.set_num_threads(1)
    assert key(stage, config, context) == of_one_thread


def test_a_defense_refuses_anothers_config() -> None:
    with pytest.raises(TypeError, match="qt takes a QTConfig, got PIPDConfig"):
        DEFENSES["qt"](DEFENSES["pipd"].config_type())
