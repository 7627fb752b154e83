"""Signals that need no ground truth, by hand."""

import math

import numpy as np
import pytest

from defenses.api import DefenseResult
from defenses.signals import SIGNALS, cut_fit, cut_gap, loss_gap, round_agreement, signals

SCORES = np.array([0.0, 1.0, 2.0, 9.0])
FLAGGED = np.array([False, False, False, True])
LABELS = np.array([0, 0, 1, 1], dtype=np.int64)


def result(**changes: object) -> DefenseResult:
    parts: dict[str, object] = {"scores": SCORES, "flagged": FLAGGED, "model": None, **changes}
    return DefenseResult(**parts)  # type: ignore[arg-type]


def test_the_gap_is_told_in_standard_deviations() -> None:
    assert cut_gap(SCORES, FLAGGED) == pytest.approx((9 - 2) / SCORES.std())
    assert cut_gap(10 * SCORES + 3, FLAGGED) == pytest.approx(cut_gap(SCORES, FLAGGED))
    assert cut_gap(SCORES, np.array([True, False, False, False])) == pytest.approx((0 - 9) / SCORES.std())
    assert cut_gap(np.ones(4), FLAGGED) is None


def test_the_fit_is_one_minus_within_over_whole() -> None:
    assert cut_fit(SCORES, FLAGGED) == pytest.approx(1 - 2 / 50)  # within: 1 + 0 + 1; whole: 9 + 4 + 1 + 36
    assert cut_fit(np.array([1.0, 1.0, 5.0]), np.array([False, False, True])) == pytest.approx(1.0)
    assert cut_fit(np.ones(4), FLAGGED) is None


def test_poison_with_a_low_loss_makes_the_gap_positive() -> None:
    losses = np.array([1.0, 2.0, 3.0, 0.0], dtype=np.float32)
    assert loss_gap(losses, FLAGGED) == pytest.approx(2 / math.sqrt(1.25))
    assert loss_gap(np.zeros(4), FLAGGED) is None


def test_agreement_is_the_mean_overlap_of_successive_rounds() -> None:
    rounds = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]], dtype=bool)
    assert round_agreement(rounds) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert round_agreement(np.zeros((3, 4), dtype=bool)) == 1.0


def test_counts_of_classes() -> None:
    found = signals(result(flagged=np.array([True, False, True, True])), LABELS, 3)
    assert found["class_share"] == 1.0  # both images of class 1
    assert found["class_focus"] == pytest.approx(2 / 3)


def test_what_is_undefined_is_none_and_never_a_number() -> None:
    nothing = signals(result(flagged=np.zeros(4, dtype=bool)), LABELS, 2)
    assert nothing == {**dict.fromkeys(SIGNALS), "class_share": 0.0}
    everything = signals(result(flagged=np.ones(4, dtype=bool)), LABELS, 2)
    assert everything["cut_gap"] is None
    assert everything["class_share"] == 1.0
    assert signals(result(scores=None, flagged=None), LABELS, 2) == dict.fromkeys(SIGNALS)


def test_rounds_and_losses_come_from_the_result() -> None:
    rounds = np.array([FLAGGED, FLAGGED])
    found = signals(
        result(flagged_series={"isolate": rounds}, sample_losses=np.array([1.0, 2.0, 3.0, 0.0]), train_loss=[2.0, 0.5]),
        LABELS,
        2,
    )
    assert found["round_agreement"] == 1.0
    assert found["loss_gap"] == pytest.approx(2 / math.sqrt(1.25))
    assert found["final_loss"] == 0.5
    assert set(found) == set(SIGNALS)
    assert None not in found.values()
