"""Poisoned datasets and the trained parts of attacks, made once and kept in the store."""

import hashlib
import time
from typing import Any

import numpy as np
import torch

from defenses.api import Progress, StageRun, SuspectDataset, silent
from defenses.numerics import numerics
from defenses.storage.array_file import ArrayFile, with_rows
from defenses.storage.atomic_files import canonical
from defenses.storage.store import Artifact, Store
from study.attacks.api import Pixels
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.scenarios.poison import PoisonedDataset, knows_poison, poison
from study.scenarios.scenario import Scenario

CPU = torch.device("cpu")
_ROWS = 64  # images that are copied at once


def trigger_key(scenario: Scenario, images: Images, device: torch.device = CPU) -> str:
    """Names what an attack trains for a scenario: the same at every poison rate."""
    identity = _identity(scenario, images, device)
    del identity["poison_rate"]
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def poison_key(scenario: Scenario, images: Images, device: torch.device = CPU) -> str:
    """Names a scenario's poisoned data in the store."""
    return hashlib.sha256(canonical(_identity(scenario, images, device)).encode()).hexdigest()


def _identity(scenario: Scenario, images: Images, device: torch.device) -> dict[str, Any]:
    """What a scenario is, and what computes it: attacks blend in floats, and some train networks."""
    return {**scenario.identity(images), "numerics": numerics(device)}


def stored_trigger(
    scenario: Scenario, images: Images, store: Store, device: torch.device = CPU, progress: Progress = silent
) -> list[StageRun]:
    """Trains what an attack needs, once a dataset, seed and options; what took part and what it cost.

    Nothing for attacks that train nothing, and for scenarios whose poisoned data are there already without it.
    """
    attack = scenario.parsed
    key = trigger_key(scenario, images, device)
    known = store.find("trigger", key)
    if not attack.trained or (known is None and store.find("poison", poison_key(scenario, images, device)) is not None):
        return []
    context = FitContext(scenario.seed, scenario.target_label, device, store, progress)

    def build() -> dict[str, Any]:
        attack.fit(images, context)
        return {"parts": [[run.stage, run.key, run.built_seconds] for run in context.runs]}

    started = time.perf_counter()
    artifact, hit = store.get_or_build("trigger", key, build, {"scenario": scenario.name})
    if not hit:
        return context.runs
    parts = artifact.load("parts")
    waited = (time.perf_counter() - started) / max(1, len(parts))
    return [StageRun(stage, part, True, waited, seconds) for stage, part, seconds in parts]


def stored_poison(
    scenario: Scenario, images: Images, store: Store, device: torch.device = CPU
) -> tuple[PoisonedDataset, bool]:
    """The poisoned dataset, made once and read back afterwards, and whether it was there already.

    Only the rows that changed are stored, beside the clean data that every process has anyway; of data that somebody
    else poisoned, all.
    """
    artifact, hit = store.get_or_build(
        "poison",
        poison_key(scenario, images, device),
        lambda: _outputs(scenario, images, store, device),
        _identity(scenario, images, device),
    )
    return _read_back(artifact, images), hit


def _outputs(scenario: Scenario, images: Images, store: Store, device: torch.device) -> dict[str, Any]:
    context = FitContext(scenario.seed, scenario.target_label, device, store)
    attack, key = scenario.parsed, poison_key(scenario, images, device)

    def file(name: str, shape: tuple[int, ...]) -> ArrayFile:
        return store.array_file("poison", key, name, shape, np.uint8)

    triggered: list[ArrayFile] = []

    def room(shape: tuple[int, ...]) -> Pixels:
        triggered.append(file("triggered_images", shape))
        return triggered[0].writable()

    made = poison(images, attack, scenario.poison_rate, scenario.target_label, scenario.seed, context, room)
    every = np.arange(len(made.suspect))
    rows = every if attack.received else np.flatnonzero(made.poison_mask | made.cover_mask)
    changed = file("images", (len(rows), *made.suspect.images.shape[1:]))
    for start in range(0, len(rows), _ROWS):
        changed.write(start, made.suspect.images[rows[start : start + _ROWS]])
    return {
        "rows": rows,
        "images": changed,
        "labels": made.suspect.labels,
        "original_labels": made.original_labels,
        "poison_mask": made.poison_mask,
        "cover_mask": made.cover_mask,
        "poison_known": made.poison_known,
        "triggered_images": triggered[0] if triggered else made.triggered_images,
        "triggered_labels": made.triggered_labels,
        "preview": made.preview,
        "meta": made.meta,
        "fingerprint": made.suspect.fingerprint,
    }


def _read_back(artifact: Artifact, images: Images) -> PoisonedDataset:
    rows, labels = artifact.load("rows"), np.asarray(artifact.load("labels"))
    if len(rows) == len(labels):
        train_images = artifact.load("images")
    else:
        train_images = with_rows(images.train_images, rows)
        if len(rows):
            train_images[rows] = artifact.load("images")
    return PoisonedDataset(
        suspect=SuspectDataset(train_images, labels, images.num_classes, artifact.load("fingerprint")),
        poison_mask=np.asarray(artifact.load("poison_mask")),
        cover_mask=np.asarray(artifact.load("cover_mask")),
        original_labels=np.asarray(artifact.load("original_labels")),
        test_images=images.test_images,
        test_labels=images.test_labels,
        triggered_images=artifact.load("triggered_images"),
        triggered_labels=np.asarray(artifact.load("triggered_labels")),
        meta=artifact.load("meta"),
        preview=np.asarray(artifact.load("preview")),
        # What was stored before own data were told from clean ones claims to know of both.
        poison_known=artifact.load("poison_known") and knows_poison(images, len(rows)),
    )
