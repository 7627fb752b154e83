"""Stopping trials early, without Ray running: what a trial has reached, the rules by hand, the books, a restart."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from desk import Desk, Outcome
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from small_study import save_npz, scenario_record, small_plan

from defenses.registry import UserError
from study import status
from study.config.config import StudyConfig, resolve
from study.config.objectives import Goal
from study.driver.driver import claim_folder
from study.driver.pruner import Pruner
from study.driver.worker import KEY, POINT, READ
from study.ledger.pruning import Pruning, Step, Stopped, build_steps, parse_pruning
from study.ledger.records import TrialRecord, read_trial, write_record
from study.ledger.selection import front
from study.ledger.snapshot import LOST, read_ledger
from study.ledger.study_folder import studies
from study.ledger.trial_row import TrialRow
from study.planning.dry_run import describe
from study.scenarios.scenario import scenario_order
from tracking import names

ATTACKS = ("badnets", "blended_random", "blended_image", "trojan_square")
PENDING = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])
"""As much of Ray's controller as a rule looks at: other trials wait."""

MakeDesk = Callable[..., Desk]
Asked = tuple[int, dict[str, Any], str]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Any) -> str:
    """Small images in a file."""
    return save_npz(tmp_path_factory.mktemp("pruning") / "data.npz", images)


@pytest.fixture
def make(dataset: str, tmp_path: Path) -> MakeDesk:
    """Studies of four scenarios by the TPR, with the default queued; called again, the next driver of the same."""

    def desk(**options: Any) -> Desk:
        given = {"attacks": ATTACKS, "objective": "tpr", "pruner": "asha", "pruner_grace": 1, **options}
        folder = tmp_path / "out" / "study"
        folder.mkdir(exist_ok=True, parents=True)
        found = Desk(small_plan(dataset, tmp_path / "out", name="study", trials=20, **given), folder)
        found.ledger.enqueue_default(found.plan.default_point)
        return found

    return desk


def pruner_of(desk: Desk) -> Pruner:
    return Pruner(desk.plan, desk.reader, desk.ledger.rows())


def judge(desk: Desk, key: str, position: int, value: float, attack_failed: bool = False) -> dict[str, Any]:
    """A trial's next scenario: its record, and what Ray hands to a scheduler."""
    scenario = scenario_order(desk.plan.scenarios, key)[position]
    metrics: dict[str, float | None] = {"tpr": value, "asr": 1.0 - value, "ca": 0.5, "fpr": 0.0}
    record = scenario_record(scenario.name, metrics, attack_failed=attack_failed)
    write_record(desk.reader.points / key / f"{scenario.name}.json", record)
    return {"scenario": scenario.name, READ: 0, "failure": "", "config/key": key}


def go(desk: Desk, pruners: list[Pruner], *values: float, asked: Asked | None = None) -> int:
    """A trial with these values in its own order of scenarios; how many it was judged on. The pruners must agree.

    Without the ledger, which takes most of the time here, unless it was asked for the point.
    """
    _, point, key = asked or made_up(desk)
    trial = SimpleNamespace(config={KEY: key, POINT: json.dumps(point)})
    for position in range(len(ATTACKS)):
        result = judge(desk, key, position, values[min(position, len(values) - 1)])
        if position == len(ATTACKS) - 1:  # Ray asks no scheduler about a result that is done
            write_record(desk.reader.points / key / "result.json", TrialRecord(key, point, ["all"]))
            break
        verdicts = {pruner.on_trial_result(PENDING, trial, result) for pruner in pruners}
        assert verdicts in (set(), {TrialScheduler.CONTINUE}, {TrialScheduler.STOP}), "they agree, and none pauses"
        if TrialScheduler.STOP in verdicts:
            break
    for pruner in pruners:
        pruner.on_trial_complete(PENDING, trial, result)
    return position + 1


def made_up(desk: Desk) -> Asked:
    """A point that no trial has had."""
    number = len(list(desk.reader.points.glob("*")))
    point = {**desk.plan.default_point, "beta": number / 32}
    return number, point, desk.plan.point_key(point)


def told(desk: Desk, pruners: list[Pruner], *values: float) -> int:
    """The same from the ledger, and with all that a driver does."""
    number, point, key = desk.ledger.ask()
    judged = go(desk, pruners, *values, asked=(number, point, key))
    for scenario in scenario_order(desk.plan.scenarios, key)[:judged]:
        desk.settlement.finish_scenario(key, scenario.name)
    row = desk.settlement.finish_trial(number, key, "")
    assert row.state == ("pruned" if judged < len(ATTACKS) else "complete")
    return judged


