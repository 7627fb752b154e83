"""Time and memory that a person's own folder of images takes: `python tests/benchmarks/bench_own_data.py [IMAGES]`.

By default 60,000 JPEGs of 160 x 120 px in 10 classes, copies of 60 pictures, which are brought to 64 px. For each step
it prints the seconds, on the clock and of a processor, and by how much the process's own memory rose at most.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from bench_large_data import measured, own_mib
from PIL import Image, ImageFilter

from study.datasets.own.data import OwnData, OwnSpec
from study.datasets.own.reading import describe_own, read_own
from study.datasets.own.writing import write_subset

CLASSES, KINDS = 10, 60
T = TypeVar("T")


def write_folder(root: Path, count: int) -> None:
    """A folder of pictures, class by class in turn."""
    rng = np.random.default_rng(0)
    kinds = []
    for number in range(KINDS):
        path = root / f"{number}.jpg"
        noise = Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(2)).save(path, quality=90)
        kinds.append(path)
    for label in range(CLASSES):
        (root / "data" / f"class {label}").mkdir(parents=True)
    for number in range(count):
        shutil.copyfile(kinds[number % KINDS], root / "data" / f"class {number % CLASSES}" / f"{number}.jpg")


def step(what: str, work: Callable[[], T]) -> T:
    """As `measured`, with what all threads took of a processor, which other programs do not lengthen."""
    before = time.process_time()
    result = measured(what, work)
    sys.stdout.write(f"{'':42} {time.process_time() - before:7.1f} s of a processor\n")
    return result


def write(data: OwnData, folder: Path, copy: bool) -> None:
    """All but every tenth image, with the manifest, which reads and hashes every file."""
    write_subset(data, np.arange(len(data.train.ids)) % 10 != 0, folder, copy=copy)


def main() -> None:
    """Runs the steps."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folder(root, count)
        spec = OwnSpec(root / "data")
        sys.stdout.write(f"{count} images; {own_mib():.0f} MiB before the first step\n")
        step("looked at, as --dry-run does", lambda: describe_own(spec))
        step("decoded into the store", lambda: read_own(spec, root / "store", progress=False))
        data = step("read again, as the next command does", lambda: read_own(spec, root / "store"))
        step("hashed and written as links", lambda: write(data, root / "links", copy=False))
        step("hashed and written as copies", lambda: write(data, root / "copies", copy=True))


if __name__ == "__main__":
    main()
