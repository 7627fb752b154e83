"""The exact two-class cut at 50,000 values, against jenkspy: `python tests/benchmarks/bench_cut.py`."""

import sys
import time

import jenkspy
import numpy as np

from defenses.cuts.variance import two_class_cut

N = 50_000


def main() -> None:
    """Times both on one set of scores and checks that they give one break."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 1, N - N // 20), rng.normal(6, 1, N // 20)])
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        cut = two_class_cut(scores)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    reference = jenkspy.jenks_breaks(scores, n_classes=2)[1]
    slow = time.perf_counter() - started
    assert cut == reference, (cut, reference)
    sys.stdout.write(
        f"two_class_cut {1000 * np.median(seconds):.1f} ms (median of 20), jenkspy {slow:.2f} s, same break\n"
    )


if __name__ == "__main__":
    main()