def worth(**metrics: float | None) -> Outcome:
    return Outcome(metrics)


def test_what_a_trial_has_reached_after_each_scenario() -> None:
    judged = [
        Outcome({"asr": 0.0}, attack_failed=True),
        worth(asr=0.5),
        worth(asr=None),
        worth(asr=0.25),
        Outcome({"asr": 1.0}, attack_failed=True),
        worth(asr=0.75),
    ]
    assert build_steps(judged, Goal(("asr",))) == (Step(1, 0.5), Step(2, 0.375), Step(3, 0.5))
    assert build_steps(judged, Goal(("asr",), "worst")) == (Step(1, 0.5), Step(2, 0.5), Step(3, 0.75))
    assert build_steps([worth(tpr=0.5, fpr=0.125)], Goal(("isolation_score",))) == (Step(1, 0.375),)
    assert build_steps(judged[:1], Goal(("asr",))) == (), "nothing to tell until a scenario counts"


@pytest.mark.parametrize("how", ["mean", "worst"])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_compared_with_nobody(broken: float, how: Any) -> None:
    judged = [worth(asr=0.5), worth(asr=broken), worth(asr=0.25)]
    assert build_steps(judged, Goal(("asr",), how)) == (Step(1, 0.5),)


@pytest.mark.parametrize(
    ("options", "scenarios", "expected"),
    [
        ({}, 1, None),
        ({"pruner": "asha"}, 2, Pruning("asha", 1, 2.0, 2)),
        ({"pruner": "median"}, 9, Pruning("median", 2, 2.0, 9)),
        ({"pruner": "asha", "pruner_grace": 3, "pruner_factor": 4}, 4, Pruning("asha", 3, 4.0, 4)),
    ],
)
def test_how_trials_are_stopped(options: dict[str, Any], scenarios: int, expected: Pruning | None) -> None:
    assert parse_pruning(resolve(StudyConfig, options), Goal(("asr",)), scenarios) == expected


@pytest.mark.parametrize(
    ("options", "objectives", "scenarios", "parts"),
    [
        ({"pruner": "asha"}, ("asr", "ca"), 3, ["--pruner asha", "one objective", "got 2 (asr, ca)", "--objective"]),
        ({"pruner": "asha"}, ("asr",), 1, ["--pruner asha", "this study has one", "--attacks"]),
        ({"pruner": "median", "per_scenario": True}, ("asr",), 3, ["--pruner median", "--per-scenario", "one of the"]),
        ({"pruner": "asha", "pruner_grace": 3}, ("asr",), 3, ["--pruner-grace", "scenarios (3)", "got 3"]),
        ({"pruner_grace": 1}, ("asr",), 3, ["--pruner-grace changes nothing with --pruner none"]),
        ({"pruner": "median", "pruner_factor": 3}, ("asr",), 3, ["--pruner-factor changes nothing with --pruner med"]),
    ],
)
def test_what_cannot_be_stopped_is_refused(
    options: dict[str, Any], objectives: tuple[str, ...], scenarios: int, parts: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        parse_pruning(resolve(StudyConfig, options), Goal(objectives), scenarios)
    assert all(part in str(refused.value) for part in parts), str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"objective": "asr,ca"}, {"attacks": ("badnets",)}, {"per_scenario": True}])
