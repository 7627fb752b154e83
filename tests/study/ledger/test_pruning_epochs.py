"""Stopping trials within their training: at which epochs they are compared, what is trained, what a stop leaves."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from desk import Desk, Outcome
from ray.tune.schedulers import TrialScheduler
from small_study import save_npz, small_plan

from defenses.api import StageRun
from defenses.registry import UserError
from study.code_version import code_hash
from study.config.config import StudyConfig, resolve
from study.config.objectives import Goal
from study.driver.mlflow_records import MlflowRecords
from study.driver.pruner import Pruner, make_rule
from study.driver.worker import GPUS, KEY, POINT, READ, TRIES, TrialRunner, TrialTask
from study.ledger.pruning import Pruning, Step, Stopped, build_read_steps, parse_pruning
from study.ledger.records import read_trial, scenario_paths, trial_path
from study.ledger.result_reader import ResultReader
from study.ledger.used_stages import read_used_stages
from study.planning.plan import Plan
from study.planning.state_room import kept_states
from study.scenarios.evaluation import cached_images, cached_store
from tracking import names
from tracking.outbox import Outbox

EPOCHS = 6
FIELDS = {"pre_isolation_epochs": str(EPOCHS), "batch_size": "32", "taps": "blocks"}
ATTACKS = ("badnets", "blended_random")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Any) -> str:
    """Small images in a file."""
    return save_npz(tmp_path_factory.mktemp("pruning") / "data.npz", images)


def epochs_plan(dataset: str, out: Path, **options: Any) -> Plan:
    given = {
        "space": "pipd_wide",
        "until": "isolate",
        "attacks": ATTACKS,
        "set": FIELDS,
        "name": "study",
        "trials": 8,
        "asr_floor": 0.0,
        "pruner": "asha",
        "pruner_over": "epochs",
        "pruner_grace": 2,
        **options,
    }
    return small_plan(dataset, out, **given)


@pytest.mark.parametrize(
    ("grace", "factor", "last", "reads"),
    [
        (4, 2.0, 30, (4, 8, 16)),
        (25, 3.0, 200, (25, 75)),
        (1, 1.5, 6, (1, 2, 3, 4)),  # 1, 1.5, 2.25, 3.375, 5.0625: the last would be the end itself
        (29, 2.0, 30, (29,)),
        (2, 2.0, 4, (2,)),
    ],
)
def test_trials_are_compared_at_the_rungs_of_the_rule(
    grace: int, factor: float, last: int, reads: tuple[int, ...]
) -> None:
    pruning = Pruning("asha", grace, factor, last, "read_epoch")
    assert pruning.reads == reads
    rungs = make_rule(pruning, "maximize")._brackets[0]._rungs  # type: ignore[attr-defined]  # Ray's own, to compare
    assert tuple(sorted(math.ceil(milestone) for milestone, _ in rungs if math.ceil(milestone) < last)) == reads
    assert Pruning("asha", grace, factor, last).reads == (), "of scenarios there is nothing to read"


def test_what_a_trial_has_reached_after_each_epoch() -> None:
    good, bad = Outcome({"tpr": 1.0}), Outcome({"tpr": 0.5})
    failed, silent = Outcome({"tpr": 0.0}, attack_failed=True), Outcome({"tpr": None})
    reads = {2: [bad, bad, failed], 4: [good, bad, silent]}
    assert build_read_steps(reads, Goal(("tpr",))) == (Step(2, 0.5), Step(4, 0.75))
    assert build_read_steps(reads, Goal(("tpr",), "worst")) == (Step(2, 0.5), Step(4, 0.5))
    assert build_read_steps({2: [failed], 4: [good]}, Goal(("tpr",))) == (), "compared with nobody from there on"
    assert build_read_steps({2: [Outcome({"tpr": math.nan})]}, Goal(("tpr",))) == ()


def test_how_trials_are_stopped() -> None:
    options = {"pruner": "median", "pruner_over": "epochs"}
    config = resolve(StudyConfig, options)
    assert parse_pruning(config, Goal(("tpr",)), 1, ("read_epoch", 200)) == Pruning(
        "median", 25, 2.0, 200, "read_epoch"
    )
    alone = resolve(StudyConfig, {**options, "per_scenario": True})
    assert parse_pruning(alone, Goal(("tpr",)), 3, ("read_epoch", 4)) == Pruning("median", 1, 2.0, 4, "read_epoch")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"pruner": "none"}, ["--pruner-over changes nothing with --pruner none", "--pruner asha"]),
        ({"space": "pipd"}, ["--pruner-over epochs", "space pipd", "share pre_isolation", "pipd_wide"]),
        ({"space": "ac", "set": {}}, ["--pruner-over", "share standard_training", "--pruner-over scenarios"]),
        (
            {"space": "asd", "set": {"clean_images": "8"}},
            ["--pruner-over epochs", "none that can be read", "over scenarios"],
        ),
        ({"until": None}, ["--pruner-over epochs", "overall_score", "isolation_score", "--pruner-over scenarios"]),
        ({"pruner_grace": 6}, ["--pruner-grace", "epochs of the training (6)", "got 6"]),
    ],
)
def test_what_cannot_be_stopped_is_refused(
    options: dict[str, Any], parts: list[str], dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        epochs_plan(dataset, tmp_path, **{"pruner_grace": None if "pruner" in options else 2, **options})
    assert all(part in str(refused.value) for part in parts), str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("space", ["ac_wide", "qt_wide", "abl_wide", "none_wide"])
def test_spaces_that_search_a_training_are_compared_within_it(space: str, dataset: str, tmp_path: Path) -> None:
    plan = epochs_plan(dataset, tmp_path, space=space, set={}, attacks=("badnets",))
    assert plan.reads, "though the undefended model's training is shared, trials have one of their own"


class Worker:
    """A worker that runs points of a plan in this process, as one that Ray starts would."""

    def __init__(self, plan: Plan, points: Path) -> None:
        self.plan, self.points = plan, points

    def start(self, point: dict[str, Any]) -> TrialRunner:
        plan = self.plan
        cached_store.cache_clear()
        studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, plan.config.until)
        task = TrialTask(*studied, self.points, 1, code_hash(), pruning=plan.pruning)
        runner = TrialRunner.__new__(TrialRunner)
        config = {POINT: json.dumps(point), KEY: plan.point_key(point), GPUS: 0.0, TRIES: 0}
        runner.setup(config, task, cached_images(plan.environment.dataset))
        return runner


def run_trial(worker: Worker, point: dict[str, Any], pruner: Pruner | None = None) -> list[tuple[str, int]]:
    """A trial up to its end, or to where it is stopped; the scenarios it went through, and after which epoch."""
    runner = worker.start(point)
    trial = SimpleNamespace(config={KEY: runner.key, POINT: json.dumps(point)})
    waiting = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])
    went: list[tuple[str, int]] = []
    while True:
        result = runner.step()
        assert result["failure"] == ""
        went.append((result["scenario"], result[READ]))
        if result["done"]:
            break
        if pruner is not None and pruner.on_trial_result(waiting, trial, result) == TrialScheduler.STOP:
            break
    if pruner is not None:
        pruner.on_trial_complete(waiting, trial, result)
    return went


def test_a_trial_is_read_early_and_ends_as_one_that_was_not(dataset: str, tmp_path: Path) -> None:
    plain = epochs_plan(dataset, tmp_path / "plain", pruner="none", pruner_over="scenarios", pruner_grace=None)
    read = epochs_plan(dataset, tmp_path / "read")
    assert read.reads == (2, 4)
    point = read.default_point
    key = read.point_key(point)
    run_trial(Worker(plain, tmp_path / "plain" / "points"), point)
    went = run_trial(Worker(read, tmp_path / "read" / "points"), point)
    order = [name for name, epoch in went if epoch == 2]
    assert went == [(name, epoch) for epoch in (2, 4, 0) for name in order], "all scenarios before a longer training"
    ends = [scenario_paths(tmp_path / study / "points" / key) for study in ("plain", "read")]
    assert [[path.name for path in paths] for paths in ends] == [[f"{name}.json" for name in sorted(order)]] * 2
    for paths in zip(*ends, strict=True):
        one, other = (json.loads(path.read_text())["record"] for path in paths)
        assert one["metrics"] == other["metrics"]
        assert [stage["key"] for stage in one["stages"]] == [stage["key"] for stage in other["stages"]]
    points = tmp_path / "read" / "points"
    reader = ResultReader(points, read.scenarios, read.goal, read.reads)
    record = reader.scenario(key, order[0])
    assert record is not None
    earlier = reader.before(key, record)
    assert [one.scenario for one in earlier] == [order[0]] * 2
    assert reader.before(key, earlier[1]) == earlier[:1], "of a trial that was stopped there"
    told = MlflowRecords(read, points, Outbox(tmp_path / "outbox.jsonl"))._costs(record, earlier)
    assert told[names.COST_EPOCHS_SPENT] > told[names.COST_EPOCHS_BUILT], "all epochs, and the activations thrice"
    assert told[names.COST_WALL] == sum(one.wall_seconds for one in (*earlier, record))
    used = read_used_stages(tmp_path / "read")
    assert used is not None
    named = {(stage["stage"], stage["key"]) for one in earlier for stage in one.stages}
    assert named <= used.names, "what was stored to compare trials is the study's as well"
    states = {path.name.split(".")[0] for path in (tmp_path / "read").glob("**/epoch-*")}
    assert {"epoch-2", "epoch-4"} <= {name.split("-payload")[0] for name in states}, "the training goes on from them"


def test_a_training_whose_end_nobody_named_goes_on_from_the_last_read(dataset: str, tmp_path: Path) -> None:
    plan = epochs_plan(dataset, tmp_path, attacks=("badnets",))
    point = {name: value for name, value in plan.default_point.items() if name != "read_epoch"}
    run_trial(Worker(plan, tmp_path / "points"), point)
    trained = [path.parent for path in tmp_path.glob("**/pre_isolation/*/epoch-6.json")]
    assert len(trained) == 1
    assert {path.name for path in trained[0].glob("epoch-?.json")} >= {"epoch-2.json", "epoch-4.json", "epoch-6.json"}
    kept = kept_states(plan)
    assert (kept[0].last, kept[0].asked) == (EPOCHS, (2, 4, EPOCHS)), "a dry run tells of the states"


def test_a_point_that_reads_its_training_early_is_not_read_later(dataset: str, tmp_path: Path) -> None:
    plan = epochs_plan(dataset, tmp_path, attacks=("badnets",))
    point = {**plan.default_point, "read_epoch": 4}
    assert [epoch for _, epoch in run_trial(Worker(plan, tmp_path / "points"), point)] == [2, 4, 0]
    point = {**plan.default_point, "read_epoch": 1}
    assert [epoch for _, epoch in run_trial(Worker(plan, tmp_path / "points"), point)] == [0]


MakeDesk = Callable[[], Desk]


@pytest.fixture
def make(dataset: str, tmp_path: Path) -> MakeDesk:
    """A study by TPR whose trainings are all read at their end; called again, the next driver of the same."""

    def desk() -> Desk:
        folder = tmp_path / "out" / "study"
        folder.mkdir(exist_ok=True, parents=True)
        fields = {**FIELDS, "read_epoch": str(EPOCHS)}
        made = Desk(epochs_plan(dataset, tmp_path / "out", objective="tpr", attacks=("badnets",), set=fields), folder)
        made.ledger.enqueue_default(made.plan.default_point)
        return made

    return desk


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Workers whose TPR is a grade for each gamma, in the order of their first; gives what was trained, and to where.

    The first is the paper's default.
    """
    grades, given = iter((0.75, 0.5, 1.0, 0.25)), dict[float, float]()
    trained: list[tuple[float, int]] = []

    def evaluate(_defense: str, config: Any, scenario: Any, _environment: Any, _until: Any) -> Any:
        gamma = config["gamma"]
        if gamma not in given:
            given[gamma] = next(grades)
        trained.append((gamma, config["read_epoch"]))
        stage = StageRun("pre_isolation", "a" * 64, False, 1.0, 1.0, float(config["read_epoch"]), True)
        metrics = {"tpr": given[gamma], "fpr": 0.0}
        nothing: dict[str, Any] = {"series": {}, "meta": {}, "attack_failed": False, "preview": None, "flags": None}
        return SimpleNamespace(scenario=scenario, metrics=metrics, stages=[stage], wall_seconds=1.0, **nothing)

    monkeypatch.setattr("study.driver.worker.evaluate_scenario", evaluate)
    return trained


