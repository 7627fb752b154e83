"""The ledger of a study: an Optuna study in a sqlite file that the driver alone writes.

It is made before anything else starts, and what it says is what counts: Ray's own folders are disposable. Running the
same command again sweeps what a crash left behind, takes in results that were finished but not yet told, and goes on
with what is missing. The reasons are measured ones: `Tuner.restore` aborts a study after a kill, and a NaN told to
Optuna leaves its trial running for ever.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState

from defenses.registry import UserError
from defenses.seeds import derive_seed
from search_spaces.conditions import Value, point_at
from search_spaces.space import SearchSpace
from study.config.objectives import Direction
from study.ledger import selection
from study.ledger.dashboard import LOCK_SECONDS, Shown, describe_trials
from study.ledger.grid import Grid, Points
from study.ledger.pruning import Stopped
from study.ledger.quiet_study import create_study
from study.ledger.samplers import GridSampler, draw_settings, make_sampler, settled_point, tried_points
from study.ledger.snapshot import CALIBRATED, KEY, LOST, PAPER_DEFAULT, REASON, RETRY_OF, SHARED_SECONDS, is_finished
from study.ledger.storage import LedgerStorage
from study.ledger.trial_row import Outcome, TrialRow
from tracking.destination import sqlite_url


class Ledger:
    """Asks for points and is told what they gave.

    Args:
        path: of the sqlite file; made when it is missing.
        name: of the study.
        space: what is searched.
        directions: ``maximize`` or ``minimize``, one for each objective.
        sampler, seed, planned: see `make_sampler`.
        key_of: point -> the name of its trial.
        grid: what the sampler ``grid`` goes through.
        shown: to those who open it with other tools; by default what Optuna keeps itself.
        reused: fields that take few settings, and how many; see `study.ledger.samplers.ReusingSampler`.

    Raises:
        UserError: an earlier version searched a field among other values.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        space: SearchSpace,
        directions: Direction | Sequence[Direction],
        sampler: str,
        seed: int,
        planned: int,
        key_of: Callable[[Mapping[str, Any]], str],
        grid: Grid | Points | None = None,
        shown: Shown | None = None,
        reused: tuple[Sequence[str], int] | None = None,
    ) -> None:
        self._path, self._space, self._key_of, self._shown = path, space, key_of, shown
        self._points: SearchSpace | Grid | Points = space if grid is None else grid
        self._directions: list[Direction] = [directions] if isinstance(directions, str) else [*directions]
        patience = {"connect_args": {"timeout": LOCK_SECONDS}}
        file = optuna.storages.RDBStorage(sqlite_url(path), engine_kwargs=patience)
        create_study(study_name=name, storage=file, directions=self._directions, load_if_exists=True)
        self._storage = LedgerStorage(path, file, name)
        self._study = optuna.load_study(study_name=name, storage=self._storage)
        self._ended: dict[int, TrialRow] = {}  # by number: what ended stays as it is
        if shown is not None:
            describe_trials(path, KEY, shown.attributes_of, None)  # of a study that an earlier version began
            self._name_metrics([*shown.metric_names])
        trials = self._study.get_trials(deepcopy=False)
        _check_values(name, space, trials)
        self._front: list[TrialRow] = []
        self._unranked = [self._row(trial) for trial in trials if trial.state == TrialState.COMPLETE]
        self._numbers = {trial.user_attrs[KEY]: trial.number for trial in trials if KEY in trial.user_attrs}
        if grid is not None:
            self._study.sampler = GridSampler(space, grid, derive_seed(seed, "grid"))
            return
        # A resumed sampler must not repeat the suggestions that its first run started with.
        settled = derive_seed(seed, "sampler", len(trials))
        fields, count = reused or ((), 0)
        settings = draw_settings(sampler, space, fields, count, seed) if fields else ()
        self._study.sampler = make_sampler(sampler, space, settled % 2**32, planned, fields, settings)

    def _name_metrics(self, metric_names: list[str]) -> None:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            if self._study.metric_names != metric_names:
                self._study.set_metric_names(metric_names)

    def recover_interrupted(self, outcome_of: Callable[[str], Outcome | None]) -> tuple[int, int]:
        """Settles what an earlier driver left running.

        A finished result is told; any other point is queued once more, unless it already is, and its trial failed.
        A trial that was stopped before it had all its values has no point.

        Args:
            outcome_of: point key -> the outcome on disk, or None.

        Returns:
            How many results were taken in and how many points queued again.
        """
        ingested = queued = 0
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # A trial that was stopped before its first suggestion holds only what it was queued with.
            point = settled_point(trial)
            conditions, fields = self._space.conditions, self._space.ranges
            if not conditions.is_whole(conditions.drop_idle(point), fields):
                self._fail(trial.number, LOST)
                continue
            key = trial.user_attrs.get(KEY) or self._key_of(point)
            known = self._is_known(key, besides=trial.number)
            outcome = None if known else outcome_of(key)  # a result that came late belongs to the queued copy
            if outcome is not None:
                self.tell(trial.number, outcome)
                ingested += 1
                continue
            if not known:
                kept = {name: True for name in (PAPER_DEFAULT, CALIBRATED) if name in trial.user_attrs}
                self._study.enqueue_trial(point, user_attrs={KEY: key, RETRY_OF: trial.number, **kept})
                queued += 1
            self._fail(trial.number, LOST)
        return ingested, queued

    def _is_known(self, key: str, besides: int) -> bool:
        """Whether a point is queued or running in another trial, or was judged there."""
        states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return any(trial.user_attrs.get(KEY) == key for trial in trials if trial.number != besides)

    def enqueue_default(self, point: Mapping[str, Value], calibrated: Mapping[str, Value] | None = None) -> None:
        """Makes the paper's default the first trial, and another point that suits the preset the second, once a study.

        A study that was begun without the second stays without it, but where it was killed between the two.
        """
        trials = self._study.get_trials(deepcopy=False)
        if not any(PAPER_DEFAULT in trial.user_attrs for trial in trials):
            self._study.enqueue_trial(dict(point), user_attrs={KEY: self._key_of(point), PAPER_DEFAULT: True})
            trials = trials[:0]
        if calibrated is not None and [trial.state for trial in trials] in ([], [TrialState.WAITING]):
            self._study.enqueue_trial(dict(calibrated), user_attrs={KEY: self._key_of(calibrated), CALIBRATED: True})

    def remaining(self, target: int) -> int:
        """How many trials are still to complete. A point that failed counts as tried: it would fail again."""
        return max(0, target - self.finished())

    def finished(self) -> int:
        """Trials that are complete, were stopped early or failed for good."""
        return sum(is_finished(row.state, row.reason) for row in self.rows())

    def used_up(self) -> bool:
        """Whether each point that the sampler can propose has a trial, and none waits to be handed out."""
        trials = self._study.get_trials(deepcopy=False)
        if self._points.size is None or self._points.size > len(trials):
            return False
        if any(trial.state == TrialState.WAITING for trial in trials):
            return False
        points = [point_at(self._space.ranges, place) for place in tried_points(self._study, self._space)]
        return sum(point in self._points for point in points) >= self._points.size

    def ask(self) -> tuple[int, dict[str, Value], str]:
        """The next point, which no other trial has unless `used_up`: its trial's number, its values and its key."""
        trial = self._study.ask()
        self._space.suggest(trial)
        point = dict(trial.params)
        key = self._key_of(point)
        trial.set_user_attr(KEY, key)
        self._storage.keep(trial._trial_id)
        self._numbers[key] = trial.number
        return trial.number, point, key

    def number_of(self, key: str) -> int:
        """The trial that has a point, of several the last one."""
        return self._numbers[key]

    def tell(self, number: int, outcome: Outcome) -> TrialRow:
        """Settles a trial. An objective that is missing or not a finite number is a failure with its reason.

        Returns:
            The trial as it stands now; one that was settled before stays as it was.
        """
        if self._shown is not None and self._state(number) == TrialState.RUNNING:
            describe_trials(self._path, KEY, self._shown.attributes_of, number)
        if isinstance(outcome, Stopped):
            self._stop(number, outcome)
        else:
            self._finish(number, *outcome)
        row = self._row(self._trial(number))
        if row.state == "complete" and row not in self._front:
            self._unranked.append(row)
        return row

    def _finish(self, number: int, gave: float | tuple[float | None, ...] | None, reason: str) -> None:
        values = gave if isinstance(gave, tuple) else (gave,)
        finite = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
        if len(finite) < len(values):
            wanted = (
                "the objective must be a finite number" if len(values) == 1 else "objectives must be finite numbers"
            )
            self._fail(number, reason or f"{wanted}, got {', '.join(map(repr, values))}")
        elif len(values) != len(self._directions):
            self._fail(number, f"this study has {len(self._directions)} objectives, got {len(values)} values")
        elif self._state(number) == TrialState.RUNNING:
            self._study.tell(number, finite)

    def _stop(self, number: int, outcome: Stopped) -> None:
        """A sampler learns from what a stopped trial had reached, and ranks it behind those that went further."""
        trial = self._trial(number)
        if trial.state == TrialState.RUNNING:
            for step in outcome.steps:
                self._storage.set_trial_intermediate_value(trial._trial_id, step.at, step.value)
            self._study.tell(number, state=TrialState.PRUNED)

    def _fail(self, number: int, reason: str) -> None:
        if self._state(number) == TrialState.RUNNING:
            # Kept with the study: Optuna lets nobody but its own objective function write to a running trial.
            self._study.set_user_attr(f"{REASON}/{number}", reason)
            self._study.tell(number, state=TrialState.FAIL)

    def _state(self, number: int) -> TrialState:
        return self._trial(number).state

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _row(self, trial: FrozenTrial) -> TrialRow:
        """A trial, read once if it has ended."""
        known = self._ended.get(trial.number)
        if known is not None:
            return known
        row = _row(trial, str(self._study.user_attrs.get(f"{REASON}/{trial.number}", "")))
        if trial.state.is_finished():
            self._ended[trial.number] = row
        return row

    def add_shared_seconds(self, seconds: float) -> None:
        """Keeps what it took, by the clock, to see to the stages that all trials share: once at each start."""
        self._study.set_user_attr(SHARED_SECONDS, self._study.user_attrs.get(SHARED_SECONDS, 0.0) + seconds)

    def rows(self) -> list[TrialRow]:
        """All trials that were started."""
        trials = self._study.get_trials(deepcopy=False)
        return [self._row(trial) for trial in trials if trial.state != TrialState.WAITING]

    def front(self) -> list[TrialRow]:
        """The trials that no other beats in all objectives; see `study.ledger.selection.front`."""
        if self._unranked:  # what another beats stays beaten, so that those before are compared once
            self._front = selection.front([*self._front, *self._unranked], self._directions)
            self._unranked = []
        return [*self._front]


def _check_values(name: str, space: SearchSpace, trials: Sequence[FrozenTrial]) -> None:
    """Refuses a study of an earlier version whose space had other options of a field: Optuna would stop at one of them.

    Raises:
        UserError: the field, and the way out.
    """
    distributions = space.distributions()
    for trial in trials:
        for field in trial.distributions.keys() & distributions.keys():
            try:
                check_distribution_compatibility(trial.distributions[field], distributions[field])
            except ValueError as error:
                raise UserError(
                    f"study {name!r} was begun by a version in which {field} was searched among other values than "
                    f"{space.ranges[field]}: it can be read, and a new one takes another --name"
                ) from error


def _row(trial: FrozenTrial, reason: str) -> TrialRow:
    values = tuple(trial.values) if trial.state == TrialState.COMPLETE else ()
    return TrialRow(
        number=trial.number,
        state=trial.state.name.lower(),
        point=dict(trial.params),
        key=trial.user_attrs.get(KEY, ""),
        values=values,
        reason=reason,
        paper_default=bool(trial.user_attrs.get(PAPER_DEFAULT)),
    )
