"""Whether a study can measure what it is to search for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from defenses.api import Defense
from defenses.registry import UserError
from study.attacks.given import Given
from study.config.objectives import MAXIMISED, MINIMISED, UNJUDGED, parse_objective
from study.datasets.images import Images
from study.scenarios.scenario import Scenario
from tracking import names

_NEED_FLAGS = {names.TPR, names.FPR, names.AUROC, names.ISOLATION_SCORE, names.OVERALL_SCORE, *UNJUDGED}
_NEED_MODEL = {names.CA, names.CA_FOLDED, names.ASR, names.DEFENSE_SCORE, names.OVERALL_SCORE}
_PARTS = {
    names.CA_FOLDED: {names.CA},
    names.ISOLATION_SCORE: {names.TPR, names.FPR},
    names.DEFENSE_SCORE: {names.CA, names.ASR},
    names.OVERALL_SCORE: {names.TPR, names.FPR, names.CA, names.ASR},
}
EVERYTHING = frozenset(names.HEADLINE)
"""What a study of poisoned data with known poison measures."""


def measurable(scenarios: Sequence[Scenario], images: Images) -> frozenset[str]:
    """What ground truth allows to measure on at least one scenario.

    The clean control has no poison to find; data that somebody else poisoned allow what their file tells. Of own data
    nobody knows what is poisoned: where nothing was planted, the share that is flagged is all that flags give.
    """
    known = {names.CA}
    for scenario in scenarios:
        attack = scenario.parsed
        if isinstance(attack, Given):
            received = attack.read(images, scenario.target_label)
            known |= set() if received.poison_mask is None else _of_mask(received.poison_mask)
            known |= {names.ASR} if len(received.triggered_labels) else set()
        elif scenario.poison_rate > 0:
            victims = scenario.parsed.victims(images.test_labels, scenario.target_label)
            known |= {names.FPR, names.TPR, names.AUROC} | ({names.ASR} if len(victims) else set())
        else:
            known |= {names.FLAGGED_SHARE if images.received else names.FPR}
    return frozenset(known - {names.FLAGGED_SHARE} if known & {names.TPR, names.FPR} else known)


def _of_mask(poisoned: NDArray[np.bool_]) -> set[str]:
    """What flags can be judged by: a rate needs samples that it is a share of."""
    rates = ({names.TPR} if poisoned.any() else set()) | (set() if poisoned.all() else {names.FPR})
    return rates | {names.AUROC} if len(rates) == 2 else rates


def check_objective(
    objective: str, until: str | None, defense: type[Defense], measured: frozenset[str] = EVERYTHING
) -> None:
    """Refuses an objective that is unknown, or that the study will not measure.

    Args:
        measured: as `measurable` gives it.

    Raises:
        UserError: what it is, why it is not measured, and what can be.
    """
    parse_objective(objective)
    known = (*MAXIMISED, *MINIMISED, *UNJUDGED)
    obstacle = _obstacle(objective, until, defense, measured)
    if not obstacle:
        return
    possible = [name for name in known if not _obstacle(name, until, defense, measured)]
    way_out = "use"
    if not possible:
        way_out = f"leave out --until {until}, and use"
        possible = [name for name in known if not _obstacle(name, None, defense, measured)]
    raise UserError(f"objective {objective!r} cannot be measured, since {obstacle}: {way_out} {' or '.join(possible)}")


def _reason(missing: set[str]) -> str:
    if missing == {names.ASR}:
        return "nothing is poisoned, or no test image of another class could carry the trigger"
    if missing <= set(UNJUDGED):
        return "it stands for what is measured where nobody knows what is poisoned, and here that is known"
    if missing == {names.FPR}:
        return "every image is poisoned, or the file of a given set has no poison_mask"
    return "nothing is poisoned, or the file of a given set has no poison_mask or test_triggered_images"


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
        return f"no scenario tells {' or '.join(sorted(missing))}: {_reason(missing)}"
    return ""
