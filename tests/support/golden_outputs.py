"""Golden outputs: what each stage gave when its version was last raised, on 128 small images.

PYTHONPATH=.:tests/support python tests/support/golden_outputs.py

It writes outputs.npz and versions.json anew; CHANGELOG.md then gets a line
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attack_rows import ATTACK_ROWS, text_of
from numpy.typing import NDArray
from planted_features import planted_features, run_stage
from small_images import CLASSES, SIZE, make_images, make_reserve

from defenses import DEFENSES
from defenses.methods.pipd.isolation import isolate
from defenses.models import ModelSpec, build_model
from defenses.runner import RunContext, run_stages
from defenses.shared_stages import cpu_weights
from defenses.storage.store import Store
from study.attacks import ATTACKS, parse_attack
from study.scenarios.poison import COVERS_VERSION, VERSION, poison

GOLDEN = Path(__file__).parents[1] / "golden"

SETTINGS: dict[str, dict[str, Any]] = {
    "no_defense": {"epochs": 2, "lr": 0.01, "batch_size": 32},
    "pipd": {"pre_isolation_epochs": 2, "pre_isolation_lr": 0.01, "batch_size": 32, "selective_epochs": 2},
    # The pre-isolation is PIPD's to the last field: both pin the same numbers.
    "abl": {
        "pre_isolation_epochs": 2,
        "pre_isolation_lr": 0.01,
        "pre_isolation_schedule": "step",
        "batch_size": 32,
        "weight_decay": 5e-4,
        "isolation_rate": 0.1,
        "finetuning_epochs": 2,
        "finetuning_lr": 0.01,
        "unlearning_epochs": 2,
    },
    # Standard training is that of `no_defense` above. So soon the model is sure of little.
    "none": {
        "epochs": 2,
        "lr": 0.01,
        "batch_size": 32,
        "strong_probability": 0.3,
        "weak_probability": 0.3,
        "finetuning_epochs": 2,
    },
    # At so low a rate of Adam, whose first steps go by a gradient's sign, nearly nothing hangs on the processor.
    "asd": {
        "clean_images": 8,
        "class_aware_epochs": 2,
        "class_agnostic_epochs": 1,
        "meta_split_epochs": 2,
        "growth": 2,
        "growth_period": 1,
        "iterations": 2,
        "batch_size": 16,
        "lr": 1e-5,
        "meta_lr": 1e-5,
    },
    "dbd": {
        "contrastive_epochs": 2,
        "contrastive_lr": 0.01,
        "warm_up_epochs": 2,
        "semi_epochs": 2,
        "scored_split": "last",
        "iterations": 2,
        "batch_size": 16,
        "lr": 1e-5,
    },
    "qt": {"pre_epochs": 2, "quarantine_epochs": 2, "dynamic_epochs": 1, "batch_size": 32, "backdoor_free_epochs": 2},
}

OF_STAGES: dict[str, dict[str, Any]] = {
    "retraining": SETTINGS["no_defense"],
    "distinguishing": {"label_epochs": 1, "centre_epochs": 1, "first_batch_size": 32},
    "feature_movement": {"transform": "blur"},  # what is drawn takes the nearest pixel, and may round the other way
    "dst_contrastive": {"contrastive_epochs": 2, "contrastive_lr": 0.01, "contrastive_batch_size": 32},
    "dst_head": {"head_epochs": 2, "head_lr": 0.1, "head_batch_size": 32},
    "cognitive_masks": {"mask_steps": 4},
}
"""Settings of the stages that are given made-up inputs; the others have their defaults."""
WITH_CLEAN = ("scale_up", "ibd_psc", "dbalfa")
"""Detectors that are handed 32 clean images."""
UNPINNED = ("weights", "series", "children", "sizes")  # merges at equal heights may change places

GOLDEN_OPTIONS = {"dynamic": ":mask_lr=0.0003:pattern_lr=0.0003"}
"""Adam's first steps go by a gradient's sign, which another processor's kernels turn where it is near zero. At the
attack's own rates the trigger then moves by 3 levels in 8 steps, at these by 0.2 (four sets of kernels)."""

Arrays = dict[str, NDArray[Any]]


def poisoned_images() -> Arrays:
    """The twelve poisoned images of each attack, and its covers; apart for attacks that train something."""
    torch.set_num_threads(1)
    found = {}
    for name in ATTACK_ROWS:
        done = poison(make_images(), parse_attack(text_of(name) + GOLDEN_OPTIONS.get(name, "")), 0.09375, 0, 7)
        kind = "trained_poison" if ATTACKS[name].trained else "poison"
        found[f"{kind}.{name}"] = done.suspect.images[done.poison_mask | done.cover_mask]
    return found


