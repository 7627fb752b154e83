"""What the states of trainings take of the store is said beforehand, and refused where there is no room."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from desk import Desk, judged
from field_effects import mislabelled
from small_study import save_npz, small_plan

from defenses import DEFENSES
from defenses.models import ModelSpec
from defenses.registry import UserError
from defenses.runner import RunContext, run_stages
from defenses.storage.inventory import Kind, read_store
from defenses.storage.store import Store
from defenses.trajectories import state_bytes
from study.datasets.images import Images
from study.planning.dry_run import describe
from study.planning.plan import Plan
from study.planning.state_room import check_keep_states, check_state_room, kept_states
from study.planning.states_there import StatesThere
from study.scenarios.evaluation import evaluate_scenario


@pytest.fixture
def make(tmp_path: Path, images: Images) -> Callable[..., Plan]:
    dataset = save_npz(tmp_path / "data.npz", images)
    return lambda **options: small_plan(dataset, tmp_path / "out", **{"clean_control": "none", **options})


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(2 * free, free, free))


def test_a_store_without_room_for_the_states_is_one_line(
    make: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make(set={"pre_isolation_epochs": "200", "read_epoch": "100"}, seeds=(0, 1))
    (states,) = kept_states(plan)
    assert (states.stage, states.last, states.count) == ("pre_isolation", 100, 14)
    assert (states.scenarios, states.settings) == (len(plan.scenarios), 1)
    with_free(monkeypatch, (500 << 20) + states.total)
    check_state_room([plan])
    with_free(monkeypatch, (500 << 20) + states.total - 1)
    with pytest.raises(UserError, match=r"take .+ of disk beside .+ free some") as told:
        check_state_room([plan])
    assert len(str(told.value).splitlines()) == 1
    assert "14 states of" in str(told.value)
    assert "14 states of" in describe(plan)


def test_a_study_that_reads_at_the_end_keeps_none(make: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make()
    with_free(monkeypatch, 1)
    check_state_room([plan])
    assert "States of trainings" not in describe(plan)


def test_trials_that_train_anew_keep_states_of_their_own(
    make: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"space": "pipd_wide", "sampler": "qmc", "trials": 40, "attacks": ("badnets", "sig"), "until": "isolate"}
    (own,), (shared,) = kept_states(make(**wide)), kept_states(make(**wide, reuse=3))
    assert (own.scenarios, own.settings, shared.settings) == (2, 40, 3 + 2)
    assert own.total == own.count * own.bytes * 2 * 40
    assert "with 5 trainings for each of 2 scenarios" in describe(make(**wide, reuse=3))
    with_free(monkeypatch, (500 << 20) + own.total - 1)
    with pytest.raises(UserError, match="share trainings"):
        check_state_room([make(**wide)])
    check_state_room([make(**wide, reuse=3)])
    check_state_room([make(**wide | {"sampler": "tpe"}, pruner="asha", pruner_over="epochs")])


def test_the_second_training_of_qt_hangs_on_the_fields_of_the_first(make: Callable[..., Plan]) -> None:
    fixed = {name: "0.2" for name in ("epsilon_init", "epsilon_step", "pre_quarantine_ratio")}
    plan = make(space="qt_wide", sampler="qmc", trials=30, until="isolate", set=fixed)
    first, second = kept_states(plan)
    assert (first.stage, second.stage) == ("pre_quarantine", "quarantine_training")
    assert first.settings == second.settings == 30, "both have a rate that takes any number"
    rates = {"pre_lr": "0.01", "lr": "0.01", "release_threshold": "0.9", "batch_size": "64"}
    first, second = kept_states(make(space="qt_wide", sampler="qmc", trials=30, until="isolate", set=fixed | rates))
    assert (first.settings, second.settings) == (1, 30), "the first is read at several epochs, of one training"


def test_states_in_the_store_count_where_they_are_of_the_study_s_data(
    make: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {"pre_isolation_epochs": "4", "read_epoch": "3", "batch_size": "32"}
    plan, other = (make(set=read, attacks=(attack,)) for attack in ("badnets", "sig"))
    evaluate_scenario("pipd", plan.base, plan.scenarios[0], plan.environment, "isolate")
    (made,) = [one for one in read_store(Path(plan.environment.store)) if one.kind is Kind.STATES]
    (Path(plan.environment.store) / "poison" / "notes.txt").write_text("of somebody who looked in")
    assert made.bytes > kept_states(plan)[0].total, "they take a little more than was told: nothing is wanting"
    with_free(monkeypatch, 500 << 20)
    check_state_room([plan])
    with pytest.raises(UserError, match="free some"):
        check_state_room([other])


def test_states_of_other_settings_count_for_nothing(make: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of one γ make no room for those of another, but for a study that searches over both."""
    read = {"pre_isolation_epochs": "4", "read_epoch": "3", "batch_size": "32"}
    plan = make(set=read | {"gamma": "0.5"})
    evaluate_scenario("pipd", plan.base, plan.scenarios[0], plan.environment, "isolate")
    with_free(monkeypatch, 500 << 20)
    check_state_room([plan])
    for other in ({"gamma": "0.3"}, {"pre_isolation_epochs": "5"}):
        with pytest.raises(UserError, match="free some"):
            check_state_room([make(set=read | {"gamma": "0.5"} | other)])
    with pytest.raises(UserError, match="free some"):
        check_state_room([make(set=read | {"gamma": "0.5"}, width=8)])
    wide = make(space="pipd_wide", set=read | {"pre_isolation_lr": "0.1"}, sampler="qmc", trials=2, until="isolate")
    known = StatesThere(Path(plan.environment.store), wide)
    assert known.bytes(wide.defense.stages[0], 10**9) == 0, "of another rate and schedule"


