"""A scenario: one dataset, poisoned by one attack at one rate with one seed, to be defended with one network."""

import dataclasses
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from defenses.api import SuspectDataset
from defenses.models import ModelSpec, spec_for_images
from defenses.seeds import derive_seed
from defenses.storage.atomic_files import canonical
from study.attacks import parse_attack
from study.attacks.api import Attack
from study.datasets.images import Images
from study.scenarios.poison import COVERS_VERSION, VERSION

_NAME_BYTES = 50  # of the attack in a name: with a rate of 24 bytes, a seed of 19 and a repeat, it has at most 100


@dataclass(frozen=True)
class Scenario:
    """What a defense is put to.

    Attributes:
        attack: ``name`` or ``name:option=value``.
        poison_rate: share of the training set, in [0, 0.5]; 0 for the clean control alone.
        target_label: the attacker's class.
        seed: of the poisoning, and with the repeat of training and of everything else that is drawn for this scenario.
        preset: sizes what the attack trains; options in `attack` go before it.
        repeat: which training on the same poisoned data, from 0: what is trained for a scenario has seeds of its own in
            each repeat, and how the poison was drawn is the same in all.
    """

    attack: str
    poison_rate: float
    target_label: int
    seed: int
    preset: str = "paper"
    repeat: int = 0

    @property
    def name(self) -> str:
        """For files, runs and tables: ``badnets-0.1-s0``; at most 100 bytes, and different for different scenarios.

        The target label, which all scenarios of a study share, is left out. The first repeat is called as if it were
        the only one: ``badnets-0.1-s0``, ``badnets-0.1-s0-r1``, ``badnets-0.1-s0-r2``.
        """
        rate = repr(float(self.poison_rate)).removesuffix(".0")
        repeat = f"-r{self.repeat}" if self.repeat else ""
        return f"{_attack_name(self.attack)}-{rate}-s{self.seed}{repeat}"

    @property
    def first_repeat(self) -> "Scenario":
        """The same poisoned data, trained on for the first time."""
        return dataclasses.replace(self, repeat=0)

    def fields(self) -> dict[str, Any]:
        """Its fields, for keys: the repeat only where it is not the first, as in keys from before there were others."""
        fields = dataclasses.asdict(self)
        if not self.repeat:
            del fields["repeat"]
        return fields

    @property
    def parsed(self) -> Attack:
        """The attack with its options."""
        return parse_attack(self.attack, self.preset)

    def target_text(self, images: Images) -> str:
        """The class the attacker wants, by number and name; of data that others poisoned the file tells, if any."""
        attack = self.parsed
        return (
            images.class_text(self.target_label) if attack.poisons else "as in the file" if attack.received else "none"
        )

    def identity(self, images: Images) -> dict[str, Any]:
        """All that the poisoned data depend on.

        Versions that came later stand there only where they differ from the first: the other keys stay as they were.
        """
        attack = self.parsed
        version = attack.version_for(images)
        later = {"attack_version": version} if version > 1 else {}
        if attack.config.cover_ratio:
            later["covers"] = COVERS_VERSION
        return {
            **later,
            **images.classes_beyond_labels,
            "version": VERSION,
            "attack": attack.name,
            "options": attack.identity(),
            "poison_rate": float(self.poison_rate),  # 0 and 0.0 are written differently
            "target_label": self.target_label,
            "seed": self.seed,
            "dataset": images.fingerprint,
        }

    def key(self, images: Images) -> str:
        """The poisoned data's key in the store."""
        return hashlib.sha256(canonical(self.identity(images)).encode()).hexdigest()


def scenario_order(scenarios: Sequence[Scenario], key: str) -> list[Scenario]:
    """The scenarios in the order of a trial: drawn from its key, so that it is the same when the trial starts again.

    In one fixed order what all trials are judged on first, and stopped for, would always be the same.
    """
    order = list(scenarios)
    random.Random(derive_seed("order of scenarios", key)).shuffle(order)
    return order


def _attack_name(attack: str) -> str:
    """An attack's text, for the name of a file.

    ``sig:delta=20`` becomes ``sig.delta_20``. Values with other characters (paths) and long texts would not stay
    distinct: they keep what is readable, without folders, and get a hash of the whole text.
    """
    readable = re.sub(r"=[^:]*/", "=", attack).replace(":", ".").replace("=", "_")
    if re.fullmatch(r"[a-z0-9_]+(:[a-z0-9_]+=[a-zA-Z0-9.+-]+)*", attack) and len(readable) <= _NAME_BYTES:
        return readable
    digest = hashlib.sha256(attack.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^a-zA-Z0-9._+-]+', '_', readable)[: _NAME_BYTES - 9]}-{digest}"


def model_spec(name: str, width: int, blocks: tuple[int, ...], images: Images, dataset: SuspectDataset) -> ModelSpec:
    """The network for a dataset; it normalises with the mean and spread of the images as received."""
    return spec_for_images(name, width, blocks, images.num_classes, dataset.images)


def stage_seed(scenario: Scenario) -> int:
    """The seed that all training on a scenario derives its own from: independent of how the poison was drawn."""
    repeat = ("repeat", scenario.repeat) if scenario.repeat else ()
    return derive_seed("defense", scenario.seed, *repeat)
