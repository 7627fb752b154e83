"""What ``--defenses`` makes of a study's options: one study a defense, each with what of ``--set`` is its own."""

import dataclasses

from defenses.registry import UserError, nearest
from search_spaces import SEARCH_SPACES
from study.config.config import StudyConfig
from study.planning.clean_reserve import reserve_size
from study.scenarios.oracle_defenses import find_defense


def child_configs(config: StudyConfig) -> tuple[StudyConfig, ...]:
    """The options of each defense's own study.

    Raises:
        UserError: an unknown space, one of a paper's table, options that do not go together with several defenses, or
            a field of ``--set`` that none of them has.
    """
    check_several(config)
    configs = []
    reserve = reserve_size(config)  # of all together: each is judged by the same test images
    shared = {"clean_reserve": reserve} if reserve else {}
    for space in config.defenses:
        own = {name: value for name, value in config.set.items() if name in _fields(space)}
        changes = {"space": space, "defenses": (), "name": f"{config.study_name}.{space}", "set": own, **shared}
        configs.append(config.model_copy(update=changes))
    return tuple(configs)


def check_several(config: StudyConfig) -> None:
    """Refuses what several defenses cannot have together.

    Raises:
        UserError: see `child_configs`.
    """
    for space in config.defenses:
        if SEARCH_SPACES.find(space).paper:
            raise UserError(
                f"--defenses takes spaces that are searched, and {space} makes a paper's table anew, with attacks of "
                f"its own: give --space {space} alone"
            )
    if config.space != config.defenses[0]:
        raise UserError(f"--defenses names the spaces, so --space {config.space} stands for nothing: leave it out")
    for option in ("holdout", "per_scenario", "model"):
        if getattr(config, option):
            raise UserError(
                f"--{option.replace('_', '-')} goes with one defense, got it with --defenses: give each a command of "
                "its own"
            )
    known = {name for space in config.defenses for name in _fields(space)}
    for name in config.set:
        if name not in known:
            spaces = ", ".join(config.defenses)
            raise UserError(f"--set names {name!r}, which none of {spaces} has: {nearest(name, known)}see --list SPACE")


def _fields(space: str) -> set[str]:
    return {field.name for field in dataclasses.fields(find_defense(SEARCH_SPACES.find(space).defense).config_type)}
