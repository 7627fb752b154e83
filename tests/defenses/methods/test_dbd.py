"""DBD's parts re-derived: features that no label has touched, the split by a bounded loss, and where it flags."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import SEMI_SUPERVISED_ENDS, SPEC, idle_field, mislabelled, run_with
from numpy.typing import NDArray
from small_images import CLASSES, stripes
from torch import Tensor

from defenses.api import StageContext, SuspectDataset, silent
from defenses.contrastive_stage import CONTRASTIVE_PRETRAINING
from defenses.methods.dbd import DBD, SPLIT, WARM_UP, DBDConfig
from defenses.models import load_model
from defenses.registry import UserError
from defenses.runner import RunContext, run_stages
from defenses.storage.store import Store
from defenses.training.inference import predict_logits
from defenses.training.losses import symmetric_cross_entropy
from study.scenarios.metrics import auroc

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "contrastive_epochs": 1,
    "contrastive_lr": 0.05,
    "contrastive_batch_size": 32,
    "warm_up_epochs": 2,
    "warm_up_batch_size": 32,
    "semi_epochs": 2,
    "iterations": 1,
    "batch_size": 4,
    "ramp_epochs": 8,
}
BACKBONE = ("network.conv", "network.bn", "network.layer")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def params(stage: Any, **values: Any) -> Any:
    config = DBDConfig(**{**TINY, **values})
    return type("Params", (), {name: getattr(config, name) for name in stage.reads})


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("statistics", ["kept", "moved"])
def test_the_warm_up_trains_the_last_layer_alone(statistics: str, store: Path) -> None:
    """The published code's BatchNorm drifts although nothing of it is trained."""
    done = run_with(DBD, {**TINY, "warm_up_statistics": statistics}, store)
    before, after = done["contrastive_pretraining"].load("weights"), done["dbd_warm_up"].load("weights")
    changed = moved(before, after)
    assert {name for name in changed if name.startswith("network.linear.")}
    rest = {name for name in changed if name.startswith(BACKBONE)}
    assert all("running" in name or "num_batches" in name for name in rest)
    assert bool(rest) == (statistics == "moved")
    # Adam has moments of what it moved and of nothing else.
    assert {name.split(".")[1] for name in done["dbd_warm_up"].load("optimiser")} == {"step", "exp_avg", "exp_avg_sq"}
    assert len(done["dbd_warm_up"].load("optimiser")) == 2 * 3
    later = done["dbd_semi_supervised"].load("weights")
    assert {name for name in moved(after, later) if name.endswith("conv1.weight")}


def test_the_high_loss_half_is_flagged_and_the_loss_is_the_score(store: Path) -> None:
    done = run_with(DBD, TINY, store)
    model, data = load_model(SPEC, done["dbd_warm_up"].load("weights")), mislabelled()
    logits = predict_logits(model, torch.from_numpy(data.images), "fp32").double()
    losses = symmetric_cross_entropy(logits, torch.from_numpy(data.labels), 0.1, 1.0).numpy()
    scores, flagged = done["dbd_split"].load("scores"), done["dbd_split"].load("flagged")
    assert scores == pytest.approx(losses, abs=1e-9)
    assert flagged.sum() == 48
    assert scores[flagged].min() >= scores[~flagged].max()
    series = done["dbd_semi_supervised"].load("series")
    assert series["labelled"] == [48, 48]
    assert np.array_equal(done["dbd_semi_supervised"].load("flagged_series")[0], flagged)
    assert run_with(DBD, {**TINY, "labelled_share": 0.75}, store)["dbd_split"].load("flagged").sum() == 24


def test_which_split_flags_changes_nothing_of_the_model(store: Path) -> None:
    first, last = (run_with(DBD, {**TINY, "scored_split": which}, store) for which in ("first", "last"))
    one, other = (done["dbd_semi_supervised"].load("weights") for done in (first, last))
    assert not moved(one, other)
    assert first["dbd_split"].digests["scores"] != last["dbd_split"].digests["scores"]
    rows = last["dbd_split"].load("flagged_series")
    assert np.array_equal(rows, first["dbd_semi_supervised"].load("flagged_series"))


def test_the_clock_goes_on_from_the_warm_up(store: Path) -> None:
    """As published it starts at 10 of 190 epochs; here at 2 of 8, of a weight of 16."""
    series = run_with(DBD, {**TINY, "lambda_u": 16.0}, store)["dbd_semi_supervised"].load("series")
    parts = zip(series["loss"], series["labelled_loss"], series["unlabelled_loss"], strict=True)
    weights = [(loss - on_labels) / on_guesses for loss, on_labels, on_guesses in parts]
    assert weights == pytest.approx([16 * 2.5 / 8, 16 * 3.5 / 8])


