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
        "badnets_all_to_all": (
            "study.attacks.badnets:BadNetsAllToAll",
            "the same patch, every class to the next one",
        ),
        "trojan_square": (
            "study.attacks.trojan:TrojanSquare",
            "a coloured square, as neuron inversion gives (Liu et al., 2018); mode=replace|add",
        ),
        "trojan_watermark": (
            "study.attacks.trojan:TrojanWatermark",
            "a ring and letters across the image (Liu et al., 2018)",
        ),
        "trojan_inversion": (
            "study.attacks.trojan_inversion:TrojanInversion",
            "a square inverted from a network's own neurons (Liu et al., 2018); trains a surrogate",
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
        "label_consistent": (
            "study.attacks.label_consistent:LabelConsistent",
            "perturbed images of the target class with corner patches (Turner et al., 2019); trains a surrogate",
        ),
        "dynamic": (
            "study.attacks.dynamic:Dynamic",
            "a trigger of its own for each image, input-aware (Nguyen and Tran, 2020); trains generators",
        ),
        "wanet": (
            "study.attacks.wanet:WaNet",
            "a smooth warp, with warped covers (Nguyen and Tran, 2021)",
        ),
        "refool": (
            "study.attacks.refool:Refool",
            "reflections (Liu et al., 2020); --trigger-dir for photographs of your own",
        ),
        "adaptive_blend": (
            "study.attacks.adaptive:AdaptiveBlend",
            "half of a blended picture's tiles, with covers (Qi et al., 2023); --trigger-image for your own",
        ),
        "adaptive_patch": (
            "study.attacks.adaptive:AdaptivePatch",
            "one of four faint marks, with covers (Qi et al., 2023)",
        ),
        "issba": (
            "study.attacks.issba:ISSBA",
            "a hidden message, another residual in each image (Li et al., 2021); trains an encoder",
        ),
        "given": (
            "study.attacks.given:Given",
            "a training set that somebody else poisoned, from an npz file; file=PATH",
        ),
    },
)


def find_attack(text: str) -> type[Attack]:
    """The kind of an attack that is written with or without options.

    Raises:
        UserError: an unknown name.
    """
    return ATTACKS.find(text.partition(":")[0])


def parse_attack(text: str, preset: str = "paper") -> Attack:
    """An attack from ``name`` or ``name:option=value:option=value``.

    A value ends at the next ``:option=``, so that a path may hold a colon.

    Args:
        preset: sizes what must be trained; ``paper`` takes the Config's own values.

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
    return attack_type(attack_type.config_type.from_text(values, attack_type.presets.get(preset, {})))
