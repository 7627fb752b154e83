"""Activation clustering on features of which it is known what is poison."""

from typing import Any

import numpy as np
import pytest
from planted_features import Features, Labels, planted_features, rates, run_stage
from sklearn.metrics import silhouette_samples

from defenses.api import Outputs
from defenses.methods.ac import RULES, ActivationClustering, silhouettes, split
from study.scenarios.metrics import auroc


def cluster(features: Features, labels: Labels, **fields: Any) -> Outputs:
    return run_stage(ActivationClustering, "activation_clustering", {"features": features}, labels, **fields)


# What the specification's simulation has, of well separated poison by its share of the label: AUROC of the silhouettes
# and of the signed ones, TPR and FPR of the rules `smaller` and `share`. At exactly one half the clusters are as large.
@pytest.mark.parametrize(
    ("share", "plain", "signed", "smaller", "small"),
    [
        (0.05, 0.95, 1.0, (1.0, 0.42), (1.0, 0.0)),
        (0.1, 0.95, 1.0, (1.0, 0.41), (1.0, 0.0)),
        (0.2, 0.95, 1.0, (1.0, 0.40), (1.0, 0.0)),
        (0.333, 0.95, 1.0, (1.0, 0.42), (1.0, 0.0)),
        (0.48, 0.95, 1.0, (1.0, 0.41), (0.0, 0.0)),
        (0.667, 0.95, 0.0, (0.0, 0.52), (0.0, 0.1)),
        (0.833, 0.95, 0.0, (0.0, 0.52), (0.0, 0.1)),
    ],
)
def test_it_works_up_to_half_of_a_label(
    share: float, plain: float, signed: float, smaller: tuple[float, float], small: tuple[float, float]
) -> None:
    features, labels, poison = planted_features(share)
    of_rules = {rule: cluster(features, labels, rule=rule) for rule in ("smaller", "share")}
    assert auroc(of_rules["share"]["scores"], poison) == pytest.approx(signed, abs=0.01)
    assert rates(of_rules["smaller"]["flagged"], poison) == pytest.approx(smaller, abs=0.04)
    assert rates(of_rules["share"]["flagged"], poison) == pytest.approx(small, abs=0.01)
    suspect, scores = of_rules["smaller"]["flagged"], of_rules["smaller"]["scores"]
    assert auroc(np.where(suspect, scores, -scores), poison) == pytest.approx(plain, abs=0.02)


def test_a_random_mask_is_at_chance_and_a_clean_set_keeps_its_samples() -> None:
    features, labels, poison = planted_features(0.2)
    scores = cluster(features, labels)["scores"]
    rng = np.random.default_rng(0)
    permuted = [auroc(scores, rng.permutation(poison)) for _ in range(30)]
    assert np.mean(permuted) == pytest.approx(0.5, abs=0.03)
    clean = ~poison
    assert not cluster(features[clean], labels[clean])["flagged"].any()
    assert cluster(features[clean], labels[clean], rule="smaller")["flagged"].mean() == pytest.approx(0.43, abs=0.05)


def test_a_silhouette_has_a_sign_or_not() -> None:
    features, labels, poison = planted_features(0.2, labels=3)
    signed, plain = (
        cluster(features, labels, score_mode=mode, rule="smaller") for mode in ("signed_silhouette", "silhouette")
    )
    suspect = signed["flagged"]
    assert np.array_equal(plain["scores"], np.where(suspect, signed["scores"], -signed["scores"]))
    assert plain["scores"][poison].mean() == pytest.approx(signed["scores"][poison].mean())


def test_the_silhouette_rule_asks_for_separated_clusters() -> None:
    features, labels, poison = planted_features(0.2)
    strict = {"rule": "share_and_silhouette", "min_silhouette": 0.2}
    assert rates(cluster(features, labels, **strict)["flagged"], poison) == (1.0, 0.0)
    faint, labels, poison = planted_features(0.2, shift=3.0)
    assert not cluster(faint, labels, **strict)["flagged"].any()


@pytest.mark.parametrize("reducer", ["pca", "none"])
def test_distant_poison_is_found_however_features_are_projected(reducer: str) -> None:
    features, labels, poison = planted_features(0.1, labels=3)
    assert rates(cluster(features, labels, reducer=reducer)["flagged"], poison) == (1.0, 0.0)


# The extremes of each field, and where they must differ.
@pytest.mark.parametrize(
    ("field", "low", "high", "others"),
    [
        ("reducer", "pca", "ica", {}),
        ("reducer", "pca", "none", {}),
        ("dims", 1, 50, {}),
        ("clusters", 2, 10, {}),
        ("rule", "smaller", "share", {}),
        ("rule", "share", "share_and_silhouette", {"min_silhouette": 0.9}),
        ("max_share", 0.0, 0.5, {}),
        ("min_silhouette", -1.0, 1.0, {"rule": "share_and_silhouette"}),
        ("score_mode", "signed_silhouette", "silhouette", {}),
    ],
)
def test_every_field_changes_an_output(field: str, low: Any, high: Any, others: dict[str, Any]) -> None:
    features, labels, _ = planted_features(0.2, labels=3, each=60)
    first, second = (cluster(features, labels, **{field: value}, **others) for value in (low, high))
    assert any(not np.array_equal(first[name], second[name]) for name in ("scores", "flagged"))


@pytest.mark.parametrize("clusters", [2, 3])
def test_silhouettes_are_those_of_scikit_learn(clusters: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1100, 6))  # more distances than are taken at a time
    rows[:400] += 3
    rows -= rows.mean(axis=0)
    labels = split(rows, clusters, 0)
    assert np.bincount(labels).min() > 0
    assert silhouettes(rows, labels) == pytest.approx(silhouette_samples(rows, labels), abs=1e-4)
    alone = np.where(np.arange(1100) == 7, labels.max() + 1, labels)
    assert silhouettes(rows, alone) == pytest.approx(silhouette_samples(rows, alone), abs=1e-4)
    assert silhouettes(rows, alone)[7] == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reducer", ["pca", "ica", "none"])
def test_labels_with_few_samples_or_equal_ones_are_not_split(rule: str, reducer: str) -> None:
    features, labels, _ = planted_features(0.2, labels=3, each=40)
    rng = np.random.default_rng(0)
    dead = np.tile(features[0], (30, 1))  # a network whose features have all become equal
    twos = np.repeat(features[:2], 4, axis=0)  # as many distinct ones as clusters
    parts = [features, features[:1], features[:2], features[:5], dead, twos]
    named = np.repeat([0, 4, 5, 6, 7, 8], [len(part) for part in parts])
    named[: len(features)] = labels  # label 3 has no samples
    order = rng.permutation(len(named))
    result = cluster(np.concatenate(parts)[order], named[order], rule=rule, reducer=reducer)
    assert np.isfinite(result["scores"]).all()
    unsplit = np.isin(named[order], [4, 5, 7])
    assert not result["scores"][unsplit].any()
    assert not result["flagged"][unsplit].any()
    assert result["scores"][~unsplit].any()


def test_samples_are_scored_where_they_stand() -> None:
    features, labels, poison = planted_features(0.2, labels=3)
    order = np.random.default_rng(1).permutation(len(labels))
    first, moved = cluster(features, labels), cluster(features[order], labels[order])
    assert np.array_equal(moved["flagged"], first["flagged"][order])
    assert np.array_equal(first["flagged"], poison)
