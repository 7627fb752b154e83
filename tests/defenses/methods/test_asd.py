"""ASD's parts re-derived: sizes of the pool, who joins it, the split by a virtual epoch, and bad input."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import SEMI_SUPERVISED_ENDS, SPEC, idle_field, mislabelled, run_with
from small_images import CLASSES, SIZE, make_images, make_reserve
from torch.nn import functional

from defenses.api import CleanReserve, StageContext, SuspectDataset, silent
from defenses.methods.asd import (
    ASD,
    CLASS_AWARE,
    META_SPLIT,
    ASDConfig,
    grown,
    learned_layers,
    lowest_of_each_class,
    virtual_copy,
)
from defenses.methods.semi_supervised import Trainee, lowest_share
from defenses.models import ModelSpec, build_model, load_model
from defenses.registry import UserError
from defenses.runner import RunContext, run_stages
from defenses.storage.store import Store
from defenses.training.inference import predict_logits
from defenses.training.losses import symmetric_cross_entropy

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "clean_images": 8,
    "class_aware_epochs": 3,
    "class_agnostic_epochs": 1,
    "meta_split_epochs": 2,
    "growth": 3,
    "growth_period": 1,
    "iterations": 1,
    "batch_size": 4,
    "ramp_epochs": 4,
    "meta_batch_size": 32,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


# Pools


def test_the_pool_grows_as_published() -> None:
    """60 epochs, 10 of each of 10 classes every 5 epochs, beside 100 clean images: 100 to 1,200; then half of all."""
    sizes = [100 + 10 * grown(epoch, 10, 5) for epoch in range(60)]
    assert sizes[:6] == [100] * 5 + [200]
    assert sizes[55:] == [1200] * 5
    assert sorted(set(sizes)) == list(range(100, 1201, 100))
    assert lowest_share(np.arange(50_000.0), 0.5).sum() == 25_000


@pytest.mark.parametrize(("budget", "epochs"), [(0.2, 12), (0.5, 30), (0.1, 6)])
def test_with_less_budget_the_pool_ends_as_large(budget: float, epochs: int) -> None:
    sizes = [grown(epoch, 10, 5 * budget) for epoch in range(epochs)]
    assert sizes == [10 * ((epoch * 60 // epochs) // 5) for epoch in range(epochs)]
    assert sizes[-1] >= 100


@pytest.mark.parametrize(("n", "share", "labelled"), [(7, 0.5, 4), (1437, 0.5, 719), (10, 0.3, 3), (3, 0.99, 2)])
def test_never_more_than_the_rest_is_left_out_and_never_none(n: int, share: float, labelled: int) -> None:
    losses = np.random.default_rng(0).permutation(n).astype(np.float64)
    assert np.array_equal(lowest_share(losses, share), losses < labelled)


def test_the_lowest_of_each_class_join() -> None:
    losses = np.array([5.0, 1, 3, 2, 9, 8, 7, 6])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    assert np.flatnonzero(lowest_of_each_class(losses, labels, 3, 2)).tolist() == [1, 3, 5, 6, 7]
    assert not lowest_of_each_class(losses, labels, 3, 0).any()


def test_pools_of_a_run_have_these_sizes(store: Path) -> None:
    done = run_with(ASD, TINY, store)
    series = {stage: done[stage].load("series") for stage in done}
    assert series["asd_class_aware"]["labelled"] == [8, 8 + 12, 8 + 24]  # 3 more of each of 4 classes
    assert series["asd_class_aware"]["labelled_smallest_class"] == [2, 5, 8]
    assert series["asd_class_agnostic"]["labelled"] == [8 + 48]  # half of 96
    assert series["asd_meta_split"]["labelled"] == series["asd_last_epoch"]["labelled"] == [8 + 48]
    flags = done["asd_meta_split"].load("flagged_series")
    assert flags.sum(axis=1).tolist() == [48, 48]
    assert np.array_equal(flags[-1], done["asd_meta_split"].load("flagged"))
    assert done["asd_class_aware"].load("flagged_series").sum(axis=1).tolist() == [96, 84, 72]
    without = run_with(ASD, {**TINY, "keep_clean": False}, store)
    assert without["asd_class_aware"].run.hit
    assert without["asd_last_epoch"].load("series")["labelled"] == [48]


def test_configurations_that_differ_late_share_the_early_epochs(store: Path) -> None:
    first = run_with(ASD, TINY, store)
    other = run_with(ASD, {**TINY, "meta_lr": 0.05, "labelled_share": 0.4}, store)
    assert other["asd_class_aware"].run.key == first["asd_class_aware"].run.key
    assert other["asd_class_agnostic"].run.key != first["asd_class_agnostic"].run.key


# The split by a virtual epoch


def trainee(**values: Any) -> Trainee:
    config = ASDConfig(**{**TINY, **values})
    params = {name: getattr(config, name) for name in META_SPLIT.reads}
    spec = dataclasses.replace(SPEC, blocks=(1, 1, 1, 1))
    context = StageContext("asd_meta_split", mislabelled(), spec, CPU, "fp32", 5, silent, clean=make_reserve().first(8))
    return Trainee(context, type("Params", (), params), {})


@pytest.mark.parametrize(
    ("name", "groups", "learned"),
    [
        ("resnet18", 2, {"layer3", "layer4", "linear"}),
        ("preact_resnet18", 2, {"layer3", "layer4", "bn_last", "linear"}),
        ("resnet18", 0, {"linear"}),
        ("resnet18", 9, {"layer1", "layer2", "layer3", "layer4", "linear"}),
    ],
)
def test_the_last_groups_of_blocks_are_learned(name: str, groups: int, learned: set[str]) -> None:
    model = build_model(ModelSpec(name, 4, (1, 1, 1, 1), CLASSES, SIZE), 0)
    assert {parameter.split(".")[1] for parameter in learned_layers(model, groups)} == learned


def test_the_copy_alone_learns() -> None:
    one = trainee()
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    after = virtual_copy(one, 4).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
    moved = {name for name, _ in one.model.named_parameters() if not torch.equal(after[name], before[name])}
    assert moved == learned_layers(one.model, 2)
    again = virtual_copy(one, 4).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in again.items())


def test_the_score_is_the_drop_of_the_loss_and_the_lowest_half_is_kept(store: Path) -> None:
    settings = {**TINY, "meta_split_epochs": 1}
    done = run_with(ASD, settings, store)
    weights = done["asd_class_agnostic"].load("weights")
    config = ASDConfig(**settings)
    params = type("Params", (), {name: getattr(config, name) for name in META_SPLIT.reads})
    context = StageContext("x", mislabelled(), SPEC, CPU, "fp32", 5, silent, clean=make_reserve().first(8))
    copied = virtual_copy(Trainee(context, params, {"weights": weights}), 4)
    labels = torch.from_numpy(mislabelled().labels)

    def losses(model: Any) -> np.ndarray:
        logits = predict_logits(model, torch.from_numpy(mislabelled().images), "fp32").double()
        return symmetric_cross_entropy(logits, labels, 0.1, 1.0).numpy()

    scores = done["asd_meta_split"].load("scores")
    assert scores == pytest.approx(losses(load_model(SPEC, weights)) - losses(copied), abs=1e-9)
    assert scores[done["asd_meta_split"].load("flagged")].min() >= np.median(scores)


def test_what_a_copy_learns_easily_although_its_loss_is_high_scores_high() -> None:
    """On features at hand: four labels that a trigger explains, and four that nothing does, all with a high loss."""
    one = trainee(meta_epochs=12, meta_lr=0.01)
    images, labels = mislabelled().images.copy(), mislabelled().labels.copy()
    triggered, odd = np.arange(20, 40), np.arange(40, 60)
    images[triggered, 10:, 10:] = 255
    labels[triggered], labels[odd] = 0, (labels[odd] + 1 + np.arange(20) % 3) % CLASSES
    one.context = dataclasses.replace(one.context, dataset=SuspectDataset.of(images, labels, CLASSES))
    one.samples = dataclasses.replace(
        one.samples,
        images=torch.from_numpy(images),
        labels=torch.cat([torch.from_numpy(labels), one.samples.labels[96:]]),
    )
    # First a network that knows the classes and neither of the two.
    sure = np.setdiff1d(np.arange(96), np.r_[triggered, odd])
    optimiser = torch.optim.Adam(one.model.parameters(), 0.005)
    for _ in range(25):
        logits = one.model.train()(one.samples.images[sure].permute(0, 3, 1, 2))
        loss = functional.cross_entropy(logits, one.samples.labels[sure])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    drops = one.losses() - one.losses(virtual_copy(one, 0))
    assert np.median(drops[triggered]) > np.median(drops[odd]) + 1
    assert np.median(drops[triggered]) > np.median(drops[sure]) + 1


# Bad input


def run_first(data: SuspectDataset, clean: CleanReserve | None, **values: Any) -> Any:
    config = ASDConfig(**{**TINY, **values})
    params = type("Params", (), {name: getattr(config, name) for name in CLASS_AWARE.reads})
    context = StageContext("asd_class_aware", data, SPEC, CPU, "fp32", 5, silent, clean=clean)
    return CLASS_AWARE.run(context, {}, params)


def test_too_small_a_class_is_refused_in_a_line() -> None:
    with pytest.raises(UserError) as error:
        run_first(mislabelled(), make_reserve(), growth=20)
    smallest = int(np.bincount(mislabelled().labels).min())
    assert str(error.value) == (
        "ASD takes 40 samples of each class into its pool by the end of the class-aware epochs, and class "
        f"{int(np.bincount(mislabelled().labels).argmin())} has {smallest}: give growth as a share (0.02), or raise "
        "growth_period, or take fewer class_aware_epochs"
    )


@pytest.mark.parametrize("each", [4, 5])
def test_a_pool_of_all_samples_is_refused_in_a_line(each: int) -> None:
    """Two epochs take 4 of each class (TINY's growth of 2 an epoch): of 5 one is left without a label."""
    labels = np.repeat(np.arange(CLASSES), each)
    data = SuspectDataset.of(make_images(96, 8).train_images[: len(labels)], labels, CLASSES)
    if each == 5:
        run_first(data, make_reserve(), growth=2, class_aware_epochs=3)
        return
    with pytest.raises(UserError, match=r"ASD takes 4 samples of each class .*, and that is all there are: "):
        run_first(data, make_reserve(), growth=2, class_aware_epochs=3)


def test_a_class_without_samples_is_refused_in_a_line() -> None:
    images = make_images(96, 8)
    data = SuspectDataset.of(images.train_images, np.minimum(images.train_labels, 2), CLASSES)
    with pytest.raises(UserError, match=r"ASD takes samples of each class .*, and class 3 has none: ") as error:
        run_first(data, make_reserve(), growth=0.02)
    assert "\n" not in str(error.value)


def test_a_reserve_without_a_class_is_refused_in_a_line() -> None:
    with pytest.raises(UserError) as error:
        run_first(mislabelled(), make_reserve().first(3), clean_images=3)
    assert str(error.value) == (
        "ASD starts from a clean image of each of 4 classes, and 3 have none of class 3: raise clean_images"
    )


def test_one_sample_cannot_be_split(tmp_path: Path) -> None:
    data = SuspectDataset.of(mislabelled().images[:1], mislabelled().labels[:1], CLASSES)
    context = RunContext(Store(tmp_path), SPEC, 5, CPU, "fp32", reserve=make_reserve())
    with pytest.raises(UserError, match="ASD splits the samples into two pools and needs 2 of them, got 1: give it"):
        run_stages(ASD(ASDConfig(**TINY)), data, context)


# Fields


ENDS: dict[str, tuple[Any, Any]] = {
    "budget_fraction": (0.4, 1.0),
    **SEMI_SUPERVISED_ENDS,
    "lr": (1e-4, 0.01),
    "clean_images": (4, 32),
    "class_aware_epochs": (1, 3),
    "class_agnostic_epochs": (0, 2),
    "meta_split_epochs": (1, 2),
    "growth": (1, 0.3),
    "growth_period": (1, 3),
    "keep_clean": (False, True),
    "meta_epochs": (1, 3),
    "meta_lr": (1e-4, 0.05),
    "meta_batch_size": (8, 96),
    "meta_layers": (0, 2),
}


def test_every_field_has_ends() -> None:
    assert set(ENDS) == {field.name for field in dataclasses.fields(ASDConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    assert idle_field(ASD, TINY, field, ENDS[field], store) == ""


def test_epochs_and_their_cost_follow_the_budget() -> None:
    """At 50,000 samples as published: 120 epochs of 4.8 epoch-equivalents, their splits, and 30 virtual epochs."""
    config = ASDConfig()
    total = 0.0
    for stage in ASD.stages:
        assert stage.cost is not None
        total += stage.cost(type("Params", (), {name: getattr(config, name) for name in stage.reads}), 50_000)
    assert total == pytest.approx(120 * (1024 * 64 * (3 + 2 / 3) / 50_000 + 1 / 3) + 30 * (1 + 1 / 3), abs=0.4)
    assert 640 < total < 680
