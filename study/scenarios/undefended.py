"""Which scenarios have an undefended model: the one that shows whether an attack works, and what a defense costs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from defenses import DEFENSES
from defenses.api import Defense, Stage, StageRun
from study.scenarios.scenario import Scenario
from tracking import names

if TYPE_CHECKING:
    from study.scenarios.evaluation import EvaluationContext

NOT_JUDGED: tuple[dict[str, float | None], tuple[StageRun, ...]] = (
    {names.CA_UNDEFENDED: None, names.ASR_UNDEFENDED: None},
    (),
)
"""What `study.scenarios.evaluation.judge_undefended` would give of a scenario without an undefended model."""


def needs_undefended(
    defense: type[Defense], config: Mapping[str, Any], scenario: Scenario, environment: "EvaluationContext"
) -> bool:
    """Whether the undefended model of a scenario is judged: where it is asked for, and where the defense trains it.

    Args:
        config: fields of the defense's Config.
    """
    if environment.undefended_on == "every" or scenario.parsed.poisons or scenario.parsed.received:
        return True
    return any(trains_the_undefended(stage, defense, config, environment) for stage in defense.stages)


def trains_the_undefended(
    stage: Stage, defense: type[Defense], config: Mapping[str, Any], environment: "EvaluationContext"
) -> bool:
    """Whether a stage of a defense is the undefended model's training to the last field."""
    plain = DEFENSES["no_defense"]
    if stage not in plain.stages:
        return False
    own, undefended = defense.config_type.from_mapping(config), plain.config_type.from_mapping(environment.undefended)
    return all(getattr(own, name) == getattr(undefended, name) for name in stage.reads)
