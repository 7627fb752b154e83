"""The clean control: a defense on the same data with nothing poisoned. Whatever it flags there, it flags wrongly."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from defenses.api import Progress, StageRun, silent
from defenses.runner import run_defense
from study.config.objectives import CLEAN
from study.scenarios.evaluation import EvaluationContext, prepare
from study.scenarios.oracle_defenses import ORACLE_DEFENSES, find_defense, make_defense
from study.scenarios.scenario import Scenario


@dataclass(frozen=True)
class ControlRun:
    """What a defense did with clean data.

    Attributes:
        flagged_share: of the training set, in [0, 1].
        stages: that took part, the data's included.
    """

    flagged_share: float
    stages: tuple[StageRun, ...]
    wall_seconds: float


def clean_scenarios(defense: str, scenarios: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """The controls of a study, one a seed; none for a defense that flags nothing, or that must be told the poison.

    Repeats share the control of their seed, which is run once. None either where others poisoned the data: the same
    data without poison are not at hand.

    Args:
        defense: as `find_defense` takes it.
    """
    if defense in ORACLE_DEFENSES or find_defense(defense).flagged is None:
        return ()
    poisoned = [scenario for scenario in scenarios if not scenario.parsed.received]
    controls = (dataclasses.replace(scenario, attack=CLEAN, poison_rate=0.0, repeat=0) for scenario in poisoned)
    return tuple({scenario.seed: scenario for scenario in controls}.values())


def run_on_clean(
    defense: str,
    config: Mapping[str, Any],
    scenario: Scenario,
    environment: EvaluationContext,
    progress: Progress = silent,
) -> ControlRun:
    """Runs a defense up to the stage that flags; needs no undefended model, unless the defense itself does.

    Args:
        defense, config: as `evaluate_scenario` takes them.
        scenario: one of `clean_scenarios`.
    """
    started = time.perf_counter()
    data, context, runs = prepare(scenario, environment, progress)
    result = run_defense(make_defense(defense, config, data), data.suspect, context, until="isolate")
    assert result.flagged is not None, "a defense that flags nothing has no clean control"
    return ControlRun(float(result.flagged.mean()), (*runs, *result.stages), time.perf_counter() - started)
