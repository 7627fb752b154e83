"""Stopping trials early: what a trial has reached after each scenario, or after some epochs, and when one may stop it.

Loads no Ray, since a study is planned and its books are kept without it; the rules themselves stand in
`study.driver.pruner`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from defenses.registry import UserError
from study.config.config import StudyConfig
from study.config.objectives import Goal, Judged, scores

MEDIAN_SAMPLES = 3  # other trials that must have come as far before the median of them stops one; Ray's default
_GRACE = 2  # of one scenario alone, which differs from trial to trial, too little can be told
_GRACE_SHARE = 1 / 8  # of a training: poison is learned in its first part


@dataclass(frozen=True)
class Pruning:
    """How trials are stopped early.

    Attributes:
        rule: which of Ray's rules.
        grace: scenarios that must count, or epochs that must be trained, before a trial may be stopped.
        factor: of ASHA: each rung lies this many times as far as the one before, and the best 1 in this many go on from
            it.
        last: how far a trial can come: the scenarios, or the epochs of the training.
        field: of the defense's Config, which says after which epoch a training is read; empty where trials are compared
            between scenarios.
    """

    rule: Literal["asha", "median"]
    grace: int
    factor: float
    last: int
    field: str = ""

    @property
    def reads(self) -> tuple[int, ...]:
        """The epochs after which trials are compared: ASHA's rungs, and for the median as many; none of scenarios."""
        if not self.field:
            return ()
        rungs = (math.ceil(self.grace * self.factor**number) for number in itertools.count())
        return tuple(dict.fromkeys(itertools.takewhile(lambda epoch: epoch < self.last, rungs)))

    def own_read(self, fields: Mapping[str, Any]) -> int:
        """The epoch after which a configuration, as fields, has its training read; the last where it names none."""
        own = fields.get(self.field)
        return self.last if own is None else int(own)


@dataclass(frozen=True)
class Step:
    """The objective of a trial as far as it has come.

    Attributes:
        at: the scenarios that it is made of, or the epochs that were trained on each of them.
    """

    at: int
    value: float


@dataclass(frozen=True)
class Stopped:
    """What became of a trial that was stopped before its end."""

    steps: tuple[Step, ...]


def build_steps(judged: Sequence[Judged], goal: Goal) -> tuple[Step, ...]:
    """The running objective of a trial, a step for each scenario that counts.

    A scenario whose attack failed, or which does not define the objective, counts for nothing and makes no step. An
    objective that is no finite number makes the trial fail in the end, so it is compared with nobody's.

    Args:
        judged: in the order in which the trial went through them.
    """
    steps: list[Step] = []
    counted: list[Judged] = []
    for outcome in judged:
        if not _counts(outcome, goal):
            continue
        counted.append(outcome)
        (value,) = goal.values(counted)
        if value is None or not math.isfinite(value):
            break
        steps.append(Step(len(counted), value))
    return tuple(steps)


def build_read_steps(reads: Mapping[int, Sequence[Judged]], goal: Goal) -> tuple[Step, ...]:
    """The objective of a trial over all its scenarios, a step for each epoch after which its training was read.

    Args:
        reads: epoch -> all scenarios, in rising order of epochs.
    """
    steps: list[Step] = []
    for epoch, judged in reads.items():
        counted = [outcome for outcome in judged if _counts(outcome, goal)]
        (value,) = goal.values(counted) if counted else (None,)
        if value is None or not math.isfinite(value):
            break
        steps.append(Step(epoch, value))
    return tuple(steps)


def _counts(outcome: Judged, goal: Goal) -> bool:
    (objective,) = goal.objectives
    return not outcome.attack_failed and scores(outcome.metrics).get(objective) is not None


def parse_pruning(
    config: StudyConfig, goal: Goal, scenarios: int, training: tuple[str, int] | None = None
) -> Pruning | None:
    """How a study stops trials early; None when it does not.

    Args:
        training: where trials are compared after epochs, the field that says after which one their training is read,
            and how many it has.

    Raises:
        UserError: a study in which nothing can be stopped, or an option that changes nothing.
    """
    _check_used(config)
    if config.pruner == "none":
        return None
    asked = f"--pruner {config.pruner}"
    if len(goal.objectives) > 1:
        raise UserError(
            f"{asked} compares trials by one objective, got {len(goal.objectives)} ({', '.join(goal.objectives)}): "
            "leave it out, or name one --objective"
        )
    if training is not None:
        field, epochs = training
        grace = config.pruner_grace or max(1, round(epochs * _GRACE_SHARE))
        if grace >= epochs:
            raise UserError(
                f"--pruner-grace must be smaller than the epochs of the training ({epochs}), got {grace}: after the "
                "last one there is nothing left to stop"
            )
        return Pruning(config.pruner, grace, config.pruner_factor, epochs, field)
    if config.per_scenario:
        raise UserError(
            f"{asked} stops a trial between its scenarios, and with --per-scenario each trial has one: "
            "leave one of the two out"
        )
    if scenarios < 2:
        raise UserError(
            f"{asked} stops a trial between its scenarios, and this study has one: leave it out, or add --attacks, "
            "--poison-rates, --seeds or --repeats"
        )
    grace = config.pruner_grace or min(_GRACE, scenarios - 1)
    if grace >= scenarios:
        raise UserError(
            f"--pruner-grace must be smaller than the number of scenarios ({scenarios}), got {grace}: "
            "after the last one there is nothing left to stop"
        )
    return Pruning(config.pruner, grace, config.pruner_factor, scenarios)


_USED_BY = {"pruner_over": ("asha", "median"), "pruner_grace": ("asha", "median"), "pruner_factor": ("asha",)}


def without_pruner() -> dict[str, Any]:
    """The options of a study that stops no trial."""
    return {"pruner": "none", **{option: StudyConfig.model_fields[option].default for option in _USED_BY}}


def _check_used(config: StudyConfig) -> None:
    """Refuses options of a rule that the study does not use: a default that was written out is no harm."""
    for option, rules in _USED_BY.items():
        used = config.pruner in rules
        if not used and getattr(config, option) != StudyConfig.model_fields[option].default:
            name = option.replace("_", "-")
            raise UserError(
                f"--{name} changes nothing with --pruner {config.pruner}: leave it out, or use --pruner asha"
            )
