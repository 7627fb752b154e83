"""PIPD's progressive isolation (section 4.2): from channel activations to scores and flags.

The published code recomputes every statistic over all of P_b in each round. P_b only grows, so here each row is
added to running moments once, whatever the number of rounds; and only columns that were ever chosen are gathered.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.cuts import CLUSTERINGS
from defenses.cuts.variance import Mask, Scores, explained_variance

BLOCK_ROWS = 256  # rows added to the moments at once: a block of 4,480 channels stays in the cache
Activations = NDArray[np.float32]


class RunningMoments:
    """Mean and standard deviation of each channel over a growing set of rows (Eq. 5, with the square it lacks).

    Blocks are merged by the pairwise update of Chan, Golub and LeVeque (1983): two passes over each block, in
    float32 within and in float64 across, so that a large mean does not swallow a small variance.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, activations: Activations, rows: NDArray[np.int64]) -> None:
        """Adds rows, int64 [m], of activations, float32 [N, channels]."""
        table = _as_tensor(activations)
        for start in range(0, len(rows), BLOCK_ROWS):
            index = torch.from_numpy(rows[start : start + BLOCK_ROWS])
            block = table.index_select(0, index)
            mean = block.mean(dim=0)
            squares = block.sub_(mean).square_().sum(dim=0)
            self._merge(len(index), mean.double().numpy(), squares.double().numpy())

    def merge(self, other: "RunningMoments") -> None:
        """Adds the rows that another one has seen, and this one has not."""
        self._merge(other.count, other.mean, other._squares)

    def _merge(self, count: int, mean: Scores, squares: Scores) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * (count / total)
        self._squares += squares + delta**2 * (self.count * count / total)
        self.count = total

    @property
    def std(self) -> Scores:
        """Population standard deviation, float64 [channels]."""
        return np.sqrt(self._squares / max(1, self.count))


def _as_tensor(array: Activations) -> torch.Tensor:
    from defenses.training.images import to_device

    return to_device(array, torch.device("cpu"))


class _Columns:
    """Columns of the activations, gathered once each: the same few are chosen again in most rounds."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self._held: dict[int, Scores] = {}

    def total(self, channels: NDArray[np.int64]) -> Scores:
        """The sum of some columns, float64 [N] (Eq. 7)."""
        missing = np.array([c for c in channels.tolist() if c not in self._held], dtype=np.int64)
        if len(missing):
            for channel, column in zip(missing.tolist(), self._gather(missing), strict=True):
                self._held[channel] = column
        total = np.zeros(len(self._activations))
        for channel in channels.tolist():
            total += self._held[channel]
        return total

    def _gather(self, channels: NDArray[np.int64]) -> Activations:
        table = _as_tensor(self._activations)
        return table.index_select(1, torch.from_numpy(channels)).t().contiguous().numpy()


def channels_of_tap(channels: int, channels_per_tap: float | int) -> int:
    """K: how many of a tap's channels are chosen; a fraction is rounded up, a count is capped."""
    if isinstance(channels_per_tap, float):
        return max(1, math.ceil(round(channels_per_tap * channels, 9)))
    return min(channels, channels_per_tap)


def choose_channels(discrepancy: Scores, tap_sizes: list[int], channels_per_tap: float | int) -> NDArray[np.int64]:
    """The channels with the largest discrepancy within each tap (Eq. 6), sorted.

    Args:
        discrepancy: float64 [channels], tap after tap.
        tap_sizes: channels of each tap.
        channels_per_tap: a share of a tap's channels, or a count.

    Returns:
        int64 [chosen], positions in `discrepancy`.
    """
    chosen = []
    start = 0
    for size in tap_sizes:
        order = np.argsort(-discrepancy[start : start + size], kind="stable")
        chosen.append(start + order[: channels_of_tap(size, channels_per_tap)])
        start += size
    return np.sort(np.concatenate(chosen))


@dataclass
class Isolation:
    """The outcome of progressive isolation.

    Attributes:
        scores: float64 [N] of the last round.
        rounds: the flags of each round, bool [rounds run, N]; the last one is the answer.
        series: per round ``flagged_share``, ``explained_variance``, ``break_gap`` and ``channels_kept``.
    """

    scores: Scores
    rounds: list[Mask] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)


def isolate(
    activations: Activations,
    tap_sizes: list[int],
    poisoned: Mask,
    benign: Mask,
    *,
    beta: float,
    channels_per_tap: float | int,
    rounds: int,
    clustering: str = "fisher_jenks",
    seed: int = 0,
    on_round: Callable[[int], None] | None = None,
) -> Isolation:
    """Progressive isolation, Eq. 3 to 9 and lines 6 to 11 of Algorithm 1.

    Stops early once the flags repeat: P_b then stays as it is, and every later round would give the same.

    Args:
        activations: float32 [N, channels].
        tap_sizes: channels of each tap; they sum to ``channels``.
        poisoned: P_p, bool [N], at least one; fixed.
        benign: P_b of the first round, bool [N], at least one.
        beta, channels_per_tap, rounds, clustering: see `defenses.methods.pipd.pipd.PIPDConfig`.
        seed: of the clusterings that draw.
        on_round: called with each round's number from 1.
    """
    moments = RunningMoments(activations.shape[1])
    columns = _Columns(activations)
    peak = np.asarray(activations[np.flatnonzero(poisoned)].max(axis=0), dtype=np.float64)
    known, new = benign.copy(), np.flatnonzero(benign)
    result = Isolation(np.zeros(len(activations)))
    kept: set[int] = set()
    for number in range(1, rounds + 1):
        moments.add(activations, new)
        chosen = choose_channels(peak - (moments.mean + beta * moments.std), tap_sizes, channels_per_tap)
        result.scores = columns.total(chosen)
        flagged = CLUSTERINGS[clustering](result.scores, seed)
        _record(result, flagged, len(kept & set(chosen.tolist())) / len(chosen))
        kept = set(chosen.tolist())
        if on_round is not None:
            on_round(number)
        if number > 1 and np.array_equal(result.rounds[-1], result.rounds[-2]):
            break
        new = np.flatnonzero(~flagged & ~known)
        known |= ~flagged
    return result


def _record(result: Isolation, flagged: Mask, channels_kept: float) -> None:
    result.rounds.append(flagged)
    values = {
        "flagged_share": float(flagged.mean()),
        "explained_variance": explained_variance(result.scores, flagged),
        "break_gap": break_gap(result.scores, flagged),
        "channels_kept": channels_kept,
    }
    for name, value in values.items():
        result.series.setdefault(name, []).append(value)


def break_gap(scores: Scores, flagged: Mask) -> float:
    """Empty space at the cut, in standard deviations of the scores; 0 when a class is empty.

    Args:
        scores: float64 [N].
        flagged: bool [N], the upper class.
    """
    spread = float(scores.std())
    if spread == 0 or not flagged.any() or flagged.all():
        return 0.0
    return float(scores[flagged].min() - scores[~flagged].max()) / spread
