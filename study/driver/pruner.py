"""Ray Tune's rules for stopping trials early, fed so that restarts, retries and kills do not confuse them."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from study.config.objectives import Direction
from study.driver.worker import KEY, POINT, READ
from study.ledger.pruning import MEDIAN_SAMPLES, Pruning, Step, Stopped
from study.ledger.records import TrialRecord, trial_path, write_record
from study.ledger.result_reader import ResultReader
from study.ledger.snapshot import is_finished
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan

_AT, _REACHED = "at", "reached"


@dataclass(frozen=True)
class _Point:
    """What a rule knows a trial by. Ray's own trials are not the same after a retry or a restart; a point's key is."""

    trial_id: str


def make_rule(pruning: Pruning, direction: Direction) -> TrialScheduler:
    """One of Ray's rules, whose time is how many scenarios a value is made of, or after which epoch it was read."""
    shared: dict[str, Any] = {
        "time_attr": _AT,
        "metric": _REACHED,
        "mode": direction[:3],
        "grace_period": pruning.grace,
    }
    if pruning.rule == "median":
        # It would pause trials until it has enough to compare; a pause costs more than the scenario that it saves.
        never = math.inf
        return MedianStoppingRule(**shared, min_samples_required=MEDIAN_SAMPLES, min_time_slice=never)  # type: ignore[arg-type]
    # With `stop_last_trials` it would also note a later value at an earlier rung.
    return ASHAScheduler(**shared, max_t=pruning.last, reduction_factor=pruning.factor, stop_last_trials=False)


class Pruner(FIFOScheduler):
    """Asks one of Ray's rules about each scenario of a trial, or each read of its training, and writes what it stops.

    The rule is told each step of a point once, however often Ray starts the point again, and is told first what the
    trials reached that earlier drivers finished. The paper's default counts, but is never stopped: everything is
    compared with it.

    Args:
        plan: one with a rule.
        reader: of the study's results.
        rows: of its ledger.
    """

    def __init__(self, plan: Plan, reader: ResultReader, rows: Iterable[TrialRow]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert plan.pruning is not None
        self._reader, self._grace = reader, plan.pruning.grace
        self._rule = make_rule(plan.pruning, plan.goal.directions[0])
        self._spared = plan.point_key(plan.default_point)
        self._told: dict[str, int] = {}
        self._stopped: set[str] = set()
        for row in rows:
            if row.key and is_finished(row.state, row.reason):
                self._take_in(row.key)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for Ray to write: the next driver reads what it needs from the study's own files."""
        return {}

    def _take_in(self, key: str) -> None:
        """Tells the rule of a trial that needs no decision any more."""
        for step in self._new(key, self._reader.steps(key)):
            self._note(key, step)
        if isinstance(self._reader.outcome(key), Stopped):
            self._stopped.add(key)

    def _new(self, key: str, steps: Iterable[Step]) -> list[Step]:
        """The steps that the rule has not been told. None before the grace is over, which its medians would hold."""
        untold = [step for step in steps if step.at >= self._grace and step.at > self._told.get(key, 0)]
        if untold:
            self._told[key] = untold[-1].at
        return untold

    def _note(self, key: str, step: Step) -> None:
        """Tells the rule a step that it has nothing to say to."""
        self._rule.on_trial_add(None, _Point(key))  # type: ignore[arg-type]
        self._rule.on_trial_complete(None, _Point(key), _result(step))  # type: ignore[arg-type]

    def _decide(self, controller: Any, key: str, step: Step) -> str:
        if key == self._spared:
            self._note(key, step)
            return TrialScheduler.CONTINUE
        self._rule.on_trial_add(controller, _Point(key))  # type: ignore[arg-type]
        return self._rule.on_trial_result(controller, _Point(key), _result(step))  # type: ignore[arg-type]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after a scenario, or a read of one, that was not its last."""
        key, scenario, read = trial.config[KEY], result["scenario"], result[READ]
        if key in self._stopped:  # the same point once more: it would be stopped once more
            return TrialScheduler.STOP
        for step in self._new(key, self._reader.steps(key, scenario, read)):
            if self._decide(tune_controller, key, step) == TrialScheduler.STOP:
                # Before anybody is told: a kill changes nothing.
                judged = [] if read else self._reader.judged_until(key, scenario)
                record = TrialRecord(key, json.loads(trial.config[POINT]), judged, stopped=True, read=read)
                write_record(trial_path(self._reader.points / key), record)
                self._stopped.add(key)
                return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial's last scenario, which Ray asks no rule about, still counts for the others."""
        key = trial.config[KEY]
        if "scenario" not in result:  # the study is being stopped, and this trial had not come that far
            return
        for step in self._new(key, self._reader.steps(key, result["scenario"], result[READ])):
            self._note(key, step)


def _result(step: Step) -> dict[str, Any]:
    return {_AT: step.at, _REACHED: step.value}
