"""The search space of a study, as its preset and its fixed fields make it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from search_spaces import SEARCH_SPACES
from search_spaces.space import Choice, Range, SearchSpace
from study.config.config import StudyConfig
from study.scenarios.oracle_defenses import find_defense

if TYPE_CHECKING:
    from defenses.api import Defense


def load_space(config: StudyConfig) -> SearchSpace:
    """The space that a study names, at its preset; a training is searched up to as many epochs as it has.

    Raises:
        UserError: an unknown space, or a fixed field that the defense has not or that breaks a rule.
    """
    space = SEARCH_SPACES.find(config.space).at(config.preset)
    if not (config.set and space.ranges_by_preset):  # of any other no training is read early; spares loading torch
        return space
    return within_trainings(space, find_defense(space.defense), config.set, space.preset(config.preset))


def within_trainings(
    space: SearchSpace, defense: "type[Defense]", fixed: Mapping[str, str], preset: Mapping[str, Any]
) -> SearchSpace:
    """The space with read epochs that end with the training, where somebody has set how long that is.

    Args:
        fixed: fields that the user sets, as text.
        preset: fields that the preset sets.
    """
    ranges: dict[str, Range] = {}
    for stage in defense.stages:
        names = stage.trajectory
        own = space.ranges.get(names.read) if names is not None else None
        text = {name: value for name, value in fixed.items() if name in stage.reads}
        if names is None or not isinstance(own, Choice) or names.read in fixed or not text:
            continue
        last = names.length(defense.config_type.from_text(text, preset))
        before = tuple(option for option in own.options if int(option) < last)
        ranges[names.read] = replace(own, options=(*before, last))
    return replace(space, ranges={**space.ranges, **ranges}) if ranges else space
