"""Spectral signatures on features of which it is known what is poison."""

from typing import Any

import numpy as np
import pytest
import torch
from planted_features import Features, Labels, planted_features, rates, run_stage
from small_images import CLASSES, SIZE, make_images

from defenses.api import Outputs, Params, StageContext, SuspectDataset, silent
from defenses.class_features import centred, principal_directions
from defenses.methods.ss import LAYER3_FEATURES, SpectralSignatures
from defenses.models import ModelSpec, build_model
from defenses.shared_stages import cpu_weights
from study.scenarios.metrics import auroc


def signatures(features: Features, labels: Labels, **fields: Any) -> Outputs:
    return run_stage(SpectralSignatures, "spectral_signatures", {"features": features}, labels, **fields)


# What the specification's simulation has by the poison's share of its label: AUROC among that label's samples.
@pytest.mark.parametrize(
    ("share", "inside"),
    [(0.05, 1.0), (0.1, 1.0), (0.2, 1.0), (0.333, 0.973), (0.5, 0.494), (0.667, 0.03), (0.833, 0.0)],
)
def test_it_works_while_poison_is_a_minority(share: float, inside: float) -> None:
    features, labels, poison = planted_features(share)
    label = labels == 0
    scores = signatures(features, labels)["scores"]
    assert auroc(scores[label], poison[label]) == pytest.approx(inside, abs=0.03)
    published = signatures(features, labels, score="uncentered_mad")["scores"]
    assert auroc(published, poison) == pytest.approx(1.0, abs=0.01)


# The paper's 1.5 times the number of poisoned samples, taken from every label.
@pytest.mark.parametrize(("share", "tpr"), [(0.1, 1.0), (0.2, 1.0), (0.333, 0.97)])
def test_one_and_a_half_times_the_poison_takes_nearly_all_of_it(share: float, tpr: float) -> None:
    features, labels, poison = planted_features(share)
    flagged = signatures(features, labels, budget=1.5 * share)["flagged"]
    assert rates(flagged, poison) == pytest.approx((tpr, 1.4 * share), abs=0.05)


def test_the_shift_is_the_top_singular_vector() -> None:
    features, labels, poison = planted_features(0.1)
    label = labels == 0
    shift = features[poison].mean(axis=0) - features[label & ~poison].mean(axis=0)
    (top,), _ = principal_directions(centred(features[label]), 1)
    assert abs(top @ shift) / np.linalg.norm(shift) > 0.9


def test_a_random_mask_is_at_chance_and_a_clean_set_loses_its_share() -> None:
    features, labels, poison = planted_features(0.2)
    scores = signatures(features, labels)["scores"]
    rng = np.random.default_rng(0)
    permuted = [auroc(scores, rng.permutation(poison)) for _ in range(30)]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.03)
    clean = ~poison
    flagged = signatures(features[clean], labels[clean])["flagged"]
    assert np.bincount(labels[clean][flagged]).tolist() == [30] * 10  # 15 % of 200 of each label


def test_the_label_that_varies_most_can_be_the_only_one() -> None:
    features, labels, poison = planted_features(0.2, labels=4, each=400)
    flagged = signatures(features, labels, scope="top_label", budget=0.2)["flagged"]
    assert np.array_equal(flagged, poison)


def test_labels_are_compared_in_units_of_their_own_spread() -> None:
    features, labels, _ = planted_features(0.2, labels=4)
    scaled = features * np.array([1, 10, 100, 1], dtype=np.float32)[labels, None]
    assert signatures(scaled, labels)["scores"] == pytest.approx(signatures(features, labels)["scores"], rel=1e-3)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("budget", 0.0, 0.5),
        ("scope", "all", "top_label"),
        ("vectors", 1, 5),
        ("score", "centered", "uncentered_mad"),
    ],
)
def test_every_field_changes_an_output(field: str, low: Any, high: Any) -> None:
    features, labels, _ = planted_features(0.2, labels=3, each=60)
    first, second = (signatures(features, labels, **{field: value}) for value in (low, high))
    assert any(not np.array_equal(first[name], second[name]) for name in ("scores", "flagged"))


@pytest.mark.parametrize("score", ["centered", "uncentered_mad"])
@pytest.mark.parametrize("scope", ["all", "top_label"])
def test_labels_with_few_samples_or_equal_ones_are_scored(score: str, scope: str) -> None:
    features, labels, _ = planted_features(0.2, labels=3, each=40)
    dead = np.tile(features[0], (30, 1))
    few = np.concatenate([features, features[:1], features[:2], dead])
    named = np.concatenate([labels, [4], [5] * 2, [6] * 30])  # label 3 has no samples
    result = signatures(few, named, score=score, scope=scope, vectors=5)
    assert np.isfinite(result["scores"]).all()
    assert (result["scores"] >= 0).all()
    only_dead = signatures(dead, np.zeros(30, dtype=np.int64), score=score, scope=scope)
    assert not only_dead["scores"].any()


def test_samples_are_scored_where_they_stand() -> None:
    features, labels, _ = planted_features(0.2, labels=3)
    order = np.random.default_rng(1).permutation(len(labels))
    first, moved = signatures(features, labels), signatures(features[order], labels[order])
    assert moved["scores"] == pytest.approx(first["scores"][order], rel=1e-6)
    assert np.array_equal(moved["flagged"], first["flagged"][order])


def test_the_stage_before_the_last_is_read_pooled() -> None:
    """Against a plain pass through the network's parts; and nothing is read where nobody asks."""
    images = make_images(32).train_images
    spec = ModelSpec("resnet18", 4, (1, 1, 1), CLASSES, SIZE)
    data = SuspectDataset.of(images, np.arange(32) % CLASSES, CLASSES)
    context = StageContext("layer3_features", data, spec, torch.device("cpu"), "fp32", 0, silent)
    model = build_model(spec, 0).eval()
    weights = {"weights": cpu_weights(model)}
    found = LAYER3_FEATURES.run(context, weights, Params(layer="layer3"))["features"]
    seen: list[torch.Tensor] = []
    model.network.layer2.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        model(torch.from_numpy(data.images).permute(0, 3, 1, 2))
    assert found == pytest.approx(seen[0].mean(dim=(2, 3)).numpy(), rel=1e-5)
    assert LAYER3_FEATURES.run(context, weights, Params(layer="penultimate"))["features"].size == 0
