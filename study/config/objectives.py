"""What a study searches for: one metric or several, their directions, and how scenarios are put together.

Every objective here uses ground truth: it is an oracle, and says so wherever it is shown. Loads nothing heavy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from defenses.registry import UserError, nearest
from study.cli.numbers import format_objective
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
UNJUDGED = (names.FLAGGED_SHARE,)
"""What a study of flags has in place of an objective where nobody knows what is poisoned; offered to nobody."""

CLEAN = "clean"
"""The attack that is none: what is flagged there is flagged wrongly, and nothing there can succeed."""
GIVEN = "given"
"""The attack that somebody else made: its file tells as much as it does."""

_WORDS = {
    names.FPR_CLEAN: "FPR when nothing is poisoned",
    names.FLAGGED_SHARE: "flagged share",
    names.CA_FOLDED: "CA, folded classes",
    names.CLEAN_QUARANTINED: "clean images quarantined",
    names.ISOLATION_SCORE: "isolation score",
    names.DEFENSE_SCORE: "defense score",
    names.OVERALL_SCORE: "overall score",
}


def is_clean(attack: str) -> bool:
    """Whether an attack, as a study writes it with its options, is none."""
    return attack.partition(":")[0] == CLEAN


def is_given(attack: str) -> bool:
    """Whether an attack, likewise, is what somebody else made."""
    return attack.partition(":")[0] == GIVEN


_MEANINGS = {
    names.ISOLATION_SCORE: "TPR - FPR",
    names.DEFENSE_SCORE: "CA - ASR",
    names.OVERALL_SCORE: "the mean of TPR - FPR and CA - ASR",
}


def in_words(metric: str) -> str:
    """A metric as people are told of it: ``TPR``, ``overall score``."""
    return _WORDS.get(metric, metric.upper())


def meaning(metric: str) -> str:
    """What a score is made of; empty for a metric that is made of nothing else."""
    return _MEANINGS.get(metric, "")


Metrics = Mapping[str, float | None]
Direction = Literal["minimize", "maximize"]
How = Literal["mean", "worst"]


class Judged(Protocol):
    """What a scenario's outcome must offer to be put together with others."""

    @property
    def metrics(self) -> Metrics:
        """By name; undefined ones are None."""

    @property
    def attack_failed(self) -> bool:
        """The attack does not work even undefended."""


def direction(objective: str) -> Direction:
    """``maximize`` or ``minimize``."""
    return "minimize" if objective in (*MINIMISED, *UNJUDGED) else "maximize"


def parse_objectives(text: str) -> tuple[str, ...]:
    """The metrics of ``asr:min,ca:max``. A direction may be left out; it is the metric's own in any case.

    Raises:
        UserError: an unknown metric or direction, a direction that the metric does not have, or a metric twice.
    """
    objectives = [parse_objective(part.strip()) for part in text.split(",")]
    for name in objectives:
        if objectives.count(name) > 1:
            raise UserError(f"an objective stands once, got {name!r} more than once in {text!r}: leave one out")
    return tuple(objectives)


def parse_objective(text: str) -> str:
    """The metric of ``asr:min``, or of ``asr``; see `parse_objectives`.

    Raises:
        UserError: an unknown metric, or a direction that would search for the worst defense.
    """
    name, separator, wanted = text.partition(":")
    known = (*MAXIMISED, *MINIMISED)
    if name not in (*known, *UNJUDGED):
        raise UserError(f"unknown objective {name!r}: {nearest(name, known)}(known: {', '.join(known)})")
    natural = direction(name)[:3]
    if separator and wanted not in ("min", "max"):
        raise UserError(f"a direction is min or max, got {text!r}: write {name}:{natural}")
    if separator and wanted != natural:
        better = "lower" if natural == "min" else "higher"
        raise UserError(
            f"{text!r} would search for the worst defense, since a {better} {name} is better: write {name}:{natural}"
        )
    return name


def scores(metrics: Metrics) -> dict[str, float | None]:
    """The metrics of a scenario and the scores made of them; a score is None when a part of it is."""

    def difference(plus: str, minus: str) -> float | None:
        high, low = metrics.get(plus), metrics.get(minus)
        return None if high is None or low is None else high - low

    isolation = difference(names.TPR, names.FPR)
    defense = difference(names.CA, names.ASR)
    overall = None if isolation is None or defense is None else (isolation + defense) / 2
    return {
        **metrics,
        names.ISOLATION_SCORE: isolation,
        names.DEFENSE_SCORE: defense,
        names.OVERALL_SCORE: overall,
    }


@dataclass(frozen=True)
class Aggregate:
    """Metrics put together over scenarios.

    Attributes:
        metrics: by name; None where no scenario defines one.
        counted: scenarios whose attack worked, or that have none.
    """

    metrics: dict[str, float | None]
    counted: int


def aggregate(outcomes: Sequence[Judged], how: How = "mean") -> Aggregate:
    """The mean of each metric over the scenarios that define it, or its value where the defense does worst by it.

    A scenario whose attack failed undefended is left out: a defense must not be credited for it.
    """
    counted = [scores(outcome.metrics) for outcome in outcomes if not outcome.attack_failed]
    together: dict[str, float | None] = {}
    for name in dict.fromkeys(name for metrics in counted for name in metrics):
        values = [value for metrics in counted if (value := metrics.get(name)) is not None]
        together[name] = _together(name, values, how) if values else None
    return Aggregate(together, len(counted))


def _together(name: str, values: list[float], how: How) -> float:
    broken = [value for value in values if not math.isfinite(value)]
    if broken:  # min and max may pass over a NaN, or prefer an infinity
        return broken[0]
    if how == "mean":
        return sum(values) / len(values)
    return max(values) if direction(name) == "minimize" else min(values)


@dataclass(frozen=True)
class Goal:
    """What a study searches for.

    Attributes:
        objectives: metrics; with several the study looks for their Pareto front.
        how: ``mean`` over scenarios, or the ``worst`` one by each objective.
    """

    objectives: tuple[str, ...]
    how: How = "mean"

    @property
    def text(self) -> str:
        """For people: ``overall_score``, ``worst asr, ca``."""
        return ("worst " if self.how == "worst" else "") + ", ".join(self.objectives)

    @property
    def words(self) -> str:
        """In plain English: ``overall score``, ``ASR and CA, each on its worst scenario``."""
        each = " and ".join(map(in_words, self.objectives))
        return each if self.how == "mean" else f"{each}, {'each ' * (len(self.objectives) > 1)}on its worst scenario"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the objectives among a trial's metrics: ``objective``, or ``objective/asr`` of several."""
        return (names.OBJECTIVE,) if len(self.objectives) == 1 else tuple(map(names.objective, self.objectives))

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Of the objectives."""
        return tuple(map(direction, self.objectives))

    def describe(self, values: Sequence[float]) -> str:
        """Values of the objectives for people: ``asr 0.0120, ca 0.9300``."""
        pairs = zip(self.objectives, values, strict=True)
        shown = ", ".join(f"{name} {format_objective(value)}" for name, value in pairs)
        return ("worst " if self.how == "worst" else "") + shown

    def values(self, outcomes: Sequence[Judged]) -> tuple[float | None, ...]:
        """The objectives over scenarios; None where no scenario defines one."""
        together = aggregate(outcomes, self.how).metrics
        return tuple(together.get(name) for name in self.objectives)
