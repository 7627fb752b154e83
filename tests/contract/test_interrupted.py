"""Every stage that trains ends bit for bit the same when it is killed after each of its epochs and goes on."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import checkpoint_files, digests, run_through_kills
from small_images import CLASSES, SIZE, make_images, make_reserve

from defenses import DEFENSES
from defenses.api import Progress, SuspectDataset, silent
from defenses.models import ModelSpec
from defenses.runner import RunContext, run_defense
from defenses.storage.store import Store
from study.attacks import ATTACKS, parse_attack
from study.attacks.support.fitting import FitContext

torch.set_num_threads(1)

# Everything that draws or that has memory is on, and milestones, phases and releases lie between the epochs.
DEFENSE_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "no_defense": ("no_defense", {"epochs": 4, "lr": 0.05, "batch_size": 32, "schedule": "step"}),
    "pipd": (
        "pipd",
        {
            "pre_isolation_epochs": 4,
            "pre_isolation_lr": 0.05,
            "pre_isolation_augment": True,
            "batch_size": 32,
            "isolation_rate": 0.1,
            "selective_epochs": 4,
            "selective_clip_norm": 1.0,
        },
    ),
    "pipd_cleaning, selective": (
        "pipd_cleaning",
        {
            "pre_isolation_epochs": 2,
            "batch_size": 32,
            "isolation_rate": 0.1,
            "selective_epochs": 4,
            "snapshots": True,
        },
    ),
    "pipd_cleaning, unlearning": (
        "pipd_cleaning",
        {
            "pre_isolation_epochs": 2,
            "batch_size": 32,
            "isolation_rate": 0.1,
            "cleaning": "unlearning",
            "finetuning_epochs": 3,
            "unlearning_epochs": 4,
            "snapshots": True,
        },
    ),
    "abl": (
        "abl",
        {
            "pre_isolation_epochs": 2,
            "pre_isolation_lr": 0.05,
            "batch_size": 32,
            "isolation_rate": 0.1,
            "finetuning_epochs": 3,
            "finetuning_lr": 0.05,
            "unlearning_epochs": 4,
            "unlearning_batch_size": 4,
            "unlearning_clip_norm": 1.0,
        },
    ),
    "none, two rounds": (
        "none",
        {
            "epochs": 4,
            "lr": 0.1,
            "batch_size": 32,
            "schedule": "one_cycle",
            "augment": False,
            "strong_probability": 0.26,
            "weak_probability": 0.9,
            "rounds": 2,
            "finetuning_epochs": 4,
            "finetuning_lr": 0.01,
        },
    ),
    "qt": (
        "qt",
        {
            "pre_epochs": 3,
            "pre_quarantine_ratio": 0.5,
            "quarantine_epochs": 5,
            "dynamic_epochs": 3,
            "batch_size": 32,
            "lr": 0.05,
            "release_epochs": (2,),
            "release_threshold": 0.1,
            "backdoor_free_epochs": 3,
        },
    ),
    "qt, cumulative, frozen": (
        "qt",
        {
            "pre_epochs": 2,
            "pre_quarantine_ratio": 0.5,
            "quarantine_epochs": 5,
            "dynamic_epochs": 4,
            "frozen_epochs": 3,
            "epsilon_schedule": "cumulative",
            "quarantine_pass": "epoch_end",
            "keep_pre_quarantine": False,
            "batch_size": 32,
            "lr": 0.05,
            "backdoor_free_epochs": 2,
        },
    ),
    "dst": (
        "dst",
        {
            "label_epochs": 2,
            "centre_epochs": 3,
            "first_lr": 0.05,
            "first_batch_size": 32,
            "contrastive_epochs": 4,
            "contrastive_lr": 0.1,
            "contrastive_batch_size": 32,
            "head_epochs": 4,
            "head_lr": 0.5,
            "head_batch_size": 8,
        },
    ),
    "asd": (
        "asd",
        {
            "clean_images": 8,
            "class_aware_epochs": 4,
            "class_agnostic_epochs": 4,
            "meta_split_epochs": 4,
            "growth": 2,
            "growth_period": 2,
            "iterations": 2,
            "batch_size": 4,
            "meta_batch_size": 32,
        },
    ),
    "dbd": (
        "dbd",
        {
            "contrastive_epochs": 3,
            "contrastive_lr": 0.05,
            "contrastive_batch_size": 32,
            "warm_up_epochs": 3,
            "warm_up_batch_size": 32,
            "warm_up_statistics": "moved",
            "semi_epochs": 5,
            "scored_split": "last",
            "iterations": 2,
            "batch_size": 4,
        },
    ),
    # Both trainings, with flags in between.
    "ac": ("ac", {"epochs": 4, "lr": 0.05, "batch_size": 32, "rule": "smaller"}),
    "ss": ("ss", {"epochs": 4, "lr": 0.05, "batch_size": 32, "augment": False}),
    "scale_up": ("scale_up", {"epochs": 4, "lr": 0.05, "batch_size": 32, "input_noise": 0.02}),
    "ibd_psc": ("ibd_psc", {"epochs": 4, "lr": 0.05, "batch_size": 32, "clean_images": 0, "threshold": 0.5}),
    "dbalfa": ("dbalfa", {"epochs": 6, "lr": 0.1, "batch_size": 32, "augment": False, "clean_images": 32}),
    "flare": ("flare", {"epochs": 4, "lr": 0.05, "batch_size": 32, "dropped_layers": 2, "min_lifetime": 0.0}),
    "cd": ("cd", {"epochs": 4, "lr": 0.05, "batch_size": 32, "mask_steps": 2, "clean_images": 8}),
}

SURROGATE = "surrogate_width=4:surrogate_blocks=1,1:surrogate_epochs=3:surrogate_batch_size=32:surrogate_augment=true"
ATTACK_ROWS = {
    "dynamic": "widths=4,8:batch_size=32:mask_epochs=4:mask_milestones=2:joint_epochs=4:classifier_width=4"
    ":classifier_blocks=1,1:pattern_milestones=1,3:classifier_milestones=2",
    "issba": "width=4:steps=30:ramp_steps=5:hold_steps=1:batch_size=16:bit_accuracy=0.45",
    "label_consistent": f"{SURROGATE}:surrogate_adversarial_steps=1:steps=2",
    "trojan_inversion": f"{SURROGATE}:inversion_steps=3:probe_steps=2:candidates=4",
}


def test_every_defense_and_every_attack_that_trains_has_a_row() -> None:
    assert {defense for defense, _ in DEFENSE_ROWS.values()} == set(DEFENSES)
    assert set(ATTACK_ROWS) == {name for name in ATTACKS if ATTACKS[name].trained}


def suspect() -> SuspectDataset:
    images = make_images(96, 8)
    labels, rng = images.train_labels.copy(), np.random.default_rng(3)
    labels[:8] = rng.integers(0, CLASSES, 8)
    return SuspectDataset.of(images.train_images, labels, CLASSES)


@pytest.mark.parametrize("row", DEFENSE_ROWS)
def test_a_defense_killed_after_every_epoch_ends_the_same(row: str, tmp_path: Path) -> None:
    name, settings = DEFENSE_ROWS[row]
    defense = DEFENSES[name](DEFENSES[name].config_type(**settings))
    spec, data = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE), suspect()

    def run(folder: str, progress: Progress) -> Store:
        store = Store(tmp_path / folder, checkpoint_seconds=0)
        run_defense(defense, data, RunContext(store, spec, 5, torch.device("cpu"), "fp32", progress, make_reserve()))
        return store

    whole = run("whole", silent)
    told = run_through_kills(lambda progress: run("killed", progress))
    killed = Store(tmp_path / "killed")
    assert digests(killed) == digests(whole)
    trained = {stage.name for stage in defense.stages if stage.cached and "series" in stage.outputs}
    epochs = Counter((stage, step) for stage, step in told if stage in trained)
    assert {stage for stage, _ in epochs} == trained
    assert set(epochs.values()) == {2}  # killed, and once more from the epoch before: never from the start
    assert max(step for _, step in epochs) >= 4
    assert checkpoint_files(tmp_path) == []


@pytest.mark.parametrize("name", ATTACK_ROWS)
def test_an_attacks_training_killed_after_every_epoch_ends_the_same(name: str, tmp_path: Path) -> None:
    attack, images = parse_attack(f"{name}:{ATTACK_ROWS[name]}"), make_images(96, 8)

    def run(folder: str, progress: Progress) -> Store:
        store = Store(tmp_path / folder, checkpoint_seconds=0)
        attack.fit(images, FitContext(5, 1, store=store, progress=progress))
        return store

    whole = run("whole", silent)
    told = run_through_kills(lambda progress: run("killed", progress))
    assert digests(Store(tmp_path / "killed")) == digests(whole)
    assert set(Counter(told).values()) == {2}
    assert max(step for _, step in told) >= 3
    assert checkpoint_files(tmp_path) == []
