"""D-ST's parts re-derived: transforms, movement, pools, the two losses, and what each field changes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import SPEC, idle_field, mislabelled
from planted_features import run_stage
from scipy import ndimage
from small_images import CLASSES, make_images
from torch import Tensor
from torch.nn import functional

from defenses.api import Outputs, Params, Stage, StageContext, silent, stage_params
from defenses.methods.dst import DISTINGUISHING, DST, DSTConfig, centre_similarity
from defenses.models import ModelSpec, build_model
from defenses.registry import UserError
from defenses.shared_stages import PENULTIMATE_FEATURES, cpu_weights
from defenses.training.image_transforms import TRANSFORMS, median_filter, transformed

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY = {
    "label_epochs": 1,
    "centre_epochs": 1,
    "first_lr": 0.05,
    "first_batch_size": 48,
    "transform": "median",
    "poison_share": 0.1,
    "contrastive_epochs": 1,
    "contrastive_lr": 0.1,
    "contrastive_batch_size": 48,
    "head_epochs": 2,
    "head_lr": 0.5,
    "head_batch_size": 16,
}

# Transforms


def pixels(n: int = 4, side: int = 16) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 256, (n, 3, side, side)).astype(np.float32))


def after(images: Tensor, transform: str, seed: int = 0, kernel_size: int = 3) -> Tensor:
    return transformed(images, transform, kernel_size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_keep_shape_and_range_and_follow_from_the_generator(transform: str) -> None:
    images = pixels()
    before = images.clone()
    moved = after(images, transform)
    assert (moved.shape, moved.dtype) == (images.shape, images.dtype)
    assert moved.min() >= 0
    assert moved.max() <= 255
    assert torch.equal(moved, after(images, transform))
    assert torch.equal(images, before)
    assert torch.equal(moved, images) == (transform == "identity")
    assert torch.equal(moved, after(images, transform, seed=1)) == (transform not in {"rotate_affine", "erase"})


@pytest.mark.parametrize("size", [3, 5])
def test_the_median_filter_is_scipys(size: int) -> None:
    images = pixels()
    expected = ndimage.median_filter(images.numpy(), (1, 1, size, size), mode="nearest")
    assert np.array_equal(median_filter(images, size).numpy(), expected)


def test_turned_images_are_shifted_by_a_fifth_at_most_and_what_comes_in_is_black() -> None:
    """A dot in the middle stays there when turned: where it is afterwards is the shift."""
    images = torch.zeros((300, 3, 41, 41))
    images[:, :, 19:22, 19:22] = 255
    moved = after(images, "rotate_affine")[:, 0]
    assert moved.amax(dim=(1, 2)).min() == 255
    place = torch.stack([(moved.sum(dim) * torch.arange(41)).sum(1) / moved.sum((1, 2)) for dim in (1, 2)]) - 20
    assert place.abs().max() <= 0.2 * 41 + 1
    assert place.abs().amax(dim=1).min() > 6
    assert place.mean(dim=1).abs().max() < 1
    white = after(torch.full((50, 3, 32, 32), 200.0), "rotate_affine")
    assert set(white.unique().tolist()) == {0.0, 200.0}


def test_a_rectangle_is_erased_of_two_to_thirty_three_percent() -> None:
    white = torch.full((300, 3, 32, 32), 200.0)
    gone = after(white, "erase") == 0
    shares = gone.float().mean(dim=(1, 2, 3))
    assert shares.min() >= 0.015
    assert shares.max() <= 0.36
    rows, columns = gone[:, 0].any(dim=2).sum(1), gone[:, 0].any(dim=1).sum(1)
    assert torch.equal(rows * columns, gone[:, 0].sum((1, 2)))  # whole rectangles


# The first model


def test_alike_centres_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    # Centres along (1, 0), (1, 1) and (0, 1): cosines 1/sqrt 2 twice and 0, each counted both ways, of 9 entries.
    found = centre_similarity(features, torch.tensor([0, 0, 1, 3]), 5)
    assert found.item() == pytest.approx(4 / np.sqrt(2) / 9)
    assert centre_similarity(features, torch.zeros(4, dtype=torch.int64), 2).item() == 0


def distinguish(**fields: Any) -> Outputs:
    data = mislabelled()
    context = StageContext("distinguishing", data, SPEC, CPU, "fp32", 0, silent)
    config = DSTConfig.from_mapping({**TINY, **fields})
    return DISTINGUISHING.run(context, {}, params_of(DISTINGUISHING, config))


def params_of(stage: Stage, config: DSTConfig) -> Params:
    return Params(**stage_params(stage, config))


def features_of(weights: dict[str, Tensor]) -> Tensor:
    data = mislabelled()
    context = StageContext("any", data, SPEC, CPU, "fp32", 0, silent)
    given = PENULTIMATE_FEATURES.run(context, {"weights": weights}, Params())
    return torch.from_numpy(given["features"])


def test_the_second_phase_parts_the_centres_and_leaves_the_last_layer() -> None:
    fields = {"label_epochs": 2, "first_batch_size": 32}
    by_labels, further = (distinguish(**fields, centre_epochs=epochs) for epochs in (0, 6))
    assert further["series"]["loss"][:2] == by_labels["series"]["loss"]
    parting = further["series"]["loss"][2:]
    assert len(parting) == 6
    assert parting[-1] < parting[0] - 0.05
    assert max(parting) <= 0.75  # the mean of 16 cosines of which 4 are left out
    for name in ("network.linear.weight", "network.linear.bias"):
        assert torch.equal(by_labels["weights"][name], further["weights"][name])


def test_the_budget_scales_every_epoch_count_and_the_cost() -> None:
    fields = {"label_epochs": 4, "centre_epochs": 8, "contrastive_epochs": 40, "budget_fraction": 0.25}
    assert len(distinguish(**fields)["series"]["loss"]) == 3
    config = DSTConfig.from_mapping(fields)
    costs = {stage.name: stage.cost(params_of(stage, config), 100) for stage in DST.stages if stage.cost is not None}
    assert costs == pytest.approx(
        {"distinguishing": 3, "feature_movement": 5 / 3, "dst_contrastive": 20, "dst_head": 1 / 3}
    )
    assert set(costs) == {stage.name for stage in DST.stages} - {"dst_pools", "dst_trusted"}
    assert sum(
        stage.cost(params_of(stage, DSTConfig()), 100) for stage in DST.stages if stage.cost is not None
    ) == pytest.approx(414)


# Movement and pools


def movement(**fields: Any) -> Any:
    weights = {"weights": cpu_weights(build_model(ModelSpec("resnet18", 4, (1, 1), CLASSES, 16), 1))}
    images = make_images()
    return run_stage(DST, "feature_movement", weights, images.train_labels, images.train_images, **fields)["movement"]


def test_nothing_moves_where_nothing_is_changed() -> None:
    assert np.array_equal(movement(transform="identity"), np.zeros(128))
    assert all(movement(transform=name).min() > 0 for name in ("rotate_affine", "blur", "median"))


def test_movement_is_the_mean_of_squared_differences_of_features() -> None:
    spec = ModelSpec("resnet18", 4, (1, 1), CLASSES, 16)
    model, images = build_model(spec, 1).eval(), make_images().train_images[:10]
    features: list[Tensor] = []
    model.network.linear.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        model(torch.from_numpy(images).permute(0, 3, 1, 2))
        model(torch.from_numpy(images[:, :, ::-1].copy()).permute(0, 3, 1, 2))
    expected = (features[0] - features[1]).square().mean(dim=1)
    assert movement(transform="flip")[:10] == pytest.approx(expected.numpy(), rel=1e-4)
    assert movement(transform="flip", draws=1) == pytest.approx(movement(transform="flip", draws=9))


def test_more_draws_are_steadier() -> None:
    one, many = (movement(draws=draws) for draws in (1, 16))
    assert many.std() < one.std()


def pools(values: Any, labels: Any = None, **fields: Any) -> Outputs:
    """Both pools, of labels 0 to 3 in turn unless they are given."""
    given = (np.arange(len(values)) % 4).astype(np.int64) if labels is None else labels
    flagged = run_stage(DST, "dst_pools", {"movement": values}, given, **fields)["flagged"]
    trusted = run_stage(DST, "dst_trusted", {"movement": values, "flagged": flagged}, given, **fields)
    return {**trusted, "flagged": flagged}


def test_pools_are_exact_shares_of_either_end() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(np.float64)
    split = pools(values)
    assert np.array_equal(split["trusted"], values < 200)
    assert np.array_equal(split["flagged"], values >= 950)
    assert split["series"] == {"classes_trusted": [4.0]}
    # With a tenth poisoned and the twentieth flagged that moves most, half of the poison is the most there is.
    assert (split["flagged"] & (values >= 900)).sum() / 100 == 0.5
    ties = pools(np.zeros(100))
    assert (ties["trusted"].sum(), ties["flagged"].sum()) == (20, 5)
    assert not (ties["trusted"] & ties["flagged"]).any()


def test_of_each_class_a_share_is_trusted_unless_it_is_flagged() -> None:
    values = np.concatenate([np.arange(0, 400, 4), np.arange(1, 400, 4)]).astype(np.float64)
    labels = np.repeat([0, 1, 2], [20, 80, 100]).astype(np.int64)
    split = pools(values, labels, per_class=True)
    assert [int(split["trusted"][labels == label].sum()) for label in range(3)] == [4, 16, 20]
    assert split["trusted"][:4].all()
    swallowed = np.where(labels == 0, values + 1000, values)
    split = pools(swallowed, labels, per_class=True, poison_share=0.1)
    assert np.array_equal(split["flagged"], labels == 0)
    assert not (split["trusted"] & split["flagged"]).any()
    assert split["series"] == {"classes_trusted": [2.0]}


def test_pools_that_overlap_are_refused_in_a_line() -> None:
    with pytest.raises(UserError) as error:
        pools(np.arange(10.0), clean_share=0.8, poison_share=0.3)
    assert str(error.value) == (
        "D-ST's trusted and flagged samples must be at most all 10, but clean_share = 0.8 makes 8 of the first, and "
        "poison_share 3 of the others: lower one of them"
    )


# The last layer


def head(trusted: Any, flagged: Any, **fields: Any) -> tuple[Outputs, Tensor]:
    """The last layer trained on some pools, and the probabilities that it gives to the labels received [N]."""
    data = mislabelled()
    encoder = {"weights": cpu_weights(build_model(SPEC, 1)), "trusted": trusted, "flagged": flagged}
    given = run_stage(DST, "dst_head", encoder, data.labels, data.images, **{**TINY, **fields})
    logits = features_of(given["weights"]) @ given["weights"]["network.linear.weight"].T
    logits = logits + given["weights"]["network.linear.bias"]
    return given, functional.softmax(logits, dim=1)[torch.arange(96), torch.from_numpy(data.labels)]


def test_the_last_layer_learns_the_trusted_and_not_the_flagged() -> None:
    rows = np.arange(96)
    trusted, flagged = rows >= 40, rows < 16
    fields = {"head_epochs": 60, "head_lr": 0.5, "head_schedule": "constant"}
    given, probability = head(trusted, flagged, **fields)
    assert probability[40:].mean() > 0.5
    encoder = build_model(SPEC, 1).state_dict()
    moved = {name for name, tensor in given["weights"].items() if not torch.equal(tensor, encoder[name])}
    assert moved == {"network.linear.weight", "network.linear.bias"}
    _, repelled = head(trusted, flagged, **fields, repulsion=0.3)
    assert repelled[:16].mean() < probability[:16].mean() - 0.05


def test_one_step_of_the_last_layer_is_that_of_the_two_means() -> None:
    rows = np.arange(96)
    trusted, flagged = rows >= 90, rows < 3
    one_step = {"head_epochs": 1, "head_lr": 0.1, "head_batch_size": 96, "momentum": 0.0, "head_schedule": "constant"}
    given, _ = head(trusted, flagged, **one_step, repulsion=0.2)
    model = build_model(SPEC, 1)
    features, labels = features_of(cpu_weights(model)), torch.from_numpy(mislabelled().labels)
    logits = model.network.linear(features)
    loss = functional.cross_entropy(logits[90:], labels[90:]) - 0.2 * functional.cross_entropy(logits[:3], labels[:3])
    torch.autograd.backward(loss)
    assert given["series"]["loss"] == pytest.approx([loss.item()], rel=1e-4)
    weight = model.network.linear.weight
    assert weight.grad is not None
    expected = weight.detach() - 0.1 * weight.grad
    torch.testing.assert_close(given["weights"]["network.linear.weight"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("empty", ["trusted", "flagged"])
def test_a_pool_that_a_batch_has_nothing_of_has_no_term(empty: str) -> None:
    rows = np.arange(96)
    given, _ = head(rows < 20 if empty == "flagged" else rows < 0, rows < 0 if empty == "flagged" else rows < 20)
    assert np.isfinite(given["series"]["loss"]).all()


# All of it


ENDS: dict[str, tuple[Any, Any]] = {
    "budget_fraction": (0.5, 1.0),
    "label_epochs": (1, 3),
    "centre_epochs": (0, 2),
    "read_epoch": (1, 2),
    "first_lr": (1e-3, 0.1),
    "first_schedule": ("constant", "cosine"),
    "first_batch_size": (16, 64),
    "first_weight_decay": (0.0, 0.1),
    "momentum": (0.0, 0.9),
    "transform": ("rotate_affine", "blur"),
    "kernel_size": (3, 7),
    "draws": (1, 8),
    "clean_share": (0.1, 0.9),
    "poison_share": (0.01, 0.5),
    "per_class": (False, True),
    "contrastive_epochs": (1, 2),
    "contrastive_lr": (1e-3, 0.2),
    "contrastive_schedule": ("warm_up_cosine", "constant"),
    "contrastive_batch_size": (16, 64),
    "contrastive_weight_decay": (0.0, 0.1),
    "contrastive_temperature": (0.05, 1.0),
    "smallest_part": (0.1, 0.9),
    "view_flip": (False, True),
    "mask_columns": (False, True),
    "head_epochs": (1, 4),
    "head_lr": (1e-3, 1.0),
    "head_schedule": ("rise", "constant"),
    "head_batch_size": (8, 64),
    "head_weight_decay": (0.0, 0.1),
    "repulsion": (0.0, 0.5),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_every_field_has_ends() -> None:
    assert set(ENDS) == {field.name for field in dataclasses.fields(DSTConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    base = {**TINY, "transform": "rotate_affine"} if field == "draws" else TINY
    assert idle_field(DST, base, field, ENDS[field], store) == ""
