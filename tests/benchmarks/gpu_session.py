"""All that a machine with a GPU is good for, unattended and inside a time limit.

python tests/benchmarks/gpu_session.py --dataset npz:.data/cifar10.npz --minutes 25 --results results.jsonl

First the tests marked `gpu`, then the throughput of ResNet-18 training, then cells of the papers' tables at the preset
`paper`, one process each. A cell that the results file already holds is skipped; each line is appended when it is done,
so that the session may be cut off anywhere. `--preset smoke --dataset digits` rehearses it without a GPU.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from defenses.api import StageContext, SuspectDataset
from defenses.models import ModelSpec, build_model
from defenses.training.images import to_device
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.precision import best_precision

CELLS = [
    (defense, attack, 0.05, 0)
    for attack in ("badnets", "blended_random", "trojan_square", "blended_image")
    for defense in ("pipd", "qt")
]
FLOPS_PER_IMAGE = 3 * 2 * 0.556e9  # ResNet-18 at 32 px: 0.556 G multiply-adds forward, twice that backward
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, from the data sheets


def throughput(images: int = 50_000, batch_size: int = 128) -> dict[str, Any]:
    """Images a second of plain training with ResNet-18 of width 64, over the second of two epochs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rng = np.random.default_rng(0)
    count = images if device.type == "cuda" else 256
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    dataset = SuspectDataset.of(pixels, rng.integers(0, 10, count), 10)
    stamps: list[float] = []
    context = StageContext(
        "throughput",
        dataset,
        ModelSpec("resnet18", 64, (2, 2, 2, 2)),
        device,
        best_precision(device),
        0,
        lambda *_: stamps.append(time.perf_counter()),
    )
    model = build_model(context.model, 0).to(device)
    labels = to_device(dataset.labels, device)
    feed = BatchSource(to_device(dataset.images, device), context.precision, context.generator("augment"), True)
    recipe = Recipe(2, 0.01, batch_size, "cosine", 0.9, 5e-4)
    fit(context, model, count, recipe, lambda index: functional.cross_entropy(feed.logits(model, index), labels[index]))
    rate = count / (stamps[1] - stamps[0])
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    peak = next((flops for chip, flops in PEAK_FLOPS.items() if chip in name), None)
    share = rate * FLOPS_PER_IMAGE / peak if peak else None
    return {"kind": "throughput", "images_per_second": round(rate), "share_of_peak": share, "batch_size": batch_size}


def cell(options: argparse.Namespace, key: list[Any], seconds: float) -> dict[str, Any]:
    """One cell in a process of its own, stopped at the limit."""
    defense, attack, rate, seed = key
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "cell.json"
        command = [sys.executable, "-m", "study.evaluate", "--defense", defense, "--attack", attack]
        command += ["--poison-rate", str(rate), "--seed", str(seed), "--preset", options.preset]
        command += ["--dataset", options.dataset, "--out", str(options.out), "--json", str(target)]
        try:
            done = subprocess.run(command, timeout=seconds, stderr=subprocess.PIPE, text=True)
        except subprocess.TimeoutExpired:
            return {"kind": "cell", "unfinished": f"stopped after {seconds:.0f} s; its finished stages are stored"}
        if done.returncode:
            return {"kind": "cell", "unfinished": done.stderr.strip().splitlines()[-1]}
        report = json.loads(target.read_text())
    kept = ("metrics", "config", "environment", "wall_seconds", "attack_failed")
    return {"kind": "cell", **{name: report[name] for name in kept}}


def main() -> None:
    """Runs what fits into the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}
    known = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    finished = [found["cell"] for found in known if "metrics" in found]

    def record(found: dict[str, Any]) -> None:
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = {"date": stamp, "preset": options.preset, "dataset": options.dataset, **versions, **found}
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        sys.stderr.write(json.dumps(found)[:400] + "\n")

    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"])
    record({"kind": "tests", "returncode": tests.returncode})
    record(throughput())
    for key in map(list, CELLS):
        left = deadline - time.monotonic()
        if key not in finished and left > 0:
            record({"cell": key, **cell(options, key, left)})


if __name__ == "__main__":
    main()
