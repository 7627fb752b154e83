"""MixMatch's parts and the symmetric cross-entropy against values worked out by hand or by brute force."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_images import CLASSES, SIZE, make_images, make_reserve
from torch import Tensor

from defenses.api import CleanReserve, StageContext, SuspectDataset, silent
from defenses.models import ModelSpec, build_model
from defenses.training.loop import TrainingDiverged
from defenses.training.losses import symmetric_cross_entropy
from defenses.training.mixmatch import (
    MixMatch,
    MixMatchTraining,
    Samples,
    interleave,
    mixmatch_losses,
    pool_batches,
    sharpen,
    weak_view,
)

torch.set_num_threads(1)
HOW = MixMatch(3, 8, 0.5, 0.75, 15.0, 10, "flip_crop")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def context(clean: CleanReserve | None = None) -> StageContext:
    images = make_images(48)
    data = SuspectDataset.of(images.train_images, images.train_labels, CLASSES)
    spec = ModelSpec("resnet18", 4, (1, 1), CLASSES, SIZE)
    return StageContext("some_stage", data, spec, torch.device("cpu"), "fp32", 3, silent, clean=clean)


# The loss that splits


def test_symmetric_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1]] * 2, dtype=torch.float64).log()
    losses = symmetric_cross_entropy(logits, torch.tensor([0, 2]), 0.1, 1.0)
    step = -math.log(1e-4)  # 9.21
    expected = [0.1 * -math.log(0.7) + step * 0.3, 0.1 * -math.log(0.1) + step * 0.9]
    assert losses.tolist() == pytest.approx(expected)
    assert symmetric_cross_entropy(logits, torch.tensor([0, 2]), 1.0, 0.0).tolist() == pytest.approx(
        [-math.log(0.7), -math.log(0.1)]
    )


def test_a_label_that_is_surely_wrong_weighs_no_more_than_its_bound() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    reverse = symmetric_cross_entropy(logits, torch.tensor([1]), 0.0, 1.0)
    assert reverse.item() == pytest.approx(-math.log(1e-4), rel=1e-6)
    assert symmetric_cross_entropy(logits, torch.tensor([0]), 0.1, 1.0).item() == pytest.approx(0.0, abs=1e-5)


# Parts of a step


def test_guesses_are_sharpened_by_hand() -> None:
    guess = sharpen(torch.tensor([[0.6, 0.4], [1.0, 0.0]]), 0.5)
    assert guess[0].tolist() == pytest.approx([0.36 / 0.52, 0.16 / 0.52])
    assert guess[1].tolist() == [1.0, 0.0]
    flat = torch.tensor([[0.6, 0.4]])
    torch.testing.assert_close(sharpen(flat, 1.0), flat)


def test_chunks_are_interleaved_and_back() -> None:
    chunks = [torch.arange(6) + 10 * number for number in range(3)]
    mixed = interleave(chunks)
    assert [chunk.tolist() for chunk in mixed] == [
        [0, 1, 12, 13, 24, 25],
        [10, 11, 2, 3, 14, 15],
        [20, 21, 22, 23, 4, 5],
    ]
    assert all(torch.equal(one, other) for one, other in zip(interleave(mixed), chunks, strict=True))
    uneven = [torch.arange(7) + 10 * number for number in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(interleave(interleave(uneven)), uneven, strict=True))


def test_batches_go_through_a_pool_pass_by_pass() -> None:
    pool = torch.arange(100, 110)
    batches = list(pool_batches(pool, 4, 5, generator()))
    assert [len(batch) for batch in batches] == [4] * 5
    for first, second in ((0, 1), (2, 3)):
        assert len(set(torch.cat([batches[first], batches[second]]).tolist())) == 8  # none twice in a pass
    assert torch.cat(batches).min() >= 100
    again = list(pool_batches(pool, 4, 5, generator()))
    assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True))


def test_a_pool_smaller_than_a_batch_is_drawn_from_with_replacement() -> None:
    batches = list(pool_batches(torch.tensor([7, 9]), 5, 4, generator()))
    assert [len(batch) for batch in batches] == [5] * 4
    assert set(torch.cat(batches).tolist()) == {7, 9}


@pytest.mark.parametrize("kind", ["flip_crop", "crop", "plain"])
def test_weak_views_are_crops_of_the_reflected_image(kind: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    views = weak_view(torch.from_numpy(images), kind, generator())
    assert (views.shape, views.dtype) == ((40, 3, 12, 12), torch.uint8)
    mirrored = 0
    for image, view in zip(images, views.permute(0, 2, 3, 1).numpy(), strict=True):
        wide = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        crops = [wide[y : y + 12, x : x + 12] for y in range(9) for x in range(9)]
        straight = any(np.array_equal(view, crop) for crop in crops)
        turned = any(np.array_equal(view, crop[:, ::-1]) for crop in crops)
        assert straight or turned
        mirrored += turned and not straight
        if kind == "plain":
            assert np.array_equal(view, image)
    assert 10 < mirrored < 30 if kind == "flip_crop" else mirrored == 0


def test_the_weight_of_guesses_rises_with_the_fraction_of_an_epoch() -> None:
    assert [HOW.unlabelled_weight(clock) for clock in (0.0, 0.5, 5.0, 10.0, 30.0)] == [0.0, 0.75, 7.5, 15.0, 15.0]
    assert dataclasses.replace(HOW, ramp_epochs=0).unlabelled_weight(0.0) == 15.0


def test_clean_images_stand_behind_the_suspect_ones() -> None:
    reserve = make_reserve()
    samples = Samples.of(context(reserve))
    taken = samples.take(torch.tensor([47, 48, 0, 79]))
    images = make_images(48).train_images
    expected = np.stack([images[47], reserve.images[0], images[0], reserve.images[31]])
    assert np.array_equal(taken.numpy(), expected)
    assert samples.labels[48:].tolist() == reserve.labels.tolist()
    assert torch.equal(Samples.of(context()).take(torch.tensor([3])), torch.from_numpy(images[3:4]))


def test_the_losses_of_a_step_by_hand() -> None:
    """A model that gives each image's mean as one logit and 0 as the other, in numpy step by step."""

    def predict(images: Tensor) -> Tensor:
        value = images.float().mean(dim=(1, 2, 3)) / 100
        return torch.stack([value, torch.zeros_like(value)], dim=1)

    def softmax(logits: np.ndarray) -> np.ndarray:
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    levels = [torch.tensor(row) for row in ([10, 200, 90], [50, 120, 0], [70, 100, 20])]
    images, first, second = (row.to(torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2) for row in levels)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    losses = mixmatch_losses(
        predict,
        (images, targets),
        (first, second),
        (torch.tensor(0.7), torch.tensor(0.3)),
        HOW.temperature,
        generator(5),
    )

    def of(values: np.ndarray) -> np.ndarray:
        return np.stack([values / 100, np.zeros_like(values)], axis=1)

    x, u, v = (row.numpy().astype(float) for row in levels)
    guess = ((softmax(of(u)) + softmax(of(v))) / 2) ** 2
    guess /= guess.sum(axis=1, keepdims=True)
    partner = torch.randperm(9, generator=generator(5)).numpy()
    everything, answers = np.concatenate([x, u, v]), np.concatenate([targets.numpy(), guess, guess])
    mixed, wanted = 0.7 * everything + 0.3 * everything[partner], 0.7 * answers + 0.3 * answers[partner]
    said = softmax(of(mixed))
    assert losses[0].item() == pytest.approx(-(wanted[:3] * np.log(said[:3])).sum(axis=1).mean(), rel=1e-5)
    assert losses[1].item() == pytest.approx(((said[3:] - wanted[3:]) ** 2).mean(), rel=1e-5)