def test_a_plan_refuses_it_too(options: dict[str, Any], dataset: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--pruner asha"):
        small_plan(dataset, tmp_path, **{"attacks": ATTACKS, "pruner": "asha", **options})


def test_a_pruner_makes_another_study_of_the_same_trials(make: MakeDesk) -> None:
    plans = [make(pruner_grace=None, pruner=pruner).plan for pruner in ("none", "asha", "median")]
    assert len({plan.config.identity for plan in plans}) == 3
    assert len({plan.point_key(plan.default_point) for plan in plans}) == 1
    assert "pruner median" in describe(plans[2])


# The rules. Values are halves and quarters, so that all arithmetic is exact. By the ASR the same trials have 1 - value.


@pytest.mark.parametrize("objective", ["tpr", "asr"])
def test_asha_lets_the_better_half_go_on_at_each_rung(objective: str, make: MakeDesk) -> None:
    desk = make(objective=objective)
    pruner = pruner_of(desk)
    assert go(desk, [pruner], 0.5) == 4  # rungs at 1, 2 and 4
    assert go(desk, [pruner], 0.25) == 1  # rung 1 holds 0.5
    # Rung 1 holds 0.5 and 0.25, their middle is 0.375: as good goes on. Rung 2 holds 0.5, and 0.25 is worse.
    assert go(desk, [pruner], 0.375, 0.125) == 2
    # Rung 2 holds 0.5 and 0.25, and 0.375 is their middle. 0.25 after three scenarios is at no rung.
    assert go(desk, [pruner], 0.75, 0.0) == 4


def test_asha_s_factor_sets_how_many_go_on_and_how_far_rungs_lie_apart(make: MakeDesk) -> None:
    desk = make(pruner_factor=4)
    pruner = pruner_of(desk)
    assert go(desk, [pruner], 0.5) == 4  # rungs at 1 and 4
    assert go(desk, [pruner], 0.25) == 1
    # The best quarter of 0.5 and 0.25 begins at 0.4375.
    assert go(desk, [pruner], 0.4375, 0.0) == 4, "rung 2 is none"
    assert go(desk, [pruner], 0.375) == 1


def test_nothing_is_stopped_before_the_grace_is_over(make: MakeDesk) -> None:
    desk = make(pruner_grace=3)
    pruner = pruner_of(desk)
    assert go(desk, [pruner], 0.5) == 4
    assert go(desk, [pruner], 0.0) == 3


@pytest.mark.parametrize("objective", ["tpr", "asr"])
def test_the_median_rule_waits_for_three_others(objective: str, make: MakeDesk) -> None:
    desk = make(objective=objective, pruner="median", pruner_grace=2)
    pruner = pruner_of(desk)
    assert [go(desk, [pruner], value) for value in (0.5, 0.25, 0.75)] == [4, 4, 4]
    assert go(desk, [pruner], 0.375) == 2  # the others' median after two scenarios is 0.5
    # After two, 0.5, 0.25, 0.75 and 0.375 have 0.4375 in the middle; after three the last is gone, and it is 0.5.
    assert go(desk, [pruner], 0.4375) == 3
    # Its first scenario alone would be best: it lies before the grace. Now 0.375 stands against 0.4375.
    assert go(desk, [pruner], 0.75, 0.0) == 2


def test_the_paper_s_default_counts_but_is_never_stopped(make: MakeDesk) -> None:
    desk = make()
    pruner = pruner_of(desk)
    default = (0, desk.plan.default_point, desk.plan.point_key(desk.plan.default_point))
    assert go(desk, [pruner], 0.5) == 4
    assert go(desk, [pruner], 0.25, asked=default) == 4
    assert go(desk, [pruner], 0.375, 0.5) == 4, "with the default the middle is 0.375"


def test_scenarios_without_an_attack_take_no_time(make: MakeDesk) -> None:
    desk = make(pruner_grace=2)
    pruner = pruner_of(desk)
    assert go(desk, [pruner], 0.5) == 4
    _, point, key = made_up(desk)
    trial = SimpleNamespace(config={KEY: key, POINT: json.dumps(point)})
    verdicts = [
        pruner.on_trial_result(PENDING, trial, judge(desk, key, position, 0.0, attack_failed=position == 0))
        for position in range(3)
    ]
    assert verdicts == [TrialScheduler.CONTINUE, TrialScheduler.CONTINUE, TrialScheduler.STOP]


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_a_fresh_driver_decides_as_the_old_one_would_have(rule: str, make: MakeDesk) -> None:
    desk = make(pruner=rule, pruner_grace=2)
    old = pruner_of(desk)
    judged = [told(desk, [old], *values) for values in ((0.5,), (0.25,), (0.75,), (0.375, 0.125, 0.5), (0.625, 0.5))]
    fresh, ignorant = pruner_of(make(pruner=rule, pruner_grace=2)), Pruner(desk.plan, desk.reader, [])
    for values in ((0.5, 0.25), (0.125,), (0.5,), (0.625,), (1.0, 0.0), (0.375, 0.5)):
        judged.append(go(desk, [old, fresh], *values))
    assert {2, 4} <= set(judged)
    assert go(desk, [ignorant], 0.0) == 4, "what is not told of the others stops nothing"


def test_a_trial_that_starts_again_is_told_once(make: MakeDesk) -> None:
    """Ray runs a trial again whose worker died, and the engine one that ran out of memory: told twice, it would
    weigh twice in the running mean that the median is made of."""
    desk = make(pruner="median", pruner_grace=2)
    pruner = pruner_of(desk)
    for _ in range(3):
        number, point, key = made_up(desk)
        again = SimpleNamespace(config={KEY: key, POINT: json.dumps(point)})
        for position in (0, 1, 0, 1):
            pruner.on_trial_result(PENDING, again, judge(desk, key, position, 0.0))
        assert go(desk, [pruner], 0.0, 0.0, 0.75, 0.0, asked=(number, point, key)) == 4
    # They reached 0 and then 0.25, in the mean 0.125; with the 0 twice it would be 0.0833, which 0.1 is better than.
    assert go(desk, [pruner], 0.0, 0.0, 0.3, 0.0) == 3


def test_a_trial_that_failed_disturbs_nobody(make: MakeDesk) -> None:
    desk = make(pruner="median")
    pruner = pruner_of(desk)
    failed = made_up(desk)
    trial = SimpleNamespace(config={KEY: failed[2], POINT: json.dumps(failed[1])})
    scenario = scenario_order(desk.plan.scenarios, failed[2])[0].name
    pruner.on_trial_complete(PENDING, trial, {"scenario": scenario, READ: 0, "failure": "it broke"})
    pruner.on_trial_complete(PENDING, trial, {})  # as when the whole study is being stopped
    assert [go(desk, [pruner], value) for value in (0.5, 0.25, 0.75, 0.0)] == [4, 4, 4, 1]


# The books.


def stopped_study(make: MakeDesk) -> tuple[Desk, TrialRow]:
    """The default with 0.5, a trial that was stopped with 0.25 after one scenario, and one that reached 0.75."""
    desk = make()
    claim_folder(desk.plan, desk.folder)
    pruner = pruner_of(desk)
    assert [told(desk, [pruner], value) for value in (0.5, 0.25, 0.75)] == [4, 1, 4]
    return desk, desk.ledger.rows()[1]


def test_a_stopped_trial_counts_as_tried_and_is_never_the_best(make: MakeDesk) -> None:
    desk, row = stopped_study(make)
    assert (row.state, row.values, row.stopped_early, row.comparable) == ("pruned", (), True, False)
    assert desk.ledger.remaining(20) == 17
    assert [found.number for found in desk.ledger.front()] == [2]
    file = read_ledger(desk.folder / "study.db")
    assert (file.trials[1].state, file.trials[1].values, file.trials[1].finished) == ("pruned", None, True)
    assert [trial.number for trial in front(file.trials, file.directions)] == [2]


def test_a_sampler_sees_what_it_had_reached(make: MakeDesk) -> None:
    desk = make(pruner_grace=2)
    pruner = pruner_of(desk)
    told(desk, [pruner], 0.5)
    told(desk, [pruner], 0.5, 0.25)
    trial = optuna.load_study(study_name="toy", storage=f"sqlite:///{desk.folder / 'study.db'}").trials[1]
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {1: 0.5, 2: 0.375})


