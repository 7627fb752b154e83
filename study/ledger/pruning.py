"""Stopping trials early: what a trial has reached after each scenario, and when a study may stop one for it.

Loads no Ray, since a study is planned and its books are kept without it; the rules themselves stand in
`study.driver.pruner`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from defenses.registry import UserError
from study.config.config import StudyConfig
from study.config.objectives import Goal, Judged, scores

MEDIAN_SAMPLES = 3  # other trials that must have come as far before the median of them stops one; Ray's default
_GRACE = 2  # of one scenario alone, which differs from trial to trial, too little can be told


@dataclass(frozen=True)
class Pruning:
    """How trials are stopped early.

    Attributes:
        rule: which of Ray's rules.
        grace: scenarios that must count before a trial may be stopped.
        factor: of ASHA: each rung has this many times the scenarios of the one before, and the best 1 in this many go
            on from it.
    """

    rule: Literal["asha", "median"]
    grace: int
    factor: float


@dataclass(frozen=True)
class Step:
    """The objective over the first scenarios of a trial.

    Attributes:
        scenarios: how many it is made of.
    """

    scenarios: int
    value: float


@dataclass(frozen=True)
class Stopped:
    """What became of a trial that was stopped before its last scenario."""

    steps: tuple[Step, ...]


def build_steps(judged: Sequence[Judged], goal: Goal) -> tuple[Step, ...]:
    """The running objective of a trial, a step for each scenario that counts.

    A scenario whose attack failed, or which does not define the objective, counts for nothing and makes no step. An
    objective that is no finite number makes the trial fail in the end, so it is compared with nobody's.

    Args:
        judged: in the order in which the trial went through them.
    """
    (objective,) = goal.objectives
    steps: list[Step] = []
    counted: list[Judged] = []
    for outcome in judged:
        if outcome.attack_failed or scores(outcome.metrics).get(objective) is None:
            continue
        counted.append(outcome)
        (value,) = goal.values(counted)
        if value is None or not math.isfinite(value):
            break
        steps.append(Step(len(counted), value))
    return tuple(steps)


def parse_pruning(config: StudyConfig, goal: Goal, scenarios: int) -> Pruning | None:
    """How a study stops trials early; None when it does not.

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
    return Pruning(config.pruner, grace, config.pruner_factor)


def _check_used(config: StudyConfig) -> None:
    """Refuses options of a rule that the study does not use: a default that was written out is no harm."""
    for option, used in {
        "pruner_grace": config.pruner != "none",
        "pruner_factor": config.pruner == "asha",
    }.items():
        if not used and getattr(config, option) != StudyConfig.model_fields[option].default:
            name = option.replace("_", "-")
            raise UserError(
                f"--{name} changes nothing with --pruner {config.pruner}: leave it out, or use --pruner asha"
            )
