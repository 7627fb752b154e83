"""DBALFA on made-up layers whose geometry is known, and on small networks against plain numpy."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import PLAIN_TRAINING, idle_field, run_with
from numpy.typing import NDArray
from planted_features import rates, run_stage
from small_images import make_images

from defenses import DEFENSES
from defenses.api import CleanReserve, Outputs, Params, StageContext, SuspectDataset, silent
from defenses.methods.dbalfa import (
    DBALFA,
    LAYER_SIMILARITIES,
    DBALFAConfig,
    chosen_weights,
    class_sums,
    layer_of_interest,
    layer_similarities,
)
from defenses.models import ModelSpec, Normalised, build_model
from defenses.models.taps import layer_taps, visit_layers
from defenses.registry import UserError
from defenses.shared_stages import cpu_weights
from defenses.training import inference
from defenses.training.inference import predict_logits
from study.scenarios.metrics import auroc

torch.set_num_threads(1)
LAYERS, DIMS, CLASSES, EACH = 10, 40, 3, 200
SPREADS = [3.0, 3.0, 2.9, 2.9, 2.8, 2.8, 2.7, 1.0, 0.9, 0.9]  # of a benign layer: from tap 6 to tap 7 it halves


def cosines(rows: NDArray[np.float64], centroid: NDArray[np.float64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = rows @ centroid
    return product / np.linalg.norm(rows, axis=-1) / np.linalg.norm(centroid, axis=-1)


def made_up(shifted: tuple[int, ...], seed: int = 0, clean: int = 100) -> tuple[Outputs, NDArray[np.bool_]]:
    """Similarities of 200 samples a class, 40 of class 0 poison that is shifted in some layers; and who is poison."""
    rng = np.random.default_rng(seed)
    poison = np.zeros(CLASSES * EACH, dtype=bool)
    poison[:40] = True
    predicted = np.repeat(np.arange(CLASSES), EACH)
    clean_classes = np.repeat(np.arange(CLASSES), clean)
    own = np.empty((len(predicted), LAYERS))
    reference = np.empty((len(clean_classes), LAYERS))
    for layer, spread in enumerate(SPREADS):
        for label in range(CLASSES):
            centre, direction = rng.normal(size=(2, DIMS))
            benign = centre + spread * rng.normal(size=(clean, DIMS))
            samples = centre + spread * rng.normal(size=(EACH, DIMS))
            if label == 0 and layer in shifted:
                samples[poison[:EACH]] += 2.5 * spread * direction
            reference[clean_classes == label, layer] = cosines(benign, benign.mean(axis=0))
            own[predicted == label, layer] = cosines(samples, benign.mean(axis=0))
    clean_ones = dict.fromkeys(("clean_similarities", "clean_left_out"), reference.astype(np.float32))
    similarities = own.astype(np.float32)
    return {"similarities": similarities, "predicted": predicted, "clean_classes": clean_classes, **clean_ones}, poison


def scored(inputs: Outputs, **fields: Any) -> Outputs:
    return run_stage(DBALFA, "dbalfa", inputs, inputs["predicted"], **fields)


def test_the_layer_of_interest_is_where_the_similarity_jumps() -> None:
    means = np.array([0.1, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.85, 0.9])
    assert layer_of_interest(means) == 7, "the larger jump, to tap 1, lies in the first half"
    assert layer_of_interest(np.array([0.1, 0.2, 0.3, 0.4])) == 3, "of four layers the second half has one jump"
    assert layer_of_interest(np.linspace(0, 0.9, 10) ** 2) == 9, "the logits may be it"
    assert scored(made_up(())[0])["layers"].tolist() == [7, 7, 7]


def test_layers_weigh_alike_or_by_their_own_gain() -> None:
    means = np.array([0.1, 0.6, 0.6, 0.6, 0.6, 0.5, 0.6, 0.9, 0.85, 0.9])
    assert chosen_weights(means, 3, "equal") == pytest.approx([0, 0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0])
    assert chosen_weights(means, 3, "gains") == pytest.approx([0, 0, 0, 0, 0, 0, 0.25, 0.75, 0, 0]), "never below zero"
    assert chosen_weights(means, 1, "equal").nonzero()[0].tolist() == [7]
    assert chosen_weights(means, 99, "equal").nonzero()[0].tolist() == list(range(8))
    assert chosen_weights(np.ones(4), 2, "gains") == pytest.approx([0, 0, 0.5, 0.5]), "where nothing gains, alike"


def test_poison_is_caught_where_it_differs_in_the_layers_used_and_only_there() -> None:
    inputs, poison = made_up((5, 6, 7))
    late = scored(inputs)
    tpr, fpr = rates(late["flagged"], poison)
    assert tpr > 0.95
    assert fpr < 0.05, "one side of a normal distribution beyond 2.5 is 0.6 %"
    assert auroc(late["scores"], poison) > 0.99
    inputs, poison = made_up((2,))
    early = scored(inputs)
    assert auroc(early["scores"], poison) == pytest.approx(0.5, abs=0.1)
    assert rates(early["flagged"], poison)[0] < 0.1
    rng = np.random.default_rng(0)
    permuted = [auroc(late["scores"], rng.permutation(poison)) for _ in range(20)]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.03)


def test_scores_are_standard_deviations_below_the_clean_mean_of_the_predicted_class() -> None:
    clean = np.zeros((4, 4), dtype=np.float32)
    clean[:, 3] = [0.8, 0.9, 0.5, 0.7]  # mean 0.85 and spread 0.05 of class 0, 0.6 and 0.1 of class 1
    inputs = {
        "similarities": np.array([[0, 0, 0, 0.7], [0, 0, 0, 0.7], [0, 0, 0, 0.4]], dtype=np.float32),
        "predicted": np.array([0, 1, 1]),
        "clean_similarities": clean,
        "clean_left_out": clean,
        "clean_classes": np.array([0, 0, 1, 1]),
    }
    result = scored(inputs, layers_used=1)
    assert result["scores"] == pytest.approx([3.0, -1.0, 2.0], rel=1e-5)
    assert result["flagged"].tolist() == [True, False, False]
    assert scored(inputs, layers_used=1, tau=1.5)["flagged"].tolist() == [True, False, True]


def test_identical_clean_images_do_not_make_a_score_infinite() -> None:
    inputs, _ = made_up((5, 6, 7))
    flat = np.full_like(inputs["clean_similarities"], 0.5)
    assert np.isfinite(scored({**inputs, "clean_similarities": flat})["scores"]).all()


# Layers of a network


def varied(name: str = "resnet18") -> Normalised:
    """A network that was not trained and predicts every class, in eval mode."""
    model = build_model(ModelSpec(name, 4, (1, 1), 4, 16), 1).eval()
    images = torch.from_numpy(make_images().train_images)
    model.network.linear.bias.data -= predict_logits(model, images, "fp32").mean(dim=0)
    return model


@torch.no_grad()
def layers(model: Normalised, images: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Every layer of all images at once, by hand."""
    network = model.network
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - model.mean) * model.inverse_std
    x = network.conv1(x) if network.pre_activation else torch.relu(network.bn1(network.conv1(x)))
    shown = [x]
    for block in (*network.get_submodule("layer1").children(), *network.get_submodule("layer2").children()):
        x = block(x)
        shown.append(x)
    shown.append(model(torch.from_numpy(images).permute(0, 3, 1, 2)))
    return [layer.flatten(1).double().numpy() for layer in shown]


