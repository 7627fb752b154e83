"""How many clean images the defenses of a command need, and the sentences that say so."""

import dataclasses
from collections.abc import Iterable

from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from search_spaces.space import Choice, Float, Int, SearchSpace
from study.config.config import CommonConfig
from study.scenarios.oracle_defenses import find_defense


def reserve_size(config: CommonConfig) -> int:
    """How many test images are set aside: what was asked for, else as many as the defenses need at most.

    Raises:
        UserError: fewer than a defense needs were asked for.
    """
    needed = {space.defense: needed_images(space, config) for space in _spaces(config)}
    if config.clean_reserve is None:
        return max(needed.values(), default=0)
    for defense, count in needed.items():
        if count > config.clean_reserve:
            raise UserError(
                f"{defense} needs {count} clean images, and --clean-reserve sets {config.clean_reserve} aside: leave "
                f"the option out, or give {' or '.join(f'--set {name}=N' for name in _clean_fields(defense))} with "
                "fewer"
            )
    return config.clean_reserve


def needs_text(space: SearchSpace, config: CommonConfig) -> str:
    """That a defense needs clean images, and how many; empty for one that needs none."""
    count = needed_images(space, config)
    return f"needs {count:,} clean images" if count else ""


def needed_images(space: SearchSpace, config: CommonConfig) -> int:
    """The most clean images that a configuration of a space is handed; 0 for a defense that needs none.

    A value that cannot be read counts as none: it is refused where all of ``--set`` is checked.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(find_defense(space.defense).config_type)}
    needed = 0
    for name in _clean_fields(space.defense):
        searched = space.ranges.get(name)
        if name in config.set:
            needed = max(needed, int(config.set[name]) if config.set[name].isdecimal() else 0)
        elif isinstance(searched, Choice):
            needed = max(needed, *(int(option) for option in searched.options))
        elif isinstance(searched, Int | Float):
            needed = max(needed, int(searched.high))
        else:
            needed = max(needed, int(space.preset(config.preset).get(name, defaults[name])))
    return needed


def needs_sentence(space: SearchSpace, config: CommonConfig) -> str:
    """The same, and where the images come from; empty for a defense that needs none."""
    needs = needs_text(space, config)
    taken = "they are taken out of the test images, and CA and ASR are measured on the others."
    return f"{space.defense} {needs}: {taken}" if needs else ""


def _clean_fields(defense: str) -> list[str]:
    """The config fields of a defense that say how many clean images it is handed."""
    return sorted({stage.clean_images for stage in find_defense(defense).stages if stage.clean_images is not None})


def _spaces(config: CommonConfig) -> Iterable[SearchSpace]:
    """The spaces of a command: those of a study, or that of the defense that is evaluated."""
    names = getattr(config, "defenses", ()) or (getattr(config, "space", getattr(config, "defense", "")),)
    for name in names:
        own = [name] if name in SEARCH_SPACES else [key for key in SEARCH_SPACES if SEARCH_SPACES[key].defense == name]
        yield from (SEARCH_SPACES[key] for key in own[:1])
