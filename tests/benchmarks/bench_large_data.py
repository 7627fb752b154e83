"""Memory that a study on a folder of large images takes: `python tests/benchmarks/bench_large_data.py [TRAIN TEST]`.

By default 4,000 + 400 pictures of 30 classes; ImageNet-30 has 38,859 + 1,500. All are copies of 60 JPEGs of 400 x 300
px, read at 224 px. For each step it prints the seconds, and by how much the process's own memory (RssAnon: what no
file backs and the system cannot drop) rose above what it was before, at most.
"""

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageFilter

from defenses.api import StageContext
from defenses.models import ModelSpec, build_model
from defenses.storage.store import Store
from defenses.training.inference import predict_array
from defenses.training.loop import BatchSource
from study.datasets import DatasetSpec, load_dataset
from study.datasets.images import Images
from study.scenarios.poison import PoisonedDataset
from study.scenarios.scenario import Scenario, model_spec
from study.scenarios.stored_poison import stored_poison

CLASSES, SIZE, KINDS = 30, 224, 60
CPU = torch.device("cpu")
T = TypeVar("T")


def own_mib() -> float:
    """This process's own memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Peak:
    """The most of this process's own memory, looked at all the while by a thread."""

    def __init__(self) -> None:
        self.most, self._over = own_mib(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, own_mib())

    def close(self) -> float:
        """Ends the watch; the most so far in MiB."""
        self._over.set()
        return max(self.most, own_mib())


def measured(what: str, work: Callable[[], T]) -> T:
    """What some work gives; prints what it took."""
    before, started, peak = own_mib(), time.perf_counter(), Peak()
    result = work()
    rose = peak.close() - before
    sys.stdout.write(f"{what:42} {time.perf_counter() - started:7.1f} s {rose:8.0f} MiB\n")
    sys.stdout.flush()
    return result


def write_folder(root: Path, train: int, test: int) -> None:
    """A folder of pictures, class by class in turn."""
    rng = np.random.default_rng(0)
    kinds = []
    for number in range(KINDS):
        path = root / f"{number}.jpg"
        noise = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(2)).save(path, quality=92)
        kinds.append(path)
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            folder = root / split / f"{number % CLASSES:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(kinds[number % KINDS], folder / f"{number}.jpg")


def train_steps(poisoned: PoisonedDataset, images: Images) -> None:
    """Twenty batches in random order through a small network, with augmentation."""
    spec = model_spec("resnet18", 8, (1, 1, 1, 1), images, poisoned.suspect)
    batches = BatchSource.of(StageContext("bench", poisoned.suspect, spec, CPU, "fp32", 0, lambda *_: None), True)
    model = build_model(spec, 0)
    order = torch.randperm(len(poisoned.suspect), generator=torch.Generator().manual_seed(0))
    for start in range(0, 20 * 32, 32):
        batches.logits(model, order[start : start + 32]).sum().backward()  # type: ignore[no-untyped-call]


def main() -> None:
    """Runs the steps."""
    train, test = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (4000, 400)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "set").mkdir()
        write_folder(root / "set", train, test)
        spec = DatasetSpec(f"folder:{root / 'set'}", image_size=SIZE, store=root / "store")
        size = (train + test) * SIZE**2 * 3 / 2**20
        sys.stdout.write(
            f"{train} + {test} images of {SIZE} px, {size:.0f} MiB; {own_mib():.0f} MiB before the first step\n"
        )
        measured("decoded into the store", lambda: load_dataset(spec))
        images = measured("opened again, as the next command does", lambda: load_dataset(spec))
        scenario, store = Scenario("badnets", 0.1, 0, 0), Store(root / "store")
        measured("poisoned at 0.1", lambda: stored_poison(scenario, images, store))
        poisoned, _ = measured("read back, as each trial does", lambda: stored_poison(scenario, images, store))
        small = ModelSpec("resnet18", 4, (1, 1, 1, 1), CLASSES, SIZE)
        measured("20 steps of training, batch 32", lambda: train_steps(poisoned, images))
        model = build_model(small, 0)
        measured("answers on the test set", lambda: predict_array(model, images.test_images, CPU, "fp32"))


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
