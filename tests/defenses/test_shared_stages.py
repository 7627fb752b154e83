"""What several defenses share: features of the undefended model, and training anew on what was kept."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_images import CLASSES, SIZE, make_images

from defenses import DEFENSES
from defenses.api import DefenseResult, Outputs, Params, StageContext, SuspectDataset, silent
from defenses.methods.no_defense import NoDefenseConfig
from defenses.models import ModelSpec, build_model, load_model
from defenses.runner import RunContext, run_defense
from defenses.shared_stages import PENULTIMATE_FEATURES, STANDARD_TRAINING, cpu_weights, retraining
from defenses.storage.store import Store
from defenses.training.images import to_device
from defenses.training.inference import predict_logits

torch.set_num_threads(1)
RETRAINING = retraining("any.flagged")
PLAIN = Params(**dataclasses.asdict(NoDefenseConfig(epochs=2, lr=0.05, batch_size=16)))  # crops and flips included


def suspect() -> SuspectDataset:
    images = make_images(64)
    return SuspectDataset.of(images.train_images, images.train_labels, CLASSES)


def context(data: SuspectDataset, network: str = "resnet18", **changes: Any) -> StageContext:
    spec = ModelSpec(network, 4, (1, 1), CLASSES, SIZE)
    plain = StageContext("retraining", data, spec, torch.device("cpu"), "fp32", 3, silent)
    return dataclasses.replace(plain, **changes)


def flags(count: int) -> NDArray[np.bool_]:
    return np.arange(64) < count


def same(first: Outputs, second: Outputs) -> bool:
    return all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())


@pytest.mark.parametrize("network", ["resnet18", "preact_resnet18"])
def test_features_are_what_the_last_layer_is_given(network: str) -> None:
    data = suspect()
    given = context(data, network)
    model = build_model(given.model, 1)
    features = PENULTIMATE_FEATURES.run(given, {"weights": cpu_weights(model)}, Params())["features"]
    assert (features.shape, features.dtype) == ((64, 8), np.float32)
    logits = predict_logits(model, to_device(data.images, given.device), "fp32")
    assert torch.allclose(model.network.linear(torch.from_numpy(features)), logits, atol=1e-5)
    assert not model.network.linear._forward_pre_hooks


def test_with_nothing_flagged_retraining_gives_the_undefended_model() -> None:
    data = suspect()
    undefended = STANDARD_TRAINING.run(context(data, stage="standard_training"), {}, PLAIN)
    again = RETRAINING.run(context(data), {"flagged": flags(0)}, PLAIN)
    assert same(undefended, again)
    assert undefended["series"] == again["series"]
    assert not same(undefended, RETRAINING.run(context(data), {"flagged": flags(1)}, PLAIN))


def test_what_is_flagged_plays_no_part() -> None:
    data = suspect()
    images, labels = data.images.copy(), data.labels.copy()
    images[:20], labels[:20] = 255, 0
    other = SuspectDataset.of(images, labels, CLASSES)
    results = [RETRAINING.run(context(each), {"flagged": flags(20)}, PLAIN) for each in (data, other)]
    assert same(*results)


@pytest.mark.parametrize("kept", [0, 1])
def test_with_nothing_left_the_network_stays_as_it_was_initialised(kept: int) -> None:
    given = context(suspect())
    result = RETRAINING.run(given, {"flagged": flags(64 - kept)}, PLAIN)
    assert same(result, {"weights": cpu_weights(build_model(given.model, given.seed))})
    assert result["series"] == {"loss": []}
    load_model(given.model, result["weights"])


def test_its_epochs_are_those_of_retraining() -> None:
    stages = []

    def progress(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        stages.append((stage, step, steps))

    RETRAINING.run(context(suspect(), progress=progress), {"flagged": flags(4)}, PLAIN)
    assert stages == [("retraining", 1, 2), ("retraining", 2, 2)]


def test_detectors_share_the_undefended_model_and_the_training_after_equal_flags(tmp_path: Path) -> None:
    data = suspect()
    settings: dict[str, dict[str, Any]] = {"ac": {"max_share": 0.0}, "ss": {"budget": 0.0}, "scale_up": {}}

    def run(name: str) -> DefenseResult:
        config = DEFENSES[name].config_type.from_mapping({**vars(NoDefenseConfig(2, 0.05, 16)), **settings[name]})
        spec = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE)
        return run_defense(
            DEFENSES[name](config), data, RunContext(Store(tmp_path), spec, 3, torch.device("cpu"), "fp32")
        )

    hits = {name: {stage.stage: stage.hit for stage in run(name).stages} for name in settings}
    assert not hits["ac"]["standard_training"]
    assert hits["ss"] == {
        "standard_training": True,
        "penultimate_features": True,
        "layer3_features": False,
        "spectral_signatures": False,
        "retraining": True,
    }
    assert hits["scale_up"]["standard_training"]
