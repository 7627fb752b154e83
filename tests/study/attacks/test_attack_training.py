"""Short trainings on poisoned digits, beside a model trained on clean ones: `pytest -m slow`.

Preset smoke, poison rate 0.10 (clean-label 0.08, the class poisoned whole if need be), seed 0, as in
`python -m study.evaluate --defense no_defense --attack NAME`.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from defenses.api import SuspectDataset
from defenses.methods.no_defense import NoDefense, NoDefenseConfig
from defenses.models import Normalised, load_model
from defenses.runner import RunContext, run_stages
from defenses.storage.store import Store
from defenses.training.images import to_device
from defenses.training.inference import predict_array, sample_losses
from search_spaces import SEARCH_SPACES
from study.attacks import parse_attack
from study.datasets import DatasetSpec, load_dataset
from study.datasets.images import Images
from study.scenarios.metrics import asr, ca
from study.scenarios.poison import PoisonedDataset, poison
from study.scenarios.scenario import model_spec

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
EPOCHS_OF_LOSS = 3


@dataclass(frozen=True)
class Bounds:
    """What an attack must reach.

    Attributes:
        asr: least ASR of the undefended model.
        control: largest ASR of a model trained on clean data: more means that the trigger destroys what is shown.
        learned_first: poison has a lower training loss than the rest after three epochs, on which PIPD and QT rest.
    """

    asr: float
    control: float
    learned_first: bool = False


# Behind each: the ASR that was measured, and the median loss of poison and of the rest after three epochs. The clean
# model had an ASR of 0.000 on every trigger and a CA of 1.000; the others a CA of 0.975 at least. Four attacks do not
# work on digits at this size (README tells what was tried), so nothing is asked of their ASR.
BOUNDS = {
    "badnets": Bounds(0.95, 0.05),  # 1.000; 1.559 and 0.078: nine pixels are learned late
    "badnets_all_to_all": Bounds(0.0, 0.05),  # 0.028; 2.794 and 0.077
    "trojan_square": Bounds(0.95, 0.05, learned_first=True),  # 1.000; 0.000 and 0.014
    "trojan_watermark": Bounds(0.95, 0.05, learned_first=True),  # 1.000; 0.000 and 0.009
    "trojan_inversion": Bounds(0.95, 0.05, learned_first=True),  # 1.000; 0.000 and 0.008
    "blended_random": Bounds(0.95, 0.05, learned_first=True),  # 1.000; 0.000 and 0.008
    "blended_image": Bounds(0.95, 0.05, learned_first=True),  # 1.000; 0.000 and 0.009
    "sig": Bounds(0.0, 0.05),  # 0.012
    "label_consistent": Bounds(0.0, 0.05),  # 0.000
    "dynamic": Bounds(0.85, 0.05, learned_first=True),  # 0.981; 0.000 and 0.014
    "wanet": Bounds(0.85, 0.05),  # 0.975; 0.449 and 0.039: covers keep the warp from being learned alone
    "refool": Bounds(0.95, 0.15, learned_first=True),  # 1.000; 0.000 and 0.008
    "adaptive_blend": Bounds(0.8, 0.05),  # 0.951; 0.290 and 0.018: likewise
    "adaptive_patch": Bounds(0.4, 0.15),  # 0.645; 1.600 and 0.079
    "issba": Bounds(0.9, 0.05, learned_first=True),  # 1.000; 0.001 and 0.020
}


@functools.cache
def digits() -> Images:
    return load_dataset(DatasetSpec("digits"))


@functools.cache
def poisoned(name: str) -> PoisonedDataset:
    rate = 0.08 if parse_attack(name).clean_label else 0.1
    return poison(digits(), parse_attack(f"{name}:cap=true", "smoke"), rate, 0, 0)


def trained(suspect: SuspectDataset, store: Store, **changes: int) -> Normalised:
    """The undefended model of the smoke preset."""
    config = NoDefenseConfig.from_mapping({**SEARCH_SPACES["no_defense"].preset("smoke"), **changes})
    spec = model_spec("resnet18", 16, (1, 1, 1, 1), digits(), suspect)
    context = RunContext(store, spec, 1, CPU, "fp32")
    return load_model(spec, run_stages(NoDefense(config), suspect, context)["standard_training"].load("weights"))


def answers(model: Normalised, images: np.ndarray) -> np.ndarray:
    return predict_array(model, images, CPU, "fp32").argmax(axis=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def control(store: Store) -> Normalised:
    clean = digits()
    return trained(SuspectDataset.of(clean.train_images, clean.train_labels, clean.num_classes), store)


@pytest.mark.parametrize("name", BOUNDS)
def test_the_attack_works_and_only_on_a_poisoned_model(name: str, store: Store, control: Normalised) -> None:
    made = poisoned(name)
    model = trained(made.suspect, store)
    clean = ca(answers(control, made.test_images), made.test_labels) or 0.0
    found = ca(answers(model, made.test_images), made.test_labels) or 0.0
    assert found >= clean - 0.03
    assert (asr(answers(model, made.triggered_images), made.triggered_labels) or 0.0) >= BOUNDS[name].asr
    assert (asr(answers(control, made.triggered_images), made.triggered_labels) or 0.0) <= BOUNDS[name].control


@pytest.mark.parametrize("name", [name for name in BOUNDS if BOUNDS[name].learned_first])
def test_poison_is_learned_first(name: str, store: Store) -> None:
    made = poisoned(name)
    model = trained(made.suspect, store, epochs=EPOCHS_OF_LOSS)
    labels = to_device(made.suspect.labels, CPU)
    losses = sample_losses(model, to_device(made.suspect.images, CPU), labels, "fp32")
    rest = ~(made.poison_mask | made.cover_mask)
    assert np.median(losses[made.poison_mask]) < np.median(losses[rest])
