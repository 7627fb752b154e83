"""The cleaned set, and a model: one that is trained on it, or the one that a method defends by its own means."""

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
from study.cleaning.studies import AS_RECEIVED, run_study, study_config
from study.cli.numbers import format_number
from study.config.objectives import CLEAN
from study.scenarios.oracle_defenses import find_defense
from tracking import names

if TYPE_CHECKING:
    from study.analysis.results import Results
    from study.datasets.own.data import OwnData
    from study.datasets.own.writing import Manifest

CLEANED, MODEL, MODEL_JSON = "cleaned", "model.safetensors", "model.json"
_QUARANTINE = "one for each class, then as many of quarantine, which mean that an image is not to be trusted"


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
    """A model that was trained and written.

    Attributes:
        path: of its weights.
        accuracy: on the test set; None where there is none.
        by: the method whose own model it is; empty for one that was trained on what is kept.
    """

    path: Path
    accuracy: float | None
    by: str = ""

    @property
    def what(self) -> str:
        """Which model it is, in words."""
        return f"the model that {self.by} defends" if self.by else "a model trained on it"

    @property
    def accuracy_text(self) -> str:
        """How good it is."""
        if self.accuracy is None:
            return "no test set to measure it on"
        return f"accuracy {format_number(self.accuracy)} on the test images"


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
    own = {"attacks": (CLEAN,), "seeds": config.seeds[:1], **AS_RECEIVED}
    study = study_config(config, "no_defense", part, options, name="retrained", **own)
    results = run_study(study, f"Training a model on the {int(kept.sum()):,} images that are kept")
    told = {"trained_on": int(kept.sum()), "left_out": int((~kept).sum())}
    return _write_model(config, data, results, told)


def defend(config: CleanConfig, data: "OwnData", space: str, options: Mapping[str, Any]) -> Retrained:
    """Has a method train its own model on all of the data, with the first seed, and writes it with its description.

    Args:
        space: of the method, which yields a model.
        options: of the study that trains it.

    Raises:
        UserError: it cannot be trained or written.
    """
    own = {"attacks": (CLEAN,), "seeds": config.seeds[:1], **AS_RECEIVED}
    study = study_config(config, space, source.whole(config, data), options, name=f"defended-{space}", **own)
    results = run_study(study, f"Training the model that {space} defends, seed {config.seeds[0]}")
    share = float(results.evaluations[names.FLAGGED_SHARE].iloc[0])
    told = {"method": space, "received": len(data.train.labels), "flagged": round(share * len(data.train.labels))}
    return _write_model(config, data, results, told, by=space)


def _write_model(
    config: CleanConfig, data: "OwnData", results: "Results", told: Mapping[str, Any], by: str = ""
) -> Retrained:
    """Writes the model of a study's only run.

    Args:
        told: what it was trained on.
        by: the method whose own model it is; empty for one that was trained on what is kept.
    """
    weights = _weights(results)
    accuracy = float(results.evaluations[names.CA].iloc[0]) if data.test is not None else None
    content = _description(results, data, told, accuracy)
    with disk_errors(config.folder):
        from safetensors.torch import save_file

        partial = config.folder / f".{MODEL}.partial"
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, partial)
        partial.replace(config.folder / MODEL)
        write_atomic(config.folder / MODEL_JSON, json.dumps(content, indent=1) + "\n")
    return Retrained(config.folder / MODEL, accuracy, by)


def _weights(results: "Results") -> dict[str, Any]:
    from defenses.storage.store import open_store

    stage, _, output = (find_defense(results.defense).weights or "").partition(".")
    stages = results.stages
    keys = stages.loc[stages["stage"] == stage, "key"]
    artifact = open_store(results.config.store_place).find(stage, str(keys.iloc[0])) if len(keys) else None
    if artifact is None:
        raise UserError(f"the model must be in the store, and is not: remove {results.folder}, and start again")
    weights: dict[str, Any] = artifact.load(output)
    return weights


def _description(
    results: "Results", data: "OwnData", trained: Mapping[str, Any], accuracy: float | None
) -> dict[str, Any]:
    """What is needed to use the model, and where it comes from.

    Args:
        trained: what it was trained on.
    """
    from defenses.models import spec_for_images
    from study.planning.plan import build_evaluation_context, fixed_fields
    from study.planning.searched_space import load_space
    from study.scenarios.evaluation import cached_images

    study, space, defense = results.config, load_space(results.config), find_defense(results.defense)
    context = build_evaluation_context(study, space, "cpu", "fp32")
    point = results.points[int(results.complete.index[0])]
    images = cached_images(context.dataset)
    spec = spec_for_images(context.model, context.width, context.blocks, images.num_classes, images.train_images)
    outputs = defense.outputs(images.num_classes)
    more = {} if outputs == images.num_classes else {"outputs": _QUARANTINE}
    return {
        "network": asdict(spec.with_outputs(outputs)),
        "classes": list(data.classes),
        "input": "RGB images, uint8 or float in [0, 255], [n, 3, size, size]; the network normalises them itself",
        "load": "defenses.models.load_model(ModelSpec(**network), weights)",
        **more,
        **trained,
        "recipe": asdict(defense.config_type.from_mapping({**fixed_fields(study, space), **point})),
        "seed": int(results.seeds[0]),
        "accuracy": accuracy,
        "accuracy_means": "share of the test images that are called by their label"
        if accuracy is not None
        else "not measured: the data have no test set",
    }
