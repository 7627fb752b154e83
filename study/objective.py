"""What a study searches for: a metric, its direction, and how scenarios are put together.

Every objective here uses ground truth: it is an oracle, and says so wherever it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from defenses.api import Defense
from defenses.registry import UserError, nearest
from study.attacks.given import Given
from study.datasets.images import Images
from study.scenario import Scenario
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
_PARTS = {
    names.CA_FOLDED: {names.CA},
    names.ISOLATION_SCORE: {names.TPR, names.FPR},
    names.DEFENSE_SCORE: {names.CA, names.ASR},
    names.OVERALL_SCORE: {names.TPR, names.FPR, names.CA, names.ASR},
}
EVERYTHING = frozenset({names.TPR, names.FPR, names.AUROC, names.CA, names.ASR})
"""What a study of poisoned data with known poison measures."""

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


def measurable(scenarios: Sequence[Scenario], images: Images) -> frozenset[str]:
    """What ground truth allows to measure on at least one scenario.

    The clean control has no poison to find; data that somebody else poisoned allow what their file tells.
    """
    found = {names.CA}
    for scenario in scenarios:
        attack = scenario.parsed
        if isinstance(attack, Given):
            received = attack.read(images, scenario.target_label)
            mask = received.poison_mask
            found |= set() if mask is None else {names.FPR, names.TPR, names.AUROC} if mask.any() else {names.FPR}
            found |= {names.ASR} if len(received.triggered_labels) else set()
        else:
            found |= EVERYTHING if scenario.poison_rate > 0 else {names.FPR}
    return frozenset(found)


def check_objective(
    objective: str, until: str | None, defense: type[Defense], measured: frozenset[str] = EVERYTHING
) -> None:
    """Refuses an objective that is unknown, or that the study will not measure.

    Args:
        measured: as `measurable` gives it.
    """
    known = (*MAXIMISED, *MINIMISED)
    if objective not in known:
        raise UserError(f"unknown objective {objective!r}: {nearest(objective, known)}(known: {', '.join(known)})")
    obstacle = _obstacle(objective, until, defense, measured)
    if not obstacle:
        return
    possible = [name for name in known if not _obstacle(name, until, defense, measured)]
    way_out = "use"
    if not possible:
        way_out = f"leave out --until {until}, and use"
        possible = [name for name in known if not _obstacle(name, None, defense, measured)]
    raise UserError(f"objective {objective!r} cannot be measured, since {obstacle}: {way_out} {' or '.join(possible)}")


def _obstacle(objective: str, until: str | None, defense: type[Defense], measured: frozenset[str]) -> str:
    """Why a study does not measure an objective; empty when it does."""
    if defense.flagged is None and (until == "isolate" or objective in _NEED_FLAGS):
        return f"{defense.name} flags nothing"
    if until == "isolate" and objective in _NEED_MODEL:
        return "--until isolate trains no final model"
    if objective == names.CA_FOLDED and defense.heads == 1:
        return f"a model of {defense.name} has no quarantine classes to leave out"
    missing = _PARTS.get(objective, {objective}) - measured
    if missing:
        return f"no scenario tells {' or '.join(sorted(missing))}: nothing is poisoned, or nobody marked what is"
    return ""


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
