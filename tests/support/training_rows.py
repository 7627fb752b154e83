"""Tiny settings of each defense with which all that its training does is on."""

from typing import Any

import numpy as np
from small_images import CLASSES, make_images

from defenses.api import SuspectDataset

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


def suspect() -> SuspectDataset:
    """96 images, of which eight have other labels."""
    images = make_images(96, 8)
    labels, rng = images.train_labels.copy(), np.random.default_rng(3)
    labels[:8] = rng.integers(0, CLASSES, 8)
    return SuspectDataset.of(images.train_images, labels, CLASSES)
