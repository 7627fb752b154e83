"""How single runs vote, and what is flagged by enough of them."""

import numpy as np
import pytest
from cleaning_parts import LABELS, POISON, vote, votes

from study.cleaning.votes import Vote, Votes, mean_overlap, votes_needed


@pytest.mark.parametrize(
    ("count", "agreement", "needed"),
    [
        (3, 0.5, 2),
        (2, 0.5, 2),
        (1, 0.5, 1),
        (4, 0.5, 3),
        (6, 0.5, 4),
        (3, 1.0, 3),
        (3, 0.0, 1),
        (3, 2 / 3, 3),
        (9, 0.3, 3),
    ],
)
def test_how_many_votes_flag(count: int, agreement: float, needed: int) -> None:
    assert votes_needed(count, agreement) == needed


def test_a_majority_flags_and_a_split_vote_is_borderline() -> None:
    ballot = votes(POISON, POISON[:20], np.array([5]))
    assert np.flatnonzero(ballot.flagged).tolist() == POISON[:20].tolist()
    assert set(np.flatnonzero(ballot.borderline)) == {5, *POISON[20:].tolist()}
    assert ballot.order[:20].tolist() != sorted(ballot.order[:20].tolist())  # by score, not as in the input
    assert set(ballot.order[:20]) == set(POISON[:20])
    assert ballot.ranks[ballot.order].tolist() == list(range(1, len(LABELS) + 1))


def test_without_split_votes_the_next_ones_are_borderline() -> None:
    ballot = votes(POISON, POISON)
    assert int(ballot.borderline.sum()) == 20
    assert not (ballot.borderline & ballot.flagged).any()
    kept = ballot.scores[~ballot.flagged]
    assert ballot.scores[ballot.borderline].min() >= np.sort(kept)[-20]


def test_scores_of_different_runs_are_counted_from_their_cut() -> None:
    first = vote(POISON)
    assert first.scores is not None
    far = Vote("pipd", 0, first.flagged, 1000 * first.scores - 7)
    np.testing.assert_allclose(first.standing, far.standing)
    assert first.standing[first.flagged].min() > 0 > first.standing[~first.flagged].max()


@pytest.mark.parametrize("rows", [np.empty(0, dtype=np.int64), np.arange(400), np.array([3])])
@pytest.mark.parametrize("scored", [True, False])
def test_any_flags_have_finite_scores(rows: np.ndarray, scored: bool) -> None:
    one = vote(rows)
    ballot = Votes((Vote("pipd", 0, one.flagged, one.scores if scored else None),), LABELS)
    assert np.isfinite(ballot.scores).all()
    assert (ballot.scores[ballot.flagged] >= 0).all()
    assert int(ballot.flagged.sum()) == len(rows)


def test_overlap() -> None:
    masks = [np.array([1, 1, 0, 0], dtype=bool), np.array([0, 1, 1, 0], dtype=bool)]
    assert mean_overlap(masks) == pytest.approx(1 / 3)
    assert mean_overlap([np.zeros(4, dtype=bool)] * 2) == 1.0
    assert mean_overlap(masks[:1]) is None
    assert votes(POISON, POISON).agreement_of("pipd") == 1.0
    assert votes(POISON).agreement_of("flare") is None