def test_epochs_and_their_cost_follow_the_budget() -> None:
    """The published settings at 50,000 samples: 200 + 3 + 190 epochs of 4.8 and a split."""

    def cost(**values: Any) -> float:
        config = DBDConfig(**values)
        read = [type("Params", (), {name: getattr(config, name) for name in stage.reads}) for stage in DBD.stages]
        return sum(stage.cost(own, 50_000) for stage, own in zip(DBD.stages, read, strict=True) if stage.cost)

    each = 1024 * 64 * (3 + 2 / 3) / 50_000 + 1 / 3
    assert cost() == pytest.approx(200 + 10 / 3 + 190 * each)
    assert cost(scored_split="last") == pytest.approx(cost())
    assert cost(budget_fraction=0.1) == pytest.approx(20 + 1 / 3 + 19 * each)


# What the method promises


def with_corner(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    images = images.copy()
    images[:, 13:, 13:] = 255
    return images


def test_poison_that_shows_another_class_has_a_high_loss_and_shuffled_labels_have_no_gap() -> None:
    images, labels = stripes(192, np.random.default_rng(0))
    poison = np.zeros(192, dtype=bool)
    poison[np.flatnonzero(labels != 0)[:16]] = True
    images[poison] = with_corner(images[poison])
    poisoned = np.where(poison, 0, labels)
    spec = dataclasses.replace(SPEC, width=8)

    def context(stage: str, given: NDArray[np.int64]) -> StageContext:
        return StageContext(stage, SuspectDataset.of(images, given, CLASSES), spec, CPU, "fp32", 3, silent)

    contrastive = {"contrastive_epochs": 8, "contrastive_lr": 0.1, "contrastive_batch_size": 64, "view_flip": False}
    settings = {**contrastive, "warm_up_epochs": 10, "warm_up_batch_size": 16, "lr": 0.01, "weak_views": "plain"}
    learned = CONTRASTIVE_PRETRAINING.run(
        context("contrastive_pretraining", labels), {}, params(CONTRASTIVE_PRETRAINING, **settings)
    )

    def scores(given: NDArray[np.int64]) -> NDArray[np.float64]:
        warm = WARM_UP.run(context("dbd_warm_up", given), learned, params(WARM_UP, **settings))
        scored: NDArray[np.float64] = SPLIT.run(context("dbd_split", given), warm, params(SPLIT, **settings))["scores"]
        return scored

    losses = scores(poisoned)
    assert np.median(losses[poison]) > np.median(losses[~poison]) + 1
    gap = auroc(losses, poison)
    assert gap is not None
    assert gap > 0.85
    shuffled = auroc(scores(np.random.default_rng(1).permutation(labels)), poison)
    assert shuffled == pytest.approx(0.5, abs=0.2)  # 16 images have a standard error of 0.08
    permuted = [auroc(losses, np.random.default_rng(seed).permutation(poison)) for seed in range(30)]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.03)


def test_one_sample_cannot_be_split(tmp_path: Path) -> None:
    data = SuspectDataset.of(mislabelled().images[:1], mislabelled().labels[:1], CLASSES)
    with pytest.raises(UserError, match="needs at least 2, got 1"):
        run_stages(DBD(DBDConfig(**TINY)), data, RunContext(Store(tmp_path), SPEC, 5, CPU, "fp32"))


# Fields


ENDS: dict[str, tuple[Any, Any]] = {
    "budget_fraction": (0.5, 1.0),
    "contrastive_epochs": (1, 2),
    "contrastive_read_epoch": (1, 2),
    "contrastive_lr": (1e-3, 0.1),
    "contrastive_schedule": ("constant", "one_cycle"),
    "contrastive_batch_size": (16, 96),
    "contrastive_weight_decay": (0.0, 0.5),
    "contrastive_temperature": (0.05, 2.0),
    "smallest_part": (0.1, 1.0),
    "view_flip": (False, True),
    "momentum": (0.0, 0.9),
    **SEMI_SUPERVISED_ENDS,
    "warm_up_epochs": (1, 3),
    "warm_up_batch_size": (8, 96),
    "warm_up_statistics": ("kept", "moved"),
    "semi_epochs": (1, 3),
    "scored_split": ("first", "last"),
}


def test_every_field_has_ends() -> None:
    assert set(ENDS) == {field.name for field in dataclasses.fields(DBDConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    base = {**TINY, "contrastive_epochs": 2} if field == "contrastive_read_epoch" else TINY
    assert idle_field(DBD, base, field, ENDS[field], store) == ""
