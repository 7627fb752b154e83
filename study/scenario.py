"""A scenario: one dataset, poisoned by one attack at one rate with one seed, to be defended with one network."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from defenses.api import SuspectDataset
from defenses.models import ModelSpec
from defenses.seeds import derive_seed
from defenses.store import Artifact, Store, canonical
from study.attacks import parse_attack
from study.datasets.images import Images
from study.poison import VERSION, PoisonedDataset, poison


@dataclass(frozen=True)
class Scenario:
    """What a defense is put to.

    Attributes:
        attack: ``name`` or ``name:option=value``.
        poison_rate: share of the training set, in [0, 0.5]; 0 for the clean control alone.
        target_label: the attacker's class.
        seed: of the poisoning, of training and of everything drawn for this scenario.
    """

    attack: str
    poison_rate: float
    target_label: int
    seed: int

    @property
    def name(self) -> str:
        """For files, runs and tables: ``badnets-0.1-s0``."""
        attack = self.attack.replace(":", ".").replace("=", "_").replace("/", "_")
        return f"{attack}-{self.poison_rate:g}-s{self.seed}"

    def identity(self, images: Images) -> dict[str, Any]:
        """All that the poisoned data depend on."""
        attack = parse_attack(self.attack)
        return {
            "version": VERSION,
            "attack": attack.name,
            "options": dataclasses.asdict(attack.config),
            "poison_rate": self.poison_rate,
            "target_label": self.target_label,
            "seed": self.seed,
            "dataset": images.fingerprint,
        }

    def key(self, images: Images) -> str:
        """The poisoned data's key in the store."""
        return hashlib.sha256(canonical(self.identity(images)).encode()).hexdigest()


def model_spec(name: str, width: int, blocks: tuple[int, ...], images: Images, dataset: SuspectDataset) -> ModelSpec:
    """The network for a dataset; it normalises with the mean and spread of the images as received."""
    sample = dataset.images[:: max(1, len(dataset) // 5000)].reshape(-1, 3).astype(np.float64)
    mean = [round(float(v), 3) for v in sample.mean(axis=0)]
    std = [round(max(float(v), 1.0), 3) for v in sample.std(axis=0)]
    return ModelSpec(
        name,
        width,
        blocks,
        images.num_classes,
        images.image_size,
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
    )


def stored_poison(scenario: Scenario, images: Images, store: Store) -> tuple[PoisonedDataset, bool]:
    """The poisoned dataset, made once and read back afterwards, and whether it was there already.

    Only the rows that changed are stored, beside the clean data that every process has anyway.
    """
    artifact, hit = store.get_or_build(
        "poison", scenario.key(images), lambda: _changed_rows(scenario, images), scenario.identity(images)
    )
    return _read_back(artifact, images), hit


def _changed_rows(scenario: Scenario, images: Images) -> dict[str, Any]:
    made = poison(images, parse_attack(scenario.attack), scenario.poison_rate, scenario.target_label, scenario.seed)
    rows = np.flatnonzero(made.poison_mask | made.cover_mask)
    return {
        "rows": rows,
        "images": made.suspect.images[rows],
        "labels": made.suspect.labels,
        "poison_mask": made.poison_mask,
        "cover_mask": made.cover_mask,
        "triggered_images": made.triggered_images,
        "triggered_labels": made.triggered_labels,
        "preview": made.preview,
        "meta": made.meta,
        "fingerprint": made.suspect.fingerprint,
    }


def _read_back(artifact: Artifact, images: Images) -> PoisonedDataset:
    train_images = images.train_images.copy()
    train_images[artifact.load("rows")] = artifact.load("images")
    suspect = SuspectDataset(
        train_images, np.asarray(artifact.load("labels")), images.num_classes, artifact.load("fingerprint")
    )
    return PoisonedDataset(
        suspect=suspect,
        poison_mask=np.asarray(artifact.load("poison_mask")),
        cover_mask=np.asarray(artifact.load("cover_mask")),
        original_labels=images.train_labels,
        test_images=images.test_images,
        test_labels=images.test_labels,
        triggered_images=artifact.load("triggered_images"),
        triggered_labels=np.asarray(artifact.load("triggered_labels")),
        meta=artifact.load("meta"),
        preview=np.asarray(artifact.load("preview")),
    )


def stage_seed(scenario: Scenario) -> int:
    """The seed that a defense's stages derive theirs from: independent of how the poison was drawn."""
    return derive_seed("defense", scenario.seed)