def test_layers_of_18_are_the_stem_eight_blocks_and_the_logits() -> None:
    model = build_model(ModelSpec("resnet18", 64, (2, 2, 2, 2), 10, 32), 0).eval()
    names = layer_taps(model)
    assert len(names) == 10
    sizes: dict[int, int] = {}

    def note(position: int, layer: torch.Tensor) -> None:
        sizes[position] = layer.shape[1]
        assert layer.dtype == torch.float32
        assert position == 9 or (layer >= 0).all(), "after the ReLU"

    with torch.no_grad(), visit_layers(model, note):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert sizes == dict(enumerate([65536] * 3 + [32768] * 2 + [16384] * 2 + [8192] * 2 + [10]))
    assert sum(sizes.values()) == 311_306
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))  # nothing is visited any more
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_similarities_are_those_of_whole_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of 24 against all at once; a clean image's against the mean of the others of its class."""
    monkeypatch.setattr(inference, "CHUNK_PIXELS", 24 * 16 * 16)
    model, images = varied(name), make_images(100, 8).train_images
    tensor = torch.from_numpy(images)
    classes = predict_logits(model, tensor, "fp32").argmax(dim=1)
    assert len(classes.unique()) > 1
    sums = class_sums(model, tensor, classes, 4, "fp32")
    plain, left_out = (layer_similarities(model, tensor, classes, sums, "fp32", without) for without in (False, True))
    assert plain.shape == left_out.shape == (100, 4)
    for position, layer in enumerate(layers(model, images)):
        for label in classes.unique().tolist():
            rows = layer[classes.numpy() == label]
            expected = cosines(rows, rows.mean(axis=0))
            np.testing.assert_allclose(plain[classes.numpy() == label, position], expected, atol=2e-5)
            others = (rows.sum(axis=0) - rows) / max(1, len(rows) - 1)
            expected = np.array([cosines(row, other) for row, other in zip(rows, others, strict=True)])
            np.testing.assert_allclose(left_out[classes.numpy() == label, position], expected, atol=2e-4)
    assert (left_out[:, :3] < plain[:, :3]).mean() > 0.95, "an image is closer to a centroid that it is part of"


