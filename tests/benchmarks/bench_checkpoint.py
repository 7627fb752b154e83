"""What a checkpoint costs against an epoch, on the CPU.

python tests/benchmarks/bench_checkpoint.py [--repeat 5]

Rows: the digits with the network of preset smoke, and ResNet-18 of full width on images of 32 px. An epoch of the
latter over 50,000 images is computed from the time of a few steps.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from defenses.api import StageContext, SuspectDataset, silent
from defenses.models import ModelSpec, build_model
from defenses.storage.checkpoint import Checkpoint
from defenses.storage.state_codec import TrainingState
from defenses.training.images import to_device
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.precision import best_precision

CPU = torch.device("cpu")
ROWS = {
    "digits, smoke": (ModelSpec("resnet18", 16, (1, 1, 1, 1), 10, 32), 1437, 1437),
    "ResNet-18, 32 px": (ModelSpec("resnet18", 64, (2, 2, 2, 2), 10, 32), 256, 50_000),
}


def seconds_of(call: Callable[[], object], repeat: int) -> float:
    """The median of some calls, after one that is not counted."""
    call()
    found = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def epoch_seconds(spec: ModelSpec, images: int, repeat: int) -> float:
    """An epoch of plain training over so many images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, spec.image_size, spec.image_size, 3), dtype=np.uint8)
    data = SuspectDataset.of(pixels, rng.integers(0, 10, images), 10)
    context = StageContext("bench", data, spec, CPU, best_precision(CPU), 0, silent)
    model, labels = build_model(spec, 0), to_device(data.labels, CPU)
    feed = BatchSource(to_device(data.images, CPU), context.precision, context.generator("augment"), True)

    def loss(index: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(feed.logits(model, index), labels[index])

    return seconds_of(lambda: fit(context, model, images, Recipe(1, 0.01, 64, "constant", 0.9, 5e-4), loss), repeat)


def write_seconds(spec: ModelSpec, folder: Path, repeat: int) -> tuple[float, int]:
    """One checkpoint of such a network with its momentum, and its bytes."""
    model = build_model(spec, 0)
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    parts: TrainingState = {"model": model, "optimiser": optimiser, "batches": torch.Generator(), "losses": [0.5] * 100}

    def write() -> None:
        for _ in Checkpoint(folder, seconds=0).epochs(1, parts):
            pass
        (folder / "checkpoint-1.json").unlink()  # nothing to go on from: the next call writes again

    return seconds_of(write, repeat), sum(file.stat().st_size for file in folder.iterdir())


def main() -> None:
    """Prints a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; a temporary folder by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, (spec, images, whole) in ROWS.items():
        epoch = epoch_seconds(spec, images, options.repeat) * whole / images
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write, size = write_seconds(spec, Path(folder), options.repeat)
        sys.stdout.write(
            f"{name}: epoch {epoch:.3g} s, checkpoint {write:.3g} s ({size / 1e6:.3g} MB), ratio {write / epoch:.2g}; "
            f"at one a second at most {write / max(epoch, 1.0):.2g}\n"
        )


if __name__ == "__main__":
    main()
