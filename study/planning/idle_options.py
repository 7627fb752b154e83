"""Options that cannot act: what somebody set and nothing reads. Left unsaid, it would be credited with a result."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from defenses.api import Defense
from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from search_spaces.space import in_force
from study.attacks import ATTACKS, find_attack
from study.config.config import CommonConfig

_OF_ATTACKS = {"trigger_image": "image", "trigger_dir": "trigger_dir"}


def check_options_act(config: CommonConfig, attacks: Sequence[str]) -> None:
    """Refuses a size for images that have one, and a picture that no attack takes.

    Args:
        attacks: as in a scenario, ``name:option=value``.

    Raises:
        UserError: the option, and why it changes nothing.
    """
    kind = config.dataset.partition(":")[0]
    if "image_size" in config.model_fields_set and kind not in ("folder", "own"):
        raise UserError(f"--image-size changes nothing with --dataset {kind}, whose images have one size: leave it out")
    kinds = [find_attack(attack).config_type for attack in attacks]
    taken = {field.name for config_type in kinds for field in dataclasses.fields(config_type)}
    for option, field in _OF_ATTACKS.items():
        if getattr(config, option) is not None and field not in taken:
            words = option.replace("_", "-")
            takers = [
                name for name in ATTACKS if field in {f.name for f in dataclasses.fields(ATTACKS[name].config_type)}
            ]
            raise UserError(
                f"--{words} changes nothing, since none of {', '.join(attacks)} takes it: leave it out, or take one of "
                f"{', '.join(takers)}"
            )


def idle_options(config: CommonConfig, defense: type[Defense]) -> list[str]:
    """What is to be said of options that are set and change nothing, a line each."""
    kind = config.dataset.partition(":")[0]
    idle = "download" in config.model_fields_set and config.download and not kind.startswith("cifar")
    download = [f"--download changes nothing with --dataset {kind}, which is not downloaded"] if idle else []
    fields = _idle_fields(config, defense)
    return [*download, *([fields] if fields else [])]


def idle_values(
    given: Iterable[str], fields: Mapping[str, Any], searched: Collection[str], defense: type[Defense]
) -> list[str]:
    """What is to be said of fields that are set and do nothing at the value of another one, a line each.

    Args:
        given: what the user set.
        fields: that preset and user set, typed.
        searched: fields that have no value of their own.
    """
    config = defense.config_type.from_mapping(fields)
    spaces = [SEARCH_SPACES[name] for name in SEARCH_SPACES if SEARCH_SPACES[name].defense == defense.name]
    told = []
    for name in given:
        known = [
            own for space in spaces for own in in_force(space.ranges[name].when if name in space.ranges else (), config)
        ]
        unmet = {str(one) for one in known if one.field not in searched and not one.holds(getattr(config, one.field))}
        if unmet:
            told.append(f"--set {name} changes nothing: it acts where {' and '.join(sorted(unmet))}")
    return told


def fields_read(config: CommonConfig, defense: type[Defense]) -> set[str]:
    """The fields of a defense that a stage of this run reads."""
    return {name for stage in defense.stages_until(config.until) for name in stage.reads}


def _idle_fields(config: CommonConfig, defense: type[Defense]) -> str:
    idle = sorted(set(config.set) - fields_read(config, defense))
    if not idle:
        return ""
    until = f" with --until {config.until}" if config.until else ""
    return f"--set {' '.join(idle)} changes nothing: no stage of {defense.name} reads it{until}"
