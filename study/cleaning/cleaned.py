"""The cleaned set, and a model that is trained on it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.storage.atomic_files import disk_errors, write_atomic
from study.cleaning import source
from study.cleaning.options import CleanConfig
from study.cleaning.studies import run_study, study_config
from study.config.objectives import CLEAN
from tracking import names

if TYPE_CHECKING:
    from study.analysis.results import Results
    from study.datasets.own.data import OwnData
    from study.datasets.own.writing import Manifest

CLEANED, MODEL, MODEL_JSON = "cleaned", "model.safetensors", "model.json"


def write_cleaned(config: CleanConfig, data: "OwnData", kept: NDArray[np.bool_]) -> "Manifest":
    """Writes what is kept in the input's own format, with a manifest.

    Args:
        kept: bool [N], of the training images.

    Raises:
        UserError: the input changed meanwhile, or the folder cannot be written.
    """
    from study.datasets.own.writing import write_subset

    return write_subset(data, kept, config.folder / CLEANED, copy=config.copy_files)


@dataclass(frozen=True)
class Retrained:
    """A model that was trained on what is kept.

    Attributes:
        path: of its weights.
        accuracy: on the test set; None where there is none.
    """

    path: Path
    accuracy: float | None


def retrain(config: CleanConfig, data: "OwnData", kept: NDArray[np.bool_], options: Mapping[str, Any]) -> Retrained:
    """Trains a model on what is kept, by the recipe of the undefended model, and writes it with its description.

    Args:
        kept: bool [N], of the training images.
        options: of the study that trains it.

    Raises:
        UserError: it cannot be trained or written.
    """
    options = {name: value for name, value in options.items() if name != "set"}  # fields of the methods
    part = source.kept_part(config, data, kept)
    own = {"attacks": (CLEAN,), "seeds": config.seeds[:1], "clean_control": "none"}
    study = study_config(config, "no_defense", part, options, name="retrained", **own)
    results = run_study(study, f"Training a model on the {int(kept.sum()):,} images that are kept")
    weights = _weights(results)
    accuracy = float(results.evaluations[names.CA].iloc[0]) if data.test is not None else None
    told = _description(results, data, kept, accuracy)
    with disk_errors(config.folder):
        from safetensors.torch import save_file

        partial = config.folder / f".{MODEL}.partial"
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, partial)
        partial.replace(config.folder / MODEL)
        write_atomic(config.folder / MODEL_JSON, json.dumps(told, indent=1) + "\n")
    return Retrained(config.folder / MODEL, accuracy)


def _weights(results: "Results") -> dict[str, Any]:
    from defenses.storage.store import open_store

    stages = results.stages
    keys = stages.loc[stages["stage"] == "standard_training", "key"]
    artifact = open_store(results.config.store_place).find("standard_training", str(keys.iloc[0]))
    if artifact is None:
        raise UserError(f"the model must be in the store, and is not: remove {results.folder}, and start again")
    weights: dict[str, Any] = artifact.load("weights")
    return weights


def _description(
    results: "Results", data: "OwnData", kept: NDArray[np.bool_], accuracy: float | None
) -> dict[str, Any]:
    """What is needed to use the model, and where it comes from."""
    from defenses.models import spec_for_images
    from study.planning.plan import build_evaluation_context
    from study.planning.searched_space import load_space
    from study.scenarios.evaluation import cached_images

    study = results.config
    context = build_evaluation_context(study, load_space(study), "cpu", "fp32")
    images = cached_images(context.dataset)
    spec = spec_for_images(context.model, context.width, context.blocks, images.num_classes, images.train_images)
    return {
        "network": asdict(spec),
        "classes": list(data.classes),
        "input": "RGB images, uint8 or float in [0, 255], [n, 3, size, size]; the network normalises them itself",
        "load": "defenses.models.load_model(ModelSpec(**network), weights)",
        "trained_on": int(kept.sum()),
        "left_out": int((~kept).sum()),
        "recipe": context.undefended,
        "seed": int(results.seeds[0]),
        "accuracy": accuracy,
        "accuracy_means": "share of the test images that are called by their label"
        if accuracy is not None
        else "not measured: the data have no test set",
    }
