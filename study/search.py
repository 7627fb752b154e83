"""The ledger of a study: an Optuna study in a sqlite file that the driver alone writes.

It is made before anything else starts, and what it says is what counts: Ray's own folders are disposable. Running the
same command again sweeps what a crash left behind, takes in results that were finished but not yet told, and goes on
with what is missing. The reasons are measured ones: `Tuner.restore` aborts a study after a kill, and a NaN told to
Optuna leaves its trial running for ever.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from defenses.seeds import derive_seed
from search_spaces.space import SearchSpace, Value
from study.ledger_file import KEY, LOST, PAPER_DEFAULT, REASON, RETRY_OF, is_finished
from study.target import sqlite_url

_STARTUP_SHARE = 0.4  # of the planned trials: TPE needs some to learn from, and a short study must still learn

Outcome = tuple[float | None, str]
"""An objective, or None and why there is none."""


def make_sampler(name: str, seed: int, planned: int) -> BaseSampler:
    """TPE to search; random or quasi-Monte-Carlo to cover the space evenly, which sensitivity analysis needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "qmc":
            return QMCSampler(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)
        startup = max(4, round(planned * _STARTUP_SHARE))
        return TPESampler(
            seed=seed,
            n_startup_trials=min(startup, 10),
            multivariate=True,
            constant_liar=True,
        )


@dataclass(frozen=True)
class Row:
    """One trial of the ledger."""

    number: int
    state: str
    point: dict[str, Any]
    key: str
    value: float | None
    reason: str
    paper_default: bool


class Ledger:
    """Asks for points and is told what they gave.

    Args:
        path: of the sqlite file; made when it is missing.
        name: of the study.
        space: what is searched.
        direction: ``maximize`` or ``minimize``.
        sampler, seed, planned: see `make_sampler`.
        key_of: point -> the name of its trial.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        space: SearchSpace,
        direction: Literal["minimize", "maximize"],
        sampler: str,
        seed: int,
        planned: int,
        key_of: Callable[[Mapping[str, Any]], str],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._key_of = space, key_of
        storage = optuna.storages.RDBStorage(sqlite_url(path))
        self._study = optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)
        # A resumed sampler must not repeat the suggestions that its first run started with.
        told = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = make_sampler(sampler, derive_seed(seed, "sampler", told) % 2**32, planned)

    def sweep(self, outcome_of: Callable[[str], Outcome | None]) -> tuple[int, int]:
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
            point = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if set(point) != set(self._space.ranges):
                self._fail(trial.number, LOST)
                continue
            key = trial.user_attrs.get(KEY) or self._key_of(point)
            outcome = outcome_of(key)
            if outcome is not None:
                self.tell(trial.number, outcome)
                ingested += 1
                continue
            if not self._is_known(key, besides=trial.number):
                kept = {PAPER_DEFAULT: True} if PAPER_DEFAULT in trial.user_attrs else {}
                self._study.enqueue_trial(point, user_attrs={KEY: key, RETRY_OF: trial.number, **kept})
                queued += 1
            self._fail(trial.number, LOST)
        return ingested, queued

    def _is_known(self, key: str, besides: int) -> bool:
        """Whether a point is queued, running or complete in another trial."""
        states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return any(trial.user_attrs.get(KEY) == key for trial in trials if trial.number != besides)

    def enqueue_default(self, point: Mapping[str, Value]) -> None:
        """Makes the paper's default the first trial, once a study."""
        if not any(PAPER_DEFAULT in trial.user_attrs for trial in self._study.get_trials(deepcopy=False)):
            self._study.enqueue_trial(dict(point), user_attrs={KEY: self._key_of(point), PAPER_DEFAULT: True})

    def remaining(self, target: int) -> int:
        """How many trials are still to complete. A point that failed counts as tried: it would fail again."""
        return max(0, target - self.finished())

    def finished(self) -> int:
        """Trials that are complete or failed for good."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(is_finished(trial.state.name.lower(), self._reason(trial.number)) for trial in trials)

    def _reason(self, number: int) -> str:
        return str(self._study.user_attrs.get(f"{REASON}/{number}", ""))

    def ask(self) -> tuple[int, dict[str, Value], str]:
        """The next point: its trial's number, its values and its key."""
        trial = self._study.ask(self._space.distributions())
        point = dict(trial.params)
        key = self._key_of(point)
        trial.set_user_attr(KEY, key)
        return trial.number, point, key

    def tell(self, number: int, outcome: Outcome) -> None:
        """Settles a trial. An objective that is not a finite number is a failure with its reason."""
        value, reason = outcome
        if value is None or not isinstance(value, int | float) or not math.isfinite(value):
            self._fail(number, reason or f"the objective must be a finite number, got {value!r}")
        elif self._state(number) == TrialState.RUNNING:
            self._study.tell(number, float(value))

    def _fail(self, number: int, reason: str) -> None:
        if self._state(number) == TrialState.RUNNING:
            # Kept with the study: Optuna lets nobody but its own objective function write to a running trial.
            self._study.set_user_attr(f"{REASON}/{number}", reason)
            self._study.tell(number, state=TrialState.FAIL)

    def _state(self, number: int) -> TrialState:
        return self._study.get_trials(deepcopy=False)[number].state

    def rows(self) -> list[Row]:
        """All trials that were started."""
        trials = self._study.get_trials(deepcopy=False)
        return [_row(trial, self._reason(trial.number)) for trial in trials if trial.state != TrialState.WAITING]

    def best(self) -> Row | None:
        """The complete trial with the best objective; of equals, the earliest."""
        complete = [row for row in self.rows() if row.value is not None]
        if not complete:
            return None
        sign = 1 if self._study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        return max(complete, key=lambda row: (sign * (row.value or 0.0), -row.number))


def _row(trial: FrozenTrial, reason: str) -> Row:
    return Row(
        number=trial.number,
        state=trial.state.name.lower(),
        point=dict(trial.params),
        key=trial.user_attrs.get(KEY, ""),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        reason=reason,
        paper_default=bool(trial.user_attrs.get(PAPER_DEFAULT)),
    )
