"""What a study searches for: a metric, its direction, and how scenarios are put together.

Every objective here uses ground truth: it is an oracle, and says so wherever it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from defenses.api import Defense
from defenses.registry import UserError, nearest
from tracking import names

MAXIMISED = (
    names.TPR,
    names.AUROC,
    names.CA,
    names.CA_FOLDED,
    names.ISOLATION_SCORE,
    names.DEFENSE_SCORE,
    names.OVERALL_SCORE,
)
MINIMISED = (names.FPR, names.ASR)
_NEED_FLAGS = {names.TPR, names.FPR, names.AUROC, names.ISOLATION_SCORE, names.OVERALL_SCORE}
_NEED_MODEL = {names.CA, names.CA_FOLDED, names.ASR, names.DEFENSE_SCORE, names.OVERALL_SCORE}

Metrics = Mapping[str, float | None]


class Judged(Protocol):
    """What a scenario's outcome must offer to be put together with others."""

    @property
    def metrics(self) -> Metrics:
        """By name; undefined ones are None."""

    @property
    def attack_failed(self) -> bool:
        """The attack does not work even undefended."""


def direction(objective: str) -> Literal["minimize", "maximize"]:
    """``maximize`` or ``minimize``."""
    return "minimize" if objective in MINIMISED else "maximize"


def check_objective(objective: str, until: str | None, defense: type[Defense]) -> None:
    """Refuses an objective that is unknown, or that the study will not measure."""
    known = (*MAXIMISED, *MINIMISED)
    if objective not in known:
        raise UserError(f"unknown objective {objective!r}: {nearest(objective, known)}(known: {', '.join(known)})")
    if until == "isolate" and objective in _NEED_MODEL:
        raise UserError(
            f"objective {objective!r} needs a final model, which --until isolate does not train: "
            f"use {names.ISOLATION_SCORE}, or leave out --until"
        )
    if until == "isolate" and defense.flagged is None:
        raise UserError(
            f"{defense.name} flags nothing, so there is nothing to measure with --until isolate: leave it out"
        )
    if defense.flagged is None and objective in _NEED_FLAGS:
        raise UserError(f"{defense.name} flags nothing, so {objective!r} is undefined: use {names.DEFENSE_SCORE}")


def scores(found: Metrics) -> dict[str, float | None]:
    """The metrics of a scenario and the scores made of them; a score is None when a part of it is."""

    def difference(plus: str, minus: str) -> float | None:
        high, low = found.get(plus), found.get(minus)
        return None if high is None or low is None else high - low

    isolation = difference(names.TPR, names.FPR)
    defense = difference(names.CA, names.ASR)
    overall = None if isolation is None or defense is None else (isolation + defense) / 2
    return {
        **found,
        names.ISOLATION_SCORE: isolation,
        names.DEFENSE_SCORE: defense,
        names.OVERALL_SCORE: overall,
    }


@dataclass(frozen=True)
class Aggregate:
    """Metrics averaged over scenarios.

    Attributes:
        metrics: by name; None where no scenario defines one.
        counted: scenarios whose attack worked, or that have none.
    """

    metrics: dict[str, float | None]
    counted: int


def aggregate(outcomes: Sequence[Judged]) -> Aggregate:
    """The mean of each metric over the scenarios that define it.

    A scenario whose attack failed undefended is left out: a defense must not be credited for it.
    """
    counted = [scores(outcome.metrics) for outcome in outcomes if not outcome.attack_failed]
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(name for metrics in counted for name in metrics):
        values = [value for metrics in counted if (value := metrics.get(name)) is not None]
        found[name] = sum(values) / len(values) if values else None
    return Aggregate(found, len(counted))