def isolated() -> Arrays:
    """Scores and flags of a made-up table in which the first 20 samples fire three channels."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(200, 24)).astype(np.float32)
    table[:20, 3:6] += 4
    rows = np.arange(200)
    found = isolate(table, [12, 12], rows < 4, rows >= 160, beta=2.0, channels_per_tap=0.25, rounds=3)
    return {"isolate.scores": found.scores, "isolate.flagged": found.rounds[-1]}


def made_up_similarities() -> Arrays:
    """Of 128 samples and 40 clean images of two classes, in five layers."""
    rng = np.random.default_rng(6)
    classes, rows = np.arange(40) % 2, np.linspace(0.1, 0.9, 5)
    clean, left_out, own = (rows - rng.gamma(2.0, 0.02, (n, 5)) for n in (40, 40, 128))
    own[:24] -= 0.2
    return {
        "similarities": own.astype(np.float32),
        "predicted": np.arange(128) % 2,
        "clean_similarities": clean.astype(np.float32),
        "clean_left_out": left_out.astype(np.float32),
        "clean_classes": classes,
    }


def detected() -> tuple[Arrays, dict[str, int]]:
    """What each stage of the detectors gives on made-up inputs, and its version.

    Made up, since on another processor a trained network's weights end up a little elsewhere, and who is flagged too.
    """
    torch.set_num_threads(1)
    images = make_images()
    weights = {"weights": cpu_weights(build_model(ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE), 1))}
    features, labels, _ = planted_features(0.25, labels=2, each=48)  # as many as there are images
    pools = {"trusted": np.arange(128) >= 48, "flagged": np.arange(128) < 12}
    spc = {"agreement": np.arange(128) % 6 / 5, "probability": np.linspace(0.1, 0.9, 128), "clean_agreement": []}
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("ac", "penultimate_features", weights),
        ("ac", "activation_clustering", {"features": features}),
        ("ac", "retraining", {"flagged": np.arange(128) < 24}),
        ("ss", "spectral_signatures", {"features": features}),
        ("scale_up", "scaled_predictions", weights),
        ("scale_up", "clean_scaled_predictions", weights),
        ("scale_up", "scale_up", spc),
        ("ibd_psc", "psc_curve", weights),
        ("ibd_psc", "psc", {**weights, "layers": 2, "factor": 1.5}),
        ("ibd_psc", "ibd_psc", {"psc": np.linspace(0.1, 1.0, 128)}),
        ("dbalfa", "layer_similarities", weights),
        ("dbalfa", "dbalfa", made_up_similarities()),
        ("dst", "distinguishing", {}),
        ("dst", "feature_movement", weights),
        ("dst", "dst_contrastive", pools),
        ("dst", "dst_head", {**weights, **pools}),
        ("cd", "cognitive_masks", weights),
        ("flare", "bn_likelihoods", weights),
        ("flare", "flare_trees", {"rows": features[:, :6]}),
        ("cd", "cognitive_distillation", {"norms": np.linspace(20, 200, 128), "reference": np.linspace(90, 210, 16)}),
    ]
    arrays: Arrays = {}
    versions = {}
    for name, stage, inputs in rows:
        own = labels if "features" in inputs else images.train_labels
        fields = {**({"clean_images": 32} if name in WITH_CLEAN else {}), **OF_STAGES.get(stage, {})}
        given = run_stage(DEFENSES[name], stage, inputs, own, images.train_images, **fields)
        given = {**given, **given.get("series", {})}
        arrays |= {f"{stage}.{output}": np.array(value) for output, value in given.items() if output not in UNPINNED}
        versions |= {each.name: each.version for each in DEFENSES[name].stages}
    return arrays, versions


def losses() -> tuple[Arrays, dict[str, int]]:
    """The loss of each epoch of every stage that trains, and the versions of all stages."""
    torch.set_num_threads(1)
    suspect = poison(make_images(), parse_attack("badnets"), 0.1, 0, 7).suspect
    found: Arrays = {}
    versions = {}
    for name, settings in SETTINGS.items():
        defense = DEFENSES[name](DEFENSES[name].config_type.from_mapping(settings))
        with tempfile.TemporaryDirectory() as folder:
            spec = ModelSpec("preact_resnet18" if name == "qt" else "resnet18", 8, (1, 1, 1, 1), CLASSES, SIZE)
            place = torch.device("cpu")
            context = RunContext(Store(Path(folder)), spec, 3, place, "fp32", reserve=make_reserve())
            done = run_stages(defense, suspect, context)
            for stage in defense.stages:
                versions[stage.name] = stage.version
                if "series" in stage.outputs and "loss" in done[stage.name].load("series"):
                    found[f"{stage.name}.loss"] = np.array(done[stage.name].load("series")["loss"])
    return found, versions


def golden_outputs() -> tuple[Arrays, dict[str, int]]:
    """All that is pinned, and the versions at which it is."""
    trained, versions = losses()
    made_up, of_detectors = detected()
    attacks = {f"attack {name}": ATTACKS[name].version for name in ATTACK_ROWS}
    versions = {**versions, **of_detectors, **attacks, "poison": VERSION, "covers": COVERS_VERSION}
    return {**poisoned_images(), **isolated(), **made_up, **trained}, versions


def main() -> None:
    """Writes the files."""
    arrays, versions = golden_outputs()
    np.savez_compressed(GOLDEN / "outputs.npz", **arrays)  # type: ignore[arg-type]
    (GOLDEN / "versions.json").write_text(json.dumps(versions, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