# Whole epochs


def trained(labels_of_hidden: int | None = None, **changes: Any) -> dict[str, Tensor]:
    given = context(make_reserve())
    samples = Samples.of(given)
    if labels_of_hidden is not None:
        samples.labels[12:48] = labels_of_hidden
    model = build_model(given.model, 0)
    optimiser = torch.optim.Adam(model.parameters(), 0.002)
    labelled = torch.cat([torch.arange(48, 56), torch.arange(12)])
    training = MixMatchTraining(given, model, optimiser, samples, dataclasses.replace(HOW, **changes), 2)
    for epoch in range(2):
        values = training.epoch(labelled, torch.arange(12, 48), epoch)
        assert np.isfinite(values).all()
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_no_label_of_an_unlabelled_sample_is_read() -> None:
    assert same(trained(), trained(labels_of_hidden=3))


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 4}, {"iterations": 2}, {"mixup_alpha": 50.0}, {"weak_views": "plain"}, {"lambda_u": 1.0}],
)
def test_every_part_counts(change: dict[str, Any]) -> None:
    assert not same(trained(), trained(**change))


def test_a_loss_that_is_not_finite_is_told_in_a_line() -> None:
    given = context()
    model = build_model(given.model, 0)
    torch.nn.init.constant_(model.network.linear.weight, math.nan)
    optimiser = torch.optim.Adam(model.parameters(), 0.002)
    training = MixMatchTraining(given, model, optimiser, Samples.of(given), HOW, 1)
    with pytest.raises(TrainingDiverged) as error:
        training.epoch(torch.arange(9), torch.arange(9, 48), 4)
    assert str(error.value) == (
        "some_stage: the loss must stay finite, got nan on labels and nan on guesses in epoch 5: lower lr or lambda_u"
    )
