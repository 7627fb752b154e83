"""The isolate stage at the papers' scale: 8 rounds over 50,000 x 4,480 activations, against a loop over channels.

    python tests/benchmarks/bench_isolation.py [--rows 50000] [--repeat 3]

Both sides flag the same samples, which is checked. Needs about 2 GiB of memory.
"""

import argparse
import sys
import time

import numpy as np
from numpy.typing import NDArray

from defenses.cuts import CLUSTERINGS
from defenses.cuts.variance import two_class_cut
from defenses.methods.pipd.isolation import channels_of_tap, isolate

TAPS = [128] * 5 + [256] * 5 + [512] * 5  # ResNet-18 at width 64: 15 taps, 4,480 channels
BETA, SHARE, ROUNDS = 3.0, 0.04, 8


def make(rows: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Half-normal activations; 5 % of the rows fire some channels harder."""
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((rows, sum(TAPS)), dtype=np.float32)
    np.abs(activations, out=activations)
    poison = rng.permutation(rows)[: rows // 20]
    fired = rng.permutation(sum(TAPS))[:200]
    strength = rng.uniform(1.0, 4.0, (len(poison), 1)).astype(np.float32)
    activations[np.ix_(poison, fired)] += strength
    p_mask = np.zeros(rows, dtype=bool)
    p_mask[poison[: rows // 100]] = True
    b_mask = np.zeros(rows, dtype=bool)
    b_mask[np.setdiff1d(np.arange(rows), poison)[: rows // 5]] = True
    return activations, p_mask, b_mask


class Restless:
    """Fisher-Jenks, with one more sample flagged in each round: no two rounds agree, so all of them are run."""

    def __init__(self) -> None:
        self.round = 0

    def __call__(self, scores: NDArray[np.float64], seed: int) -> NDArray[np.bool_]:
        flagged = scores > two_class_cut(scores)
        flagged[np.flatnonzero(~flagged)[: self.round]] = True
        self.round += 1
        return flagged


def one_round_by_channel(
    activations: NDArray[np.float32], p_mask: NDArray[np.bool_], b_mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """One round as a loop over channels: every statistic taken afresh from float64 copies of the columns."""
    scores = np.zeros(len(activations))
    start = 0
    for size in TAPS:
        discrepancy = np.empty(size)
        for channel in range(size):
            column = activations[:, start + channel].astype(np.float64)
            benign = column[b_mask]
            discrepancy[channel] = column[p_mask].max() - (benign.mean() + BETA * benign.std())
        for channel in np.argsort(-discrepancy, kind="stable")[: channels_of_tap(size, SHARE)]:
            scores += activations[:, start + channel]
        start += size
    return scores > two_class_cut(scores)


def main() -> None:
    """Times both and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    activations, p_mask, b_mask = make(options.rows)
    seconds = []
    for _ in range(options.repeat):
        CLUSTERINGS["restless"] = Restless()
        started = time.perf_counter()
        found = isolate(
            activations, TAPS, p_mask, b_mask, beta=BETA, channels_per_tap=SHARE, rounds=ROUNDS, clustering="restless"
        )
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    expected = one_round_by_channel(activations, p_mask, b_mask)
    loop = time.perf_counter() - started
    assert len(found.rounds) == ROUNDS
    assert np.array_equal(found.rounds[0], expected), "both must flag the same samples"
    runs = ", ".join(f"{value:.2f}" for value in seconds)
    sys.stdout.write(
        f"isolate, {ROUNDS} rounds: {min(seconds):.2f} s (of {runs})\n"
        f"one round by a loop over channels: {loop:.1f} s; the same samples flagged\n"
    )


if __name__ == "__main__":
    main()
