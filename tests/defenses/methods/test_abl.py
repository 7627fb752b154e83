"""ABL's parts re-derived: Flooding's gradient, who is isolated, ascent on them, and what random ones would do."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import idle_field, mislabelled, run_with
from numpy.typing import NDArray
from small_images import make_images
from torch import Tensor, nn
from torch.nn import functional

from defenses import DEFENSES
from defenses.api import StageContext, SuspectDataset, silent
from defenses.methods.abl import ABL, ABL_ISOLATION, FINETUNING, UNLEARNING, ABLConfig
from defenses.models import ModelSpec, load_model
from defenses.registry import UserError
from defenses.runner import RunContext, run_stages
from defenses.shared_stages import PRE_ISOLATION
from defenses.storage.store import Store
from defenses.training.inference import predict_array
from defenses.training.losses import local_gradient_ascent
from study.scenarios.metrics import auroc

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY = {
    "pre_isolation_epochs": 2,
    "pre_isolation_lr": 0.05,
    "gamma": 1.3,
    "batch_size": 32,
    "isolation_rate": 0.1,
    "finetuning_epochs": 3,
    "finetuning_lr": 0.05,
    "unlearning_epochs": 2,
    "unlearning_lr": 0.005,
    "unlearning_batch_size": 4,
    "unlearning_clip_norm": 1.0,
}


@pytest.mark.parametrize("b", [0.3, 1.2, 4.0])
def test_flooding_has_the_gradient_of_lga(b: float) -> None:
    """|L - b| + b and sign(L - gamma) * L, with gamma = b: below it, above it, and far above it."""
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(20, 5, generator=rng), torch.arange(20) % 5

    def gradient(loss: Any) -> Tensor:
        asked = logits.clone().requires_grad_()
        torch.autograd.backward(loss(asked))
        assert asked.grad is not None
        return asked.grad

    flooding = gradient(lambda x: (functional.cross_entropy(x, labels) - b).abs() + b)
    assert torch.allclose(flooding, gradient(lambda x: local_gradient_ascent(x, labels, b, "batch")), atol=1e-7)
    assert flooding.abs().sum() > 0


def isolate(losses: NDArray[np.float64], **values: Any) -> dict[str, Any]:
    data = SuspectDataset.of(np.zeros((len(losses), 8, 8, 3), np.uint8), np.zeros(len(losses), np.int64), 2)
    context = StageContext("abl_isolation", data, ModelSpec(), CPU, "fp32", 0, silent)
    params = SimpleNamespace(isolation_rate=ABLConfig(**values).isolation_rate)
    return ABL_ISOLATION.run(context, {"sample_losses": losses}, params)


def test_the_lowest_share_is_flagged_and_the_score_is_the_loss_turned() -> None:
    losses = np.random.default_rng(0).permutation(1000).astype(np.float64)
    isolated = isolate(losses)  # r = 1 %
    assert np.array_equal(isolated["flagged"], losses < 10)
    assert np.array_equal(isolated["scores"], -losses)
    assert isolate(losses, isolation_rate=0.2)["flagged"].sum() == 200
    # At r = 1 % and a poison rate of 5 %, even a perfect order flags a fifth of the poison.
    poison = losses < 50
    assert (isolated["flagged"] & poison).sum() / poison.sum() == pytest.approx(0.2)


def test_scores_of_a_permuted_truth_say_nothing() -> None:
    rng = np.random.default_rng(1)
    losses, poison = rng.exponential(size=2000), np.arange(2000) < 100
    losses[poison] *= 0.01
    scores = isolate(losses)["scores"]
    truth = auroc(scores, poison)
    assert truth is not None
    assert truth > 0.95
    assert np.mean([auroc(scores, rng.permutation(poison)) for _ in range(20)]) == pytest.approx(0.5, abs=0.03)


def test_too_few_images_to_keep_two_are_refused_in_a_line() -> None:
    with pytest.raises(UserError) as error:
        isolate(np.array([1.0, 2.0, 3.0]), isolation_rate=0.5)
    assert str(error.value) == (
        "ABL must keep at least 2 samples to train on, but isolation_rate = 0.5 isolates 2 of 3: choose a smaller one"
    )


def test_with_the_same_fields_pipd_has_trained_the_model_already(tmp_path: Path) -> None:
    shared = {
        name: TINY[name]
        for name in ("pre_isolation_epochs", "pre_isolation_lr", "gamma", "batch_size", "isolation_rate")
    }
    run_with(DEFENSES["pipd"], {**shared, "selective_epochs": 1}, tmp_path)
    done = run_with(ABL, {**TINY, "weight_decay": 5e-4, "pre_isolation_schedule": "step"}, tmp_path)
    assert {name: stage.run.hit for name, stage in done.items()} == {
        "pre_isolation": True,
        "abl_isolation": False,
        "finetuning": False,
        "unlearning": False,
    }


# Ascent

SPEC = ModelSpec("resnet18", 4, (1, 1), 4, 16)


def context(data: SuspectDataset, stage: str = "unlearning") -> StageContext:
    return StageContext(stage, data, SPEC, CPU, "fp32", 0, silent)


def params(stage: Any, **values: Any) -> SimpleNamespace:
    config = ABLConfig(**{**TINY, **values})
    return SimpleNamespace(**{name: getattr(config, name) for name in stage.reads})


def test_one_step_of_unlearning_is_ascent_with_batch_statistics_at_rest() -> None:
    data = mislabelled()
    weights = PRE_ISOLATION.run(context(data), {}, params(PRE_ISOLATION))["weights"]
    flagged = np.arange(len(data)) < 10
    one_step = {"unlearning_epochs": 1, "unlearning_batch_size": 10, "momentum": 0.0, "unlearning_weight_decay": 0.0}
    unlearned = UNLEARNING.run(
        context(data), {"weights": weights, "flagged": flagged}, params(UNLEARNING, **one_step, unlearning_lr=0.1)
    )
    model = load_model(SPEC, weights).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.from_numpy(data.images[:10]).permute(0, 3, 1, 2)
    loss = functional.cross_entropy(model(images), torch.from_numpy(data.labels[:10]))
    torch.autograd.backward(loss)
    assert unlearned["series"]["loss"] == pytest.approx([-loss.item()], rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            unlearned["weights"][name], parameter.detach() + 0.1 * parameter.grad, rtol=1e-3, atol=1e-5
        )
    for name, buffer in model.named_buffers():
        assert torch.equal(unlearned["weights"][name], buffer)


@dataclasses.dataclass
class Backdoored:
    """A model with a backdoor, and what shows it: clean images with their labels, and triggered ones."""

    data: SuspectDataset
    weights: dict[str, Tensor]
    losses: NDArray[np.float64]
    poison: NDArray[np.bool_]

    def rates(self, weights: dict[str, Tensor]) -> tuple[float, float]:
        """CA and ASR on the training images: enough to see one of them collapse."""
        model, clean = load_model(SPEC, weights), ~self.poison
        right = predict_array(model, self.data.images[clean], CPU, "fp32").argmax(axis=1) == self.data.labels[clean]
        away = clean & (self.data.labels != 0)
        hit = predict_array(model, triggered(self.data.images[away]), CPU, "fp32").argmax(axis=1) == 0
        return float(right.mean()), float(hit.mean())


def triggered(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    images = images.copy()
    images[:, 10:16, 10:16] = 255
    return images


@pytest.fixture(scope="module")
def backdoored() -> Backdoored:
    """192 images under strong noise, of which 20 carry a white corner and label 0, and the model that LGA makes."""
    plain, rng = make_images(192, 8), np.random.default_rng(7)
    labels = plain.train_labels.copy()
    images = (0.3 * plain.train_images + 0.7 * rng.integers(0, 256, plain.train_images.shape)).astype(np.uint8)
    poison = np.zeros(192, dtype=bool)
    poison[np.flatnonzero(labels != 0)[:20]] = True
    images[poison], labels[poison] = triggered(images[poison]), 0
    data = SuspectDataset.of(images, labels, 4)
    values = {"pre_isolation_epochs": 12, "pre_isolation_lr": 0.1, "pre_isolation_schedule": "one_cycle"}
    trained = PRE_ISOLATION.run(
        context(data, "pre_isolation"), {}, params(PRE_ISOLATION, **values, gamma=0.3, batch_size=16)
    )
    return Backdoored(data, trained["weights"], np.asarray(trained["sample_losses"]), poison)


def test_lga_holds_clean_samples_at_gamma_and_lets_poison_fall(backdoored: Backdoored) -> None:
    losses, poison = backdoored.losses, backdoored.poison
    assert 0.15 < losses[~poison].mean() < 0.6  # gamma is 0.3
    assert losses[poison].mean() < 0.05
    lowest = isolate(losses, isolation_rate=0.05)["flagged"]
    assert poison[lowest].mean() >= 0.9


def test_only_the_samples_that_hold_the_backdoor_unlearn_it(backdoored: Backdoored) -> None:
    """The control: as many samples isolated at random cost no less accuracy, and leave most of the backdoor."""

    def cleaned(flagged: NDArray[np.bool_]) -> tuple[float, float]:
        data, inputs = backdoored.data, {"weights": backdoored.weights, "flagged": flagged}
        gentle = {"finetuning_weight_decay": 0.05, "finetuning_augment": False, "finetuning_schedule": "step"}
        finetuning = params(FINETUNING, **gentle, finetuning_epochs=8, batch_size=16)
        tuned = FINETUNING.run(context(data, "finetuning"), inputs, finetuning)["weights"]
        ascent = {"unlearning_epochs": 10, "unlearning_lr": 0.01, "unlearning_clip_norm": 0.1}
        ascending = params(UNLEARNING, **ascent, unlearning_batch_size=32)
        return backdoored.rates(UNLEARNING.run(context(data), {**inputs, "weights": tuned}, ascending)["weights"])

    lowest = isolate(backdoored.losses, isolation_rate=0.1)["flagged"]
    ca, asr = cleaned(lowest)
    ca_random, asr_random = cleaned(np.random.default_rng(0).permutation(lowest))
    assert asr < 0.15
    assert ca > 0.9
    assert asr_random > 0.4
    assert ca_random <= ca


ENDS: dict[str, tuple[Any, Any]] = {
    "pre_isolation_epochs": (1, 3),
    "read_epoch": (1, 2),
    "pre_isolation_lr": (1e-4, 0.2),
    "pre_isolation_schedule": ("constant", "one_cycle"),
    "pre_isolation_augment": (False, True),
    "gamma": (0.0, 2.0),
    "granularity": ("batch", "sample"),
    "batch_size": (16, 64),
    "momentum": (0.0, 0.9),
    "weight_decay": (0.0, 0.1),
    "isolation_rate": (0.01, 0.5),
    "finetuning_epochs": (0, 3),
    "finetuning_lr": (1e-4, 0.1),
    "finetuning_schedule": ("constant", "step"),
    "finetuning_augment": (False, True),
    "finetuning_weight_decay": (0.0, 0.1),
    "unlearning_epochs": (1, 3),
    "unlearning_lr": (1e-5, 0.02),
    "unlearning_batch_size": (2, 128),
    "unlearning_weight_decay": (0.0, 0.1),
    "unlearning_clip_norm": (None, 1e-3),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_every_field_has_ends() -> None:
    assert set(ENDS) == {field.name for field in dataclasses.fields(ABLConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    assert idle_field(ABL, TINY, field, ENDS[field], store) == ""


def test_nothing_kept_from_fine_tuning_still_gives_a_model(tmp_path: Path) -> None:
    done = run_stages(
        ABL(ABLConfig(**{**TINY, "finetuning_epochs": 0})),
        mislabelled(),
        RunContext(Store(tmp_path), SPEC, 0, CPU, "fp32"),
    )
    assert done["finetuning"].load("series") == {}
    assert done["finetuning"].digests["weights"] == done["pre_isolation"].digests["weights"]