def test_mlflow_is_told_that_a_trial_was_stopped(make: MakeDesk) -> None:
    desk, row = stopped_study(make)
    trials = {r.name: r for r in desk.records() if r.status != "RUNNING" and r.tags.get(names.TAG_NAME)}
    stopped = trials["study #1"]
    assert (stopped.run, stopped.status, stopped.tags[names.TAG_STOPPED_EARLY]) == (
        desk.told.trial_run(row.key),
        "FINISHED",
        "true",
    )
    assert stopped.series == {names.OBJECTIVE_SO_FAR: [0.25]}
    costs = {names.COST_BUILT: 1.75, names.COST_WALL: 0.5, names.COST_HITS: 1.0}
    costs |= {names.COST_DEFENSE_BUILT: 0.25, names.COST_DEFENSE_SPENT: 0.2}
    assert stopped.metrics == {names.in_mlflow(name): cost for name, cost in costs.items()}, "no mean of a part"
    whole = trials["study #2"]
    assert (whole.tags[names.TAG_STOPPED_EARLY], whole.metrics["objective"]) == ("false", 0.75)
    assert whole.series == {names.OBJECTIVE_SO_FAR: [0.75] * 4}
    before = len(desk.records())
    again = make()
    again.settlement.catch_up()
    assert all(again.told.trial_run(row.key) != record.run for record in again.records()[before:]), "told once"