def reserve_with(right: dict[int, int]) -> CleanReserve:
    """A reserve of 20 images of each class, of which the network of `varied` is right about so many."""
    images = make_images(400, 8).train_images
    predicted = predict_logits(varied(), torch.from_numpy(images), "fp32").argmax(dim=1).numpy()
    chosen, labels = [], []
    for label in range(4):
        hits, misses = np.flatnonzero(predicted == label), np.flatnonzero(predicted != label)
        chosen += [*hits[: right[label]], *misses[: 20 - right[label]]]
        labels += [label] * 20
    return CleanReserve.of(images[chosen], np.array(labels), 4)


def similarities_of(reserve: CleanReserve) -> Outputs:
    """What the stage before the scores gives on 128 images with this reserve."""
    images = make_images()
    data = SuspectDataset.of(images.train_images, images.train_labels, 4)
    spec, place = ModelSpec("resnet18", 4, (1, 1), 4, 16), torch.device("cpu")
    context = StageContext("layer_similarities", data, spec, place, "fp32", 0, silent, clean=reserve)
    inputs = {"weights": cpu_weights(varied())}
    return LAYER_SIMILARITIES.run(context, inputs, Params(clean_images=len(reserve)))


def test_clean_images_count_where_prediction_and_label_agree() -> None:
    outputs = similarities_of(reserve_with({0: 9, 1: 5, 2: 2, 3: 20}))
    assert np.bincount(outputs["clean_classes"]).tolist() == [9, 5, 2, 20]
    assert outputs["similarities"].shape == (128, 4), "a number a layer, and no layer"
    assert outputs["similarities"].dtype == np.float32


@pytest.mark.parametrize("short", [0, 1])
def test_a_class_with_too_few_clean_images_is_refused_in_a_line(short: int) -> None:
    with pytest.raises(UserError) as error:
        similarities_of(reserve_with({0: 9, 1: 5, 2: short, 3: 20}))
    assert "\n" not in str(error.value)
    assert f"1 of 4 classes have fewer: class 2 has {short} of its 20 in 80 clean images, and " in str(error.value)
    assert "of 128 samples are predicted as it: raise clean_images, or train for longer" in str(error.value)


# Stages

TINY = {
    "epochs": 6,
    "lr": 0.1,
    "batch_size": 32,
    "augment": False,
    "schedule": "one_cycle",
    "clean_images": 32,
    "layers_used": 2,
}
ENDS: dict[str, tuple[Any, Any]] = {
    "clean_images": (20, 32),
    "tau": (0.0, 100.0),
    "layers_used": (1, 4),
    "weights": ("equal", "gains"),
    "centroid": ("all", "leave_one_out"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_every_field_has_ends() -> None:
    assert set(ENDS) | PLAIN_TRAINING == {field.name for field in dataclasses.fields(DBALFAConfig)}


@pytest.mark.parametrize("field", ENDS)
def test_every_field_changes_keys_and_outputs(field: str, store: Path) -> None:
    assert idle_field(DBALFA, TINY, field, ENDS[field], store) == ""


def test_the_undefended_model_is_shared_and_a_threshold_costs_nothing(store: Path) -> None:
    plain = {name: value for name, value in TINY.items() if name not in ("clean_images", "layers_used")}
    undefended = run_with(DEFENSES["no_defense"], plain, store)["standard_training"]
    first, second = (run_with(DBALFA, {**TINY, "tau": tau}, store) for tau in (2.5, 1.0))
    assert first["standard_training"].run.key == undefended.run.key
    assert second["layer_similarities"].run.hit
    assert second["layer_similarities"].run.key == first["layer_similarities"].run.key
    assert LAYER_SIMILARITIES.cost is not None
    assert LAYER_SIMILARITIES.cost(Params(clean_images=1000), 50_000) == pytest.approx(0.69, abs=0.01)
