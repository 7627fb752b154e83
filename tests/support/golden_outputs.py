"""Golden outputs: what each stage gave when its version was last raised, on 128 small images.

python tests/golden_outputs.py    # writes outputs.npz and versions.json anew; CHANGELOG.md then gets a line
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
    "qt": {"pre_epochs": 2, "quarantine_epochs": 2, "dynamic_epochs": 1, "batch_size": 32, "backdoor_free_epochs": 2},
}

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


def detected() -> tuple[Arrays, dict[str, int]]:
    """What each stage of the detectors gives on made-up inputs, and its version.

    Made up, since on another processor a trained network's weights end up a little elsewhere, and who is flagged too.
    """
    torch.set_num_threads(1)
    images = make_images()
    weights = {"weights": cpu_weights(build_model(ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE), 1))}
    features, labels, _ = planted_features(0.25, labels=2, each=48)  # as many as there are images
    spc = {"agreement": np.arange(128) % 6 / 5, "probability": np.linspace(0.1, 0.9, 128)}
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("ac", "penultimate_features", weights),
        ("ac", "activation_clustering", {"features": features}),
        ("ac", "retraining", {"flagged": np.arange(128) < 24}),
        ("ss", "spectral_signatures", {"features": features}),
        ("scale_up", "scaled_predictions", weights),
        ("scale_up", "scale_up", spc),
    ]
    arrays: Arrays = {}
    versions = {}
    for name, stage, inputs in rows:
        own = labels if "features" in inputs else images.train_labels
        fields = SETTINGS["no_defense"] if stage == "retraining" else {}
        given = run_stage(DEFENSES[name], stage, inputs, own, images.train_images, **fields)
        given = {"loss": np.array(given["series"]["loss"])} if "series" in given else given
        arrays |= {f"{stage}.{output}": value for output, value in given.items()}
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
