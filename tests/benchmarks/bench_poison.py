"""Poisoning 50,000 images at a rate of 0.1, for every attack: `python tests/benchmarks/bench_poison.py [ATTACK ...]`.

Seconds and memory of `study.scenarios.poison.poison` without what must be trained: the trained parts are made first on
a small sample, at preset smoke and in few steps, and are not counted. Memory is the peak above what was in use before,
as a multiple of the dataset. Each attack runs in a process of its own, since a peak never falls.
"""

import resource
import subprocess
import sys
import time

import numpy as np

from study.attacks import parse_attack
from study.attacks.groups import expand
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.scenarios.poison import poison

TRAIN, TEST, SIZE = 50_000, 10_000, 32


def _images(train: int, test: int) -> Images:
    rng = np.random.default_rng(0)
    arrays = []
    for count in (train, test):
        arrays += [
            rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8),
            rng.permutation(np.arange(count) % 10).astype(np.int64),
        ]
    return Images.of(*arrays, tuple("0123456789"))  # type: ignore[arg-type]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(text: str) -> None:
    """One attack: a line of seconds and memory."""
    attack = parse_attack(text, "smoke")
    images = _images(TRAIN, TEST)
    dataset = images.train_images.nbytes + images.test_images.nbytes
    if attack.trained:
        context = FitContext(0)
        sample = _images(500, 100)
        state = attack.fit(sample, context)
        if "labels" in state:
            state["labels"] = images.train_labels
        attack.fit = lambda *_: state  # type: ignore[method-assign, assignment]
    before, started = _peak(), time.perf_counter()
    poison(images, attack, 0.08 if attack.clean_label else 0.1, 0, 0)
    seconds = time.perf_counter() - started
    sys.stdout.write(f"{text:28} {seconds:6.2f} s  {(_peak() - before) / dataset:5.2f} x the dataset\n")


def main() -> None:
    """Every attack, or those named."""
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        return measure(sys.argv[2])
    for name in sys.argv[1:] or [name for name, _ in expand(("every",), "cifar10")]:
        subprocess.run([sys.executable, __file__, "--measure", name], check=True)


if __name__ == "__main__":
    main()
