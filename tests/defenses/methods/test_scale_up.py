"""SCALE-UP on networks of which it is known what they do with multiplied pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_effects import run_with
from planted_features import run_stage
from torch import Tensor, nn

from defenses.api import Outputs, Params
from defenses.methods.scale_up import ScaleUp, clean_moments, consistency, scale_factors
from defenses.models import ModelSpec, Normalised, build_model
from defenses.shared_stages import cpu_weights
from defenses.training.inference import predict_logits
from study.scenarios.metrics import auroc

N, CLASSES = 200, 4
ODD = [3, 5, 7, 9, 11]


class Brightness(nn.Module):
    """Class 1 from a mean of 100 levels on, class 0 below; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        level = images.mean(dim=(1, 2, 3)) - 100
        return torch.stack([-level, level], dim=1) / 10


def pixels(*levels: float) -> Tensor:
    return torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(len(levels), 3, 8, 8)


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)


def predictions(weights: dict[str, Tensor] | None = None, **fields: Any) -> Outputs:
    """What the stage before the scores gives on random images, by default of a network that predicts every class."""
    given = {"weights": weights or cpu_weights(varied())}
    return run_stage(ScaleUp, "scaled_predictions", given, np.arange(N) % CLASSES, images(), **fields)


def varied() -> Normalised:
    """A network that was not trained, with its mean logits taken off."""
    model = build_model(ModelSpec("resnet18", 4, (1, 1), CLASSES, 8), 1)
    mean = predict_logits(model, torch.from_numpy(images()), "fp32").mean(dim=0)
    model.network.linear.bias.data -= mean
    return model


NO_CLEAN: Outputs = {"clean_agreement": np.zeros(0), "clean_predicted": np.zeros(0), "predicted": np.zeros(0)}


def clean(**fields: Any) -> Outputs:
    """What the stage of clean images gives the scores, by their names there."""
    given = {"weights": cpu_weights(varied())}
    outputs = run_stage(ScaleUp, "clean_scaled_predictions", given, np.arange(N) % CLASSES, images(), **fields)
    return {**outputs, "clean_agreement": outputs["agreement"]}


def scored(**fields: Any) -> Outputs:
    given = {**clean(**fields), **predictions(**fields)}
    return run_stage(ScaleUp, "scale_up", given, np.arange(N) % CLASSES, **fields)


def test_the_scales_are_the_papers_or_the_codes() -> None:
    assert scale_factors("odd", 11) == ODD
    assert scale_factors("odd", 12) == ODD
    assert scale_factors("all", 11) == list(range(1, 12))
    assert scale_factors("odd", 3) == [3]


def test_agreement_is_counted_over_the_scales() -> None:
    # 5 stays dark at all scales, 12 up to 7, 30 at 3 alone; 150 is bright, and stays so.
    agreement, probability = consistency(Brightness(), pixels(5, 12, 30, 150), ODD, "fp32")
    assert agreement == pytest.approx([1, 0.6, 0.2, 1])
    assert (probability > 0).all()
    assert (probability <= 1).all()
    by_hand = np.mean([1 / (1 + np.exp((12 * factor - 100) / 5)) for factor in ODD])
    assert probability[1] == pytest.approx(by_hand, rel=1e-4)


def test_pixels_are_clipped_at_white_before_the_network_normalises_them() -> None:
    model = Brightness()
    consistency(model, pixels(10, 40, 200), [3, 11], "fp32")
    assert [shown[:, 0, 0, 0].tolist() for shown in model.seen] == [[10, 40, 200], [30, 120, 255], [110, 255, 255]]


def test_a_scale_of_one_always_agrees() -> None:
    assert (consistency(Brightness(), pixels(5, 99, 101, 255), [1], "fp32")[0] == 1).all()


def test_a_constant_classifier_agrees_with_itself_on_everything() -> None:
    weights = cpu_weights(varied())
    weights["network.linear.weight"] = torch.zeros_like(weights["network.linear.weight"])
    result = predictions(weights)
    assert (result["agreement"] == 1).all()
    assert np.allclose(result["probability"], result["probability"][0])


def test_ties_are_broken_and_nothing_else() -> None:
    plain, broken = scored(tie_breaker="none")["scores"], scored()["scores"]
    assert len(np.unique(plain)) <= 6
    assert len(np.unique(broken)) > 100
    for level in np.unique(plain)[1:]:
        assert broken[plain >= level].min() > broken[plain < level].max()


def test_samples_are_flagged_from_the_threshold_on() -> None:
    agreement = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    inputs = {"agreement": agreement, "probability": np.full(6, 0.99), **NO_CLEAN}
    labels = np.zeros(6, dtype=np.int64) + 1
    for threshold, count in ((0.5, 3), (0.6, 3), (0.4, 4), (0.0, 6), (1.0, 1)):
        flagged = run_stage(ScaleUp, "scale_up", inputs, labels, threshold=threshold)["flagged"]
        assert flagged.sum() == count, "the tie-breaker flags nobody"


