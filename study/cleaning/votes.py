"""Who was flagged by whom: a vote for each defense and seed, and what most of them say."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_MOST_BORDERLINE = 1000
_FEW = 20  # samples next to the cut that are shown where no vote was split


@dataclass(frozen=True)
class Vote:
    """What one defense flags with one seed.

    Attributes:
        flagged: bool [N].
        scores: float64 [N], higher = more suspicious; None for a defense that only flags.
    """

    defense: str
    seed: int
    flagged: NDArray[np.bool_]
    scores: NDArray[np.float64] | None

    @property
    def name(self) -> str:
        """A column of a table."""
        return f"{self.defense}_seed{self.seed}"

    @cached_property
    def standing(self) -> NDArray[np.float64]:
        """float64 [N]: how far above the cut each score lies, in standard deviations; comparable between votes.

        The cut lies between the scores of as many samples as are flagged and the next one.
        """
        scores = self.flagged.astype(np.float64) if self.scores is None else self.scores
        spread = float(scores.std())
        if spread == 0:
            return np.where(self.flagged, 1.0, -1.0)
        ordered, count = np.sort(scores)[::-1], int(self.flagged.sum())
        above, below = ordered[max(0, count - 1)], ordered[min(len(ordered) - 1, count)]
        cut = above + spread * 1e-6 if count == 0 else (above + below) / 2
        return np.asarray((scores - cut) / spread)


def votes_needed(count: int, agreement: float) -> int:
    """How many of `count` votes flag a sample: more than the share `agreement` of them, or all where that is 1."""
    return min(count, math.floor(count * agreement + 1e-9) + 1)


@dataclass(frozen=True)
class Votes:
    """All votes on one dataset.

    Attributes:
        labels: int64 [N], as received.
        agreement: share of the votes that is not enough to flag a sample, in [0, 1].
    """

    votes: tuple[Vote, ...]
    labels: NDArray[np.int64]
    agreement: float = 0.5

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def needed(self) -> int:
        """Votes that flag a sample."""
        return votes_needed(len(self.votes), self.agreement)

    @property
    def methods(self) -> tuple[str, ...]:
        """The defenses that voted, each once."""
        return tuple(dict.fromkeys(vote.defense for vote in self.votes))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """int64 [N]: votes for each sample."""
        return np.asarray(np.sum([vote.flagged for vote in self.votes], axis=0), dtype=np.int64)

    @cached_property
    def flagged(self) -> NDArray[np.bool_]:
        """Who is flagged by enough votes, bool [N]."""
        return np.asarray(self.counts >= self.needed)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """float64 [N]: mean standing over the votes; above 0 on the flagged side of the cut."""
        return np.asarray(np.mean([vote.standing for vote in self.votes], axis=0))

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """int64 [N]: positions, the most suspicious first: by votes, then by score, then as in the input."""
        return np.asarray(np.lexsort((-self.scores, -self.counts)), dtype=np.int64)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """int64 [N]: place of each sample in `order`, from 1."""
        ranks = np.empty(len(self), dtype=np.int64)
        ranks[self.order] = np.arange(1, len(self) + 1)
        return ranks

    @cached_property
    def borderline(self) -> NDArray[np.bool_]:
        """Who is not flagged, but by some vote, bool [N]; where no vote was split, the few that come next."""
        near = ~self.flagged & (self.counts > 0)
        limit = _MOST_BORDERLINE if near.any() else _FEW
        rows = self.order[~self.flagged[self.order]][: min(limit, int(near.sum()) or limit)]
        mask = np.zeros(len(self), dtype=bool)
        mask[rows] = True
        return mask

    def agreement_of(self, defense: str | None = None) -> float | None:
        """Mean Jaccard overlap of pairs of votes that flag anything; None for fewer than two votes.

        Args:
            defense: whose votes are compared; all by default.
        """
        own = [vote.flagged for vote in self.votes if defense in (None, vote.defense)]
        return mean_overlap(own)


def mean_overlap(masks: Sequence[NDArray[np.bool_]]) -> float | None:
    """Mean over all pairs of the share that both flag of what either flags; two empty ones agree.

    Args:
        masks: bool [N] each.

    Returns:
        None for fewer than two.
    """
    overlaps = []
    for first, second in itertools.combinations(masks, 2):
        either = int((first | second).sum())
        overlaps.append(int((first & second).sum()) / either if either else 1.0)
    return float(np.mean(overlaps)) if overlaps else None
