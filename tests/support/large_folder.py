"""A folder of images that takes more memory than a process is allowed: `python large_folder.py FOLDER`.

Prints, as JSON, by how many MiB the process's own memory rose at most while images lay in files of the store, while
they lay in memory, and while they were cleaned as somebody's own data, and how many MiB the images are.
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from defenses.api import StageContext, silent
from defenses.models import build_model
from defenses.storage.store import Store
from defenses.training.loop import BatchSource
from study.cleaning import source
from study.cleaning.options import parse_clean
from study.datasets import DatasetSpec, load_dataset
from study.datasets.own.reading import read_own
from study.datasets.own.writing import write_subset
from study.scenarios.scenario import Scenario, model_spec
from study.scenarios.stored_poison import stored_poison

TRAIN, TEST, SIDE, CLASSES = 480, 24, 224, 4
CPU = torch.device("cpu")


def own_mib() -> float:
    """What this process holds that no file backs, and that the system cannot drop."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def rise(work: Callable[[], object]) -> float:
    """By how many MiB this process's own memory rises at most while some work is done."""
    before, over = own_mib(), threading.Event()
    seen = [before]

    def watch() -> None:
        while not over.wait(0.002):
            seen.append(own_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return max(seen) - before


def write_folder(root: Path) -> None:
    """Small pictures, which are decoded in no time and enlarged."""
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for number in range(count):
            folder = root / split / str(number % CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.bmp")


def use(root: Path, store: Path | None) -> None:
    """Reads the folder, poisons it, reads that back, and shows a network some batches."""
    images = load_dataset(DatasetSpec(f"folder:{root / 'set'}", image_size=SIDE, store=store))
    scenario, kept = Scenario("badnets", 0.05, 0, 0), Store(root / "store")
    stored_poison(scenario, images, kept)
    poisoned, _ = stored_poison(scenario, images, kept)
    spec = model_spec("resnet18", 1, (1,), images, poisoned.suspect)
    model = build_model(spec, 0)
    batches = BatchSource.of(StageContext("large", poisoned.suspect, spec, CPU, "fp32", 0, silent), augment=True)
    order = torch.randperm(len(poisoned.suspect), generator=torch.Generator().manual_seed(0))
    for start in range(0, len(order), 64):
        with torch.no_grad():
            batches.logits(model, order[start : start + 8])


def clean(root: Path) -> None:
    """Does with the folder what a cleaning does around its trainings: reads, plants a known attack, and writes."""
    config = parse_clean({"data": root / "set", "out": root / "out", "store": root / "store", "image_size": SIDE})
    data = read_own(source.own_spec(config), config.store_place)
    suspected = np.arange(len(data.train.labels)) % 10 == 0
    given = source.unsuspected(config, data, suspected)
    images = load_dataset(DatasetSpec(given.name, store=config.store_place))
    for _ in range(2):  # made, and read back
        stored_poison(Scenario("badnets", 0.05, 0, 0), images, Store(root / "store"))
    write_subset(data, ~suspected, root / "out" / "cleaned", copy=True)


def main() -> None:
    """Uses the folder both ways, and cleans it."""
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    write_folder(root / "set")
    told = {"mapped": rise(lambda: use(root, root / "store")), "in_memory": rise(lambda: use(root, None))}
    told["cleaned"] = rise(lambda: clean(root))
    sys.stdout.write(json.dumps({**told, "images": (TRAIN + TEST) * SIDE**2 * 3 / 2**20}))


if __name__ == "__main__":
    main()