def test_noise_is_the_same_for_the_same_seed() -> None:
    noisy, again = (predictions(input_noise=0.2)["probability"] for _ in range(2))
    assert np.array_equal(noisy, again)
    assert not np.array_equal(noisy, predictions()["probability"])


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("scales", "odd", "all"),
        ("largest_scale", 3, 255),
        ("input_noise", 0.0, 1.0),
        ("threshold", 0.0, 1.0),
        ("tie_breaker", "probability", "none"),
        ("clean_images", 0, 32),
    ],
)
def test_every_field_changes_an_output(field: str, low: Any, high: Any) -> None:
    first, second = (scored(**{field: value}) for value in (low, high))
    assert any(not np.array_equal(first[name], second[name]) for name in ("scores", "flagged"))


def test_spc_is_standardised_by_the_clean_images_of_the_same_prediction() -> None:
    given = {
        "clean_agreement": np.array([0.2, 0.6, 0.8, 0.8, 1.0]),
        "clean_predicted": np.array([0, 0, 1, 1, 2]),
        "predicted": np.array([0, 0, 1, 2, 3]),
        "agreement": np.array([0.8, 0.4, 1.0, 0.92, 0.4]),
        "probability": np.full(5, 0.4),
    }
    plain = run_stage(ScaleUp, "scale_up", given, given["predicted"], tie_breaker="none", clean_images=5)
    # Of 0: mean 0.4, deviation 0.2. Of 1 no deviation: a step of 0.2. Of 2 one clean image and of 3 none: all five,
    # mean 0.68, deviation 0.2713.
    spread = np.std([0.2, 0.6, 0.8, 0.8, 1.0])
    assert plain["scores"] == pytest.approx([2.0, 0.0, 1.0, 0.24 / spread, -0.28 / spread])
    assert plain["flagged"].tolist() == [True, False, True, True, False]
    above = run_stage(ScaleUp, "scale_up", given, given["predicted"], tie_breaker="none", threshold=1.5)
    assert above["flagged"].tolist() == [True, False, False, False, False]
    broken = run_stage(ScaleUp, "scale_up", given, given["predicted"])["scores"]
    assert (broken - plain["scores"]) == pytest.approx(np.array([0.04] * 5) / [0.2, 0.2, 0.2, spread, spread])


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_equal_clean_spcs_deviate_by_a_step_whatever_rounding_leaves(steps: int, count: int) -> None:
    """0.2 six times has a standard deviation of 2.8e-17, which is none."""
    zeros = np.zeros(count, dtype=np.int64)
    mean, deviation = clean_moments(np.full(count, steps / 5), zeros, zeros[:1], 1 / 5)
    assert mean == pytest.approx(steps / 5)
    assert deviation.tolist() == [1 / 5]


def test_without_clean_images_nothing_else_is_run_and_spc_is_the_score() -> None:
    nothing = clean()
    assert [len(nothing[name]) for name in ("agreement", "clean_predicted", "predicted")] == [0, 0, 0]
    assert np.array_equal(scored(tie_breaker="none")["scores"], predictions()["agreement"])
    cost = next(stage.cost for stage in ScaleUp.stages if stage.name == "clean_scaled_predictions")
    assert cost is not None
    fields = {"scales": "odd", "largest_scale": 11}
    assert cost(Params(clean_images=0, **fields), 1000) == 0
    assert cost(Params(clean_images=100, **fields), 1000) == pytest.approx((1000 + 700) / 3000)


def test_keys_from_before_there_were_clean_images_stay(tmp_path: Path) -> None:
    """A stage that does not read the field keeps its key, and what follows from equal flags keeps its own."""
    done = run_with(ScaleUp, {"epochs": 1, "lr": 0.01, "batch_size": 32}, tmp_path)
    reading = {stage.name for stage in ScaleUp.stages if "clean_images" in stage.reads}
    assert reading == {"clean_scaled_predictions"}
    other = run_with(ScaleUp, {"epochs": 1, "lr": 0.01, "batch_size": 32, "clean_images": 32}, tmp_path)
    for name in ("standard_training", "scaled_predictions"):
        assert other[name].run.key == done[name].run.key
    stage = next(stage for stage in ScaleUp.stages if stage.name == "scaled_predictions")
    assert (stage.version, stage.reads) == (1, ("scales", "largest_scale", "input_noise"))
    assert dict(stage.inputs) == {"weights": "standard_training.weights"}


def test_a_random_mask_is_at_chance() -> None:
    scores, rng = scored()["scores"], np.random.default_rng(0)
    permuted = [auroc(scores, rng.permutation(N) < 40) for _ in range(50)]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.03)
