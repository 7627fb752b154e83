"""An epoch of Quarantine Training against a plain one at the same settings, interleaved so that noise hits both.

python tests/benchmarks/bench_quarantine_epoch.py [--images 4000] [--repeat 5]
"""

import argparse
import statistics
import sys
import time

import numpy as np
import torch

from defenses.api import Params, StageContext, SuspectDataset, stage_params
from defenses.methods.no_defense import NoDefenseConfig
from defenses.methods.quarantine import PRE_QUARANTINE, QUARANTINE_TRAINING, QTConfig
from defenses.models import ModelSpec
from defenses.shared_stages import STANDARD_TRAINING
from defenses.training.precision import best_precision

EPOCHS = 4


class Clock:
    """A `Progress` that notes when each epoch ended."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, stage: str, step: int, steps: int, values: object) -> None:
        self.stamps.append(time.perf_counter())

    def epoch(self) -> float:
        """Median seconds of an epoch, the first one left out; starts anew."""
        seconds = statistics.median(np.diff(self.stamps))
        self.stamps = []
        return float(seconds)


def main() -> None:
    """Prints the median ratio of epoch times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
    dataset = SuspectDataset.of(images, rng.integers(0, 10, options.images), 10)
    spec = ModelSpec("preact_resnet18", 16, (2, 2, 2, 2))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = best_precision(device)
    clock = Clock()
    context = StageContext("bench", dataset, spec, device, precision, 0, clock)
    plain_config = NoDefenseConfig(epochs=EPOCHS, lr=0.01, batch_size=64, schedule="cosine", augment=False)
    qt_config = QTConfig(quarantine_epochs=EPOCHS, pre_epochs=1)
    pre = PRE_QUARANTINE.run(context, {}, Params(**stage_params(PRE_QUARANTINE, qt_config)))
    clock.stamps = []
    inputs = {"weights": pre["weights"], "sample_losses": pre["sample_losses"]}
    ratios = []
    for _ in range(options.repeat):
        STANDARD_TRAINING.run(context, {}, Params(**stage_params(STANDARD_TRAINING, plain_config)))
        plain = clock.epoch()
        QUARANTINE_TRAINING.run(context, inputs, Params(**stage_params(QUARANTINE_TRAINING, qt_config)))
        ratios.append(clock.epoch() / plain)
    sys.stdout.write(
        f"{options.images} images, {device.type}, {precision}: QT / plain epoch "
        f"{statistics.median(ratios):.3f} (median of {options.repeat}: {[round(r, 3) for r in ratios]})\n"
    )


if __name__ == "__main__":
    main()