def test_the_clean_control_keeps_states_as_well(make: Callable[..., Plan]) -> None:
    wide = {"space": "pipd_wide", "sampler": "qmc", "trials": 40, "seeds": (0, 1), "until": "isolate", "reuse": 3}
    (without,), (states,) = (kept_states(make(**wide, clean_control=control)) for control in ("none", "run"))
    assert states.control == 2 * 2, "the paper's default and the best, on the clean data of each seed"
    assert states.total == without.total + 4 * states.count * states.bytes
    assert "and 4 for the clean control" in describe(make(**wide, clean_control="run"))
    assert kept_states(make(attacks=("badnets", "clean"), set=READ, clean_control="run"))[0].control == 0, "a scenario"


def test_what_one_training_keeps_beside_makes_no_room_for_another(make: Callable[..., Plan]) -> None:
    """States of all 4 epochs lie there, of which the study asks for two."""
    read = {"pre_isolation_epochs": "4", "read_epoch": "4", "batch_size": "32"}
    one = make(set=read, keep_states="all")
    evaluate_scenario("pipd", one.base, one.scenarios[0], one.environment, "isolate")
    two = make(set=read | {"read_epoch": "2"})
    (states,) = kept_states(two)
    known = StatesThere(Path(one.environment.store), two)
    stage = two.defense.stages[0]
    assert known.bytes(stage, 10**9) > known.bytes(stage, states.count * states.bytes) == states.count * states.bytes