def drive(desk: Desk, trials: int) -> list[list[int]]:
    """Some trials of a study, one after the other; after which epochs each was read."""
    pruner = Pruner(desk.plan, desk.reader, desk.ledger.rows())
    went = []
    for _ in range(trials):
        number, point, key = desk.ledger.ask()
        went.append([epoch for _, epoch in run_trial(Worker(desk.plan, desk.reader.points), point, pruner)])
        desk.settlement.finish_trial(number, key, "")
    return went


def test_one_that_has_fallen_behind_is_not_trained_to_its_end(make: MakeDesk, asked: list[tuple[float, int]]) -> None:
    desk = make()
    assert drive(desk, 3) == [[2, 4, 0], [2], [2, 4, 0]], "0.5 is behind 0.75 at the first rung, 1.0 before it"
    assert [epoch for _, epoch in asked] == [2, 4, 6, 2, 2, 4, 6]
    rows = desk.ledger.rows()
    assert [row.state for row in rows] == ["complete", "pruned", "complete"]
    stopped = read_trial(trial_path(desk.reader.points / rows[1].key))
    assert stopped is not None
    assert (stopped.stopped, stopped.read, stopped.scenarios) == (True, 2, [])
    assert desk.reader.outcome(rows[1].key) == Stopped((Step(2, 0.5),))
    # What the pruner saw is no result: no metric of the trial or of a scenario, and no row of the table.
    assert rows[1].value is None
    told = [record for record in desk.records() if record.name == "study #1"]
    (run,) = [record for record in told if record.status == "FINISHED"]
    assert all(name.startswith("system/cost.") for name in run.metrics)
    assert run.series[names.OBJECTIVE_SO_FAR] == [0.5]
    assert run.metrics["system/cost.built_epochs"] == 2.0, "what it took to come that far was spent"
    assert not [record for record in desk.records() if record.parent == run.run]


def test_the_next_driver_goes_on_with_what_the_rule_had_seen(make: MakeDesk, asked: list[tuple[float, int]]) -> None:
    assert drive(make(), 2) == [[2, 4, 0], [2]]
    again = make()
    assert again.ledger.recover_interrupted(again.reader.outcome) == (0, 0)
    assert drive(again, 2) == [[2, 4, 0], [2]], "the first rung holds 0.75, 0.5 and 1.0: 0.25 is behind"
    assert len(asked) == 3 + 1 + 3 + 1


def test_a_stop_that_lost_its_records_is_run_again(make: MakeDesk, asked: list[tuple[float, int]]) -> None:
    desk = make()
    drive(desk, 2)
    key = desk.ledger.rows()[1].key
    (read,) = (desk.reader.points / key).glob("read-2/*.json")
    read.write_text("damaged")
    assert make().reader.outcome(key) is None
