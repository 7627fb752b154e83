"""Metrics against confusion matrices counted by hand, and AUROC against its definition by ranks."""

import numpy as np
import pytest
from numpy.typing import NDArray

from study.scenarios import metrics

# Flags, poison, TPR, FPR; four samples each, so every rate can be read off.
CONFUSIONS = [
    ("1100", "1100", 1.0, 0.0),  # all of the poison and nothing else
    ("0011", "1100", 0.0, 1.0),  # exactly the wrong half
    ("1010", "1100", 0.5, 0.5),  # one of each of the four outcomes
    ("1110", "1000", 1.0, 2 / 3),  # 1 true positive, 2 false ones of 3
    ("0100", "1110", 1 / 3, 0.0),  # 1 of 3 found
    ("1111", "1000", 1.0, 1.0),  # everything flagged
    ("0000", "1100", 0.0, 0.0),  # nothing flagged: both rates are 0, and neither is undefined
    ("1000", "0000", None, 0.25),  # no poison: there is no TPR
    ("0000", "0000", None, 0.0),
    ("1000", "1111", 0.25, None),  # nothing but poison: there is no FPR
    ("0000", "1111", 0.0, None),
]


def mask(bits: str) -> NDArray[np.bool_]:
    return np.array([bit == "1" for bit in bits])


def rank_auroc(scores: NDArray[np.float64], poison: NDArray[np.bool_]) -> float:
    """The Mann-Whitney form: ranks from 1, equal scores share the mean of their ranks."""
    ranks = np.empty(len(scores))
    for value in set(scores.tolist()):
        below, equal = int((scores < value).sum()), int((scores == value).sum())
        ranks[scores == value] = below + (equal + 1) / 2
    positives, negatives = int(poison.sum()), int((~poison).sum())
    return float((ranks[poison].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@pytest.mark.parametrize(("flags", "poison", "tpr", "fpr"), CONFUSIONS)
def test_rates_of_four_samples(flags: str, poison: str, tpr: float | None, fpr: float | None) -> None:
    assert metrics.tpr(mask(flags), mask(poison)) == (None if tpr is None else pytest.approx(tpr))
    assert metrics.fpr(mask(flags), mask(poison)) == (None if fpr is None else pytest.approx(fpr))


def test_auroc_of_four_samples() -> None:
    # Pairs (poisoned, benign) are 3>1, 3>2, 0<1, 0<2: two of four are in order.
    assert metrics.auroc(np.array([3.0, 1.0, 2.0, 0.0]), mask("1001")) == 0.5
    # 2>1, 2=2 (half), 3>1, 3>2: three and a half of four.
    assert metrics.auroc(np.array([2.0, 3.0, 1.0, 2.0]), mask("1100")) == 0.875
    assert metrics.auroc(np.array([1.0, 1.0, 1.0, 1.0]), mask("1100")) == 0.5


def test_auroc_is_undefined_without_scores_or_with_one_class() -> None:
    assert metrics.auroc(None, mask("1100")) is None
    assert metrics.auroc(np.arange(4.0), mask("0000")) is None
    assert metrics.auroc(np.arange(4.0), mask("1111")) is None


@pytest.mark.parametrize("seed", range(12))
def test_auroc_is_the_rank_formula_whatever_the_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, 40).astype(np.float64)  # five values for 40 samples: most are tied
    poison = rng.random(40) < 0.3
    poison[:2] = [True, False]
    found = metrics.auroc(scores, poison)
    assert found == pytest.approx(rank_auroc(scores, poison))
    for rescaled in (np.exp(scores), 3 * scores - 7, np.arctan(scores), scores**3):
        assert metrics.auroc(rescaled, poison) == pytest.approx(found)
    assert metrics.auroc(-scores, poison) == pytest.approx(1 - rank_auroc(scores, poison))


def test_auroc_of_flags_is_the_mean_of_the_two_hit_rates() -> None:
    flags, poison = mask("1010"), mask("1100")
    assert metrics.auroc(flags.astype(np.float64), poison) == 0.5  # (TPR 0.5 + TNR 0.5) / 2
    assert metrics.auroc(mask("1110").astype(np.float64), mask("1000")) == pytest.approx((1 + 1 / 3) / 2)


def test_clean_accuracy_counts_the_quarantine_half_as_wrong() -> None:
    labels = np.array([0, 1, 1, 2])
    assert metrics.ca(np.array([0, 1, 2, 2]), labels) == 0.75
    # With K = 3, output 4 is class 1 in quarantine: the sample is not classified, so it is wrong.
    assert metrics.ca(np.array([0, 4, 1, 2]), labels) == 0.75
    assert metrics.ca(np.array([3, 4, 4, 5]), labels) == 0.0
    assert metrics.ca(labels[:0], labels[:0]) is None


def test_folded_accuracy_looks_at_the_first_half_alone() -> None:
    labels = np.array([0, 1])
    # Both samples have their highest output in quarantine (K = 2); the first halves are right, then wrong.
    logits = np.array([[2.0, 1.0, 9.0, 0.0], [3.0, 1.0, 0.0, 9.0]], dtype=np.float32)
    assert metrics.ca(logits.argmax(axis=1), labels) == 0.0
    assert metrics.ca_folded(logits, labels, num_classes=2) == 0.5
    assert metrics.ca_folded(logits[:0], labels[:0], num_classes=2) is None


def test_quarantined_share() -> None:
    predictions = np.array([0, 1, 2, 3])
    assert metrics.quarantined(predictions, num_classes=2) == 0.5  # 2 is the first quarantine class
    assert metrics.quarantined(predictions, num_classes=4) == 0.0
    assert metrics.quarantined(predictions[:0], num_classes=2) is None


def test_attack_success_rate() -> None:
    wanted = np.zeros(4, dtype=np.int64)
    assert metrics.asr(np.array([0, 0, 0, 1]), wanted) == 0.75
    # A prediction in the target's quarantine class (K = 3) is no success of the attacker.
    assert metrics.asr(np.array([3, 3, 0, 1]), wanted) == 0.25
    assert metrics.asr(wanted[:0], wanted[:0]) is None