def test_the_summary_counts_it_and_compares_nothing_with_it(make: MakeDesk) -> None:
    desk, row = stopped_study(make)
    for scenario in desk.plan.scenarios[:1]:  # far better than all others where it was judged
        judge(desk, row.key, [s.name for s in scenario_order(desk.plan.scenarios, row.key)].index(scenario.name), 1.0)
    summary = desk.closing()
    assert summary.text().startswith("Trial 2 is the best of 2: TPR 0.750")
    assert "\n1 trial stopped early (asha): tried, but compared with nothing." in summary.text()
    assert "#1" not in summary.text()
    assert (summary.metrics()["trials"], summary.metrics()["stopped_early"]) == (2.0, 1.0)
    lines = list(csv.DictReader(io.StringIO(desk.csv())))
    assert [line["trial"] for line in lines] == sorted(line["trial"] for line in lines)
    found = [line for line in lines if line["stopped_early"] == "1"]
    assert {(line["trial"], line["objective"]) for line in found} == {("1", "")}
    assert {line["trial"] for line in lines if line["stopped_early"] == "0"} == {"0", "2"}


def test_status_counts_it(make: MakeDesk, capsys: pytest.CaptureFixture[str]) -> None:
    desk, _ = stopped_study(make)
    out = desk.folder.parent
    assert studies(out) == [desk.folder]
    assert status.main(["study", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "20 trials: 2 done, 1 stopped early, 0 failed, 0 running; 17 left" in text
    assert "--pruner asha --pruner-grace 1" in text


def test_what_a_kill_left_untold_is_taken_in_as_stopped(make: MakeDesk) -> None:
    desk = make()
    pruner = pruner_of(desk)
    told(desk, [pruner], 0.5)
    asked = desk.ledger.ask()
    assert go(desk, [pruner], 0.25, asked=asked) == 1  # here the driver is killed
    record = read_trial(desk.reader.points / asked[2] / "result.json")
    assert record is not None
    first = scenario_order(desk.plan.scenarios, asked[2])[0].name
    assert (record.stopped, record.failure, record.scenarios) == (True, "", [first])
    desk = make()
    assert desk.reader.outcome(asked[2]) == Stopped((Step(1, 0.25),))
    assert desk.ledger.recover_interrupted(desk.reader.outcome) == (1, 0)
    assert [row.state for row in desk.ledger.rows()] == ["complete", "pruned"]
    assert make().ledger.recover_interrupted(desk.reader.outcome) == (0, 0)


def test_a_stopped_trial_whose_record_is_damaged_is_tried_again(make: MakeDesk) -> None:
    desk = make()
    pruner = pruner_of(desk)
    told(desk, [pruner], 0.5)
    asked = desk.ledger.ask()
    go(desk, [pruner], 0.25, asked=asked)
    for path in desk.reader.points.glob(f"{asked[2]}/*-s0.json"):
        path.write_text("{")
    desk = make()
    assert desk.ledger.recover_interrupted(desk.reader.outcome) == (0, 1)
    assert desk.ledger.rows()[1].reason == LOST


def test_the_same_point_again_is_stopped_at_once(make: MakeDesk) -> None:
    desk, row = stopped_study(make)
    trial = SimpleNamespace(config={KEY: row.key, POINT: json.dumps(row.point)})
    for pruner in (pruner_of(desk), pruner_of(make())):
        scenario = scenario_order(desk.plan.scenarios, row.key)[0].name
        assert pruner.on_trial_result(PENDING, trial, {"scenario": scenario, READ: 0}) == TrialScheduler.STOP


def test_without_a_pruner_nothing_is_told_of_it(make: MakeDesk) -> None:
    desk = make(pruner="none", pruner_grace=None)
    assert desk.plan.pruning is None
    assert [told(desk, [], value) for value in (0.5, 0.0)] == [4, 4]
    trials = [record for record in desk.records() if record.run.startswith("trial/")]
    assert not [record for record in trials if names.TAG_STOPPED_EARLY in record.tags or record.series]
    assert "stopped_early" not in desk.closing().metrics()
    assert "stopped early" not in desk.closing().text()
