"""Data-poisoning attacks, one file each. A scenario is poisoned once, stored, and reused by every trial."""

import dataclasses
import re

from defenses.registry import Registry, UserError
from study.attacks.api import Attack

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "clean": ("study.attacks.clean:Clean", "no poison: the control"),
        "badnets": (
            "study.attacks.badnets:BadNets",
            "a small patch (Gu et al., 2017); variant=grid3|checker2|white3|grid30",
        ),
        "blended_random": (
            "study.attacks.blended:BlendedRandom",
            "uniform noise blended in at 0.2 (Chen et al., 2017)",
        ),
        "blended_image": (
            "study.attacks.blended:BlendedImage",
            "a picture blended in at 0.2; --trigger-image for your own",
        ),
        "sig": (
            "study.attacks.sig:SIG",
            "a sinusoid on images of the target class (Barni et al., 2019); variant=additive|abl",
        ),
        "trojan_square": (
            "study.attacks.trojan:TrojanSquare",
            "a coloured square, as neuron inversion gives (Liu et al., 2018)",
        ),
    },
)


def parse_attack(text: str) -> Attack:
    """An attack from ``name`` or ``name:option=value:option=value``.

    A value ends at the next ``:option=``, so that a path may hold a colon.

    Raises:
        UserError: an unknown name, option or value.
    """
    name, colon, rest = text.partition(":")
    attack_type = ATTACKS.find(name)
    values: dict[str, str] = {}
    for option in re.split(r":(?=\w+=)", rest) if colon else ():
        key, separator, value = option.partition("=")
        if not separator:
            known = ", ".join(field.name for field in dataclasses.fields(attack_type.config_type))
            raise UserError(f"an option of an attack is written name:option=value, got {text!r} (options: {known})")
        values[key] = value
    return attack_type(attack_type.config_type.from_text(values))
