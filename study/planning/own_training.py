"""The training of their own that trials are compared within, where a pruner stops them after epochs."""

from collections.abc import Mapping
from typing import Any

from defenses.api import Defense
from defenses.registry import UserError
from search_spaces.space import SearchSpace
from study.config.config import StudyConfig
from study.config.objectives import Goal
from study.planning.measurable import check_objective
from study.planning.shared_stages import shared_variants


def own_training(
    config: StudyConfig, defense: type[Defense], space: SearchSpace, base: Mapping[str, Any], goal: Goal
) -> tuple[str, int] | None:
    """The field that says after which epoch trials' training is read, and how many epochs that has.

    Of several trainings it is the last one before samples are flagged.

    Args:
        base: fields of the defense's Config that all trials share.

    Returns:
        None where the study does not compare trials after epochs.

    Raises:
        UserError: no trial has a training of its own that can be read early, or what is flagged does not give the
            objective.
    """
    if config.pruner == "none" or config.pruner_over == "scenarios":
        return None
    trainings = [stage for stage in defense.stages_until("isolate") if stage.trajectory is not None]
    own = [stage for stage in trainings if shared_variants(stage, defense, space) is None]
    asked = "--pruner-over epochs stops a trial within its training"
    if not trainings:
        raise UserError(
            f"{asked}, and {defense.name} has none that can be read before its end: use --pruner-over scenarios"
        )
    if not own:
        raise UserError(
            f"{asked}, and in space {config.space} all trials share {trainings[-1].name}: use --pruner-over scenarios, "
            "or a space that searches what the training hangs on, such as pipd_wide"
        )
    for objective in goal.objectives:
        try:
            check_objective(objective, "isolate", defense)
        except UserError as error:
            raise UserError(
                f"{asked}, by what is flagged then, which does not give the objective {objective!r}: use --objective "
                "isolation_score, --until isolate, which has that by default, or --pruner-over scenarios",
                about="objective",
            ) from error
    names = own[-1].trajectory
    assert names is not None
    return names.read, names.length(defense.config_type.from_mapping(dict(base)))