def test_a_study_that_ended_needs_no_room(make: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one of a scenario's own, whose ledger lies in a folder of its own; none of its states are there any more."""
    for options in ({}, {"per_scenario": True}):
        plan = make(set=READ, name=f"own{len(options)}", trials=1, **options)
        own = f"{plan.config.name}.{plan.scenarios[0].name}" if options else plan.config.study_name
        with_free(monkeypatch, 500 << 20)
        with pytest.raises(UserError, match="free some"):
            check_state_room([plan])
        folder = Path(plan.config.out) / own
        folder.mkdir(parents=True)
        desk = Desk(plan, folder)
        desk.ledger.enqueue_default(plan.default_point)
        desk.trial(judged(1.0, 0.0, 1.0, 0.0))
        check_state_room([plan])


def test_without_states_each_read_is_a_training(make: Callable[..., Plan]) -> None:
    wide = {"space": "pipd_wide", "sampler": "qmc", "trials": 40, "until": "isolate", "reuse": 3}
    assert "none twice" in describe(make(**wide))
    text = " ".join(describe(make(**wide, keep_states="none")).split())
    assert "none twice" not in text
    assert "of pre_isolation all up to it" in text
    assert "make 40 of them if each makes its own, at most 35 as shared" in text, "five settings, seven reads"


def test_the_studies_of_one_command_share_the_room(make: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make(set=READ)
    with_free(monkeypatch, (500 << 20) + 2 * kept_states(plan)[0].total - 1)
    check_state_room([plan])
    with pytest.raises(UserError, match="free some"):
        check_state_room([plan, plan])


def test_what_is_read_of_a_shared_training_is_kept_whatever_the_setting(make: Callable[..., Plan]) -> None:
    """Reads at 4, 6, 8, 12, 16, 24 and 30, of which only 8 is to be kept: each state that is read is, too."""
    wide = {"space": "pipd_wide", "sampler": "qmc", "trials": 40, "until": "isolate", "keep_states": "8"}
    assert [one.count for one in kept_states(make(**wide, reuse=3))] == [7]
    assert [one.count for one in kept_states(make(**wide))] == [2], "each trial has a training of its own"


READ = {"pre_isolation_epochs": "200", "read_epoch": "100"}


@pytest.mark.parametrize(
    ("keep", "count"), [("grid", 14), ("all", 100), ("none", 0), ("25,50,100", 3), ("50,100", 2), ("100,150", 1)]
)
def test_what_is_kept_is_a_setting_whose_cost_is_said(make: Callable[..., Plan], keep: str, count: int) -> None:
    plan = make(set=READ, keep_states=keep)
    check_keep_states([plan])
    check_keep_states([make(), plan])
    (states,) = kept_states(plan)
    assert (states.last, states.count) == (100, count)
    assert states.total == count * states.bytes
    assert ("No state of a training is kept" if keep == "none" else f"keeps {count} states") in describe(plan)
    assert plan.point_key(plan.default_point) == make(set=READ).point_key(plan.default_point), "no part of any key"
    assert plan.config.identity == make(set=READ).config.identity


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"set": READ, "keep_states": "often"},
            "states that are kept must be grid, all, none or epochs from 1 on, .*got 'often'",
        ),
        ({"set": READ, "keep_states": "5,0"}, "states that are kept must be .* got '5,0'"),
        ({"set": READ, "keep_states": "5,10"}, "must name some of the epochs that are read, 100, got 5,10: name such"),
        ({"keep_states": "all"}, "changes nothing, since this study reads no training before its end"),
    ],
)
def test_what_cannot_be_kept_is_one_line(make: Callable[..., Plan], options: Any, why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        check_keep_states([make(**options)])
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("epochs", [(5,)])
def test_the_size_of_a_state_is_about_what_is_said(tmp_path: Path, epochs: Sequence[int]) -> None:
    spec = ModelSpec("resnet18", 16, (1, 1), 4, 8)
    context = RunContext(Store(tmp_path), spec, 5, torch.device("cpu"), "fp32")
    defense = DEFENSES["pipd"]
    fields = {"pre_isolation_epochs": 6, "batch_size": 32, "pre_isolation_schedule": "one_cycle"}
    for epoch in epochs:
        run_stages(
            defense(defense.config_type.from_mapping(fields | {"read_epoch": epoch})),
            mislabelled(),
            context,
            stop_at="pre_isolation",
        )
    (states,) = [one for one in read_store(tmp_path) if one.kind is Kind.STATES]
    assert states.about["params"].keys() >= {"pre_isolation_epochs"}
    assert states.bytes / 5 == pytest.approx(state_bytes(spec), rel=0.25)  # of epochs 1, 2, 3, 4 and 5
