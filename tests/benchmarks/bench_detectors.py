"""Activation clustering and spectral signatures at the papers' scale: 50,000 x 512 features, beyond the forward passes.

    python tests/benchmarks/bench_detectors.py [--rows 50000] [--dims 512] [--labels 10] [--repeat 3]

The features are noise around a mean a label, of label 0 a third is shifted; both find those, which is checked.
"""

import argparse
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses import DEFENSES
from defenses.api import Params, StageContext, SuspectDataset, silent, stage_params
from defenses.models import ModelSpec, build_model
from defenses.training.input_masks import MaskRecipe, find_masks

MODES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ac", {}),
    ("ac", {"reducer": "ica"}),
    ("ss", {"budget": 0.5}),
    ("ss", {"budget": 0.5, "vectors": 5}),
)


def make(rows: int, dims: int, labels: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Features [rows, dims], labels and who is poison."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % labels
    x = rng.standard_normal((rows, dims), dtype=np.float32)
    x += rng.standard_normal((labels, dims), dtype=np.float32)[y]
    poison = (y == 0) & (np.arange(rows) % (3 * labels) == 0)
    x[poison, :20] += 3
    return x, y, poison


def main() -> None:
    """Prints one line for each mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    features, labels, poison = make(options.rows, options.dims, options.labels)
    data = SuspectDataset(np.zeros((options.rows, 8, 8, 3), dtype=np.uint8), labels, options.labels, "bench")
    for name, fields in MODES:
        kind = DEFENSES[name]
        stage = next(stage for stage in kind.stages if not stage.cached)
        params = Params(**stage_params(stage, kind.config_type.from_mapping(fields)))
        context = StageContext(stage.name, data, ModelSpec(), torch.device("cpu"), "fp32", 0, silent)
        seconds, used = [], []
        for _ in range(options.repeat):
            started, before = time.perf_counter(), time.process_time()
            flagged = stage.run(context, {"features": features}, params)["flagged"]
            seconds.append(time.perf_counter() - started)
            used.append(time.process_time() - before)
        assert fields.get("reducer") == "ica" or flagged[poison].mean() > 0.9, "the shifted rows must be flagged"
        runs = ", ".join(f"{value:.2f}" for value in seconds)
        sys.stdout.write(f"{name} {fields or ''}: {min(seconds):.2f} s (of {runs}), {min(used):.2f} s of a processor\n")
    bench_flare(options.rows)
    bench_masks()


def bench_flare(rows: int) -> None:
    """FLARE's clustering of 20 columns, in one thread: core distances and the tree, beyond the forward pass."""
    rng = np.random.default_rng(0)
    points, poison = rng.standard_normal((rows, 20), dtype=np.float32), np.arange(rows) % 10 == 0
    points[poison] = 0.3 * points[poison] + 8
    kind, labels = DEFENSES["flare"], np.zeros(rows, dtype=np.int64)
    data = SuspectDataset(np.zeros((rows, 8, 8, 3), dtype=np.uint8), labels, 10, "bench")
    given: dict[str, Any] = {"rows": points}
    started, before = time.perf_counter(), time.process_time()
    for stage in kind.stages[2:4]:
        context = StageContext(stage.name, data, ModelSpec(), torch.device("cpu"), "fp32", 0, silent)
        given = stage.run(context, given, Params(**stage_params(stage, kind.config_type())))
    wall, used = time.perf_counter() - started, time.process_time() - before
    assert given["flagged"][poison].mean() > 0.9, "the shifted rows must be flagged"
    sys.stdout.write(f"flare, {rows} x 20: {wall:.2f} s, {used:.2f} s of a processor\n")


def bench_masks(images: int = 512, steps: int = 10) -> None:
    """What cognitive distillation takes beyond the passes forward and back to the images that it makes."""
    model = build_model(ModelSpec("resnet18", 16, (1, 1, 1, 1)), 0).eval().requires_grad_(False)
    pixels = torch.randint(0, 256, (images, 32, 32, 3)).permute(0, 3, 1, 2).float()
    recipe = MaskRecipe(alpha=0.01, beta=1.0, lr=0.1, steps=steps)
    find_masks(model, model(pixels).detach(), pixels, MaskRecipe(0.01, 1.0, 0.1, 1), torch.Generator())
    used = []
    before = time.process_time()
    for _ in range(steps):
        shown = pixels.clone().requires_grad_()
        torch.autograd.grad(model(shown).abs().sum(), shown)
    used.append(time.process_time() - before)
    before = time.process_time()
    find_masks(model, model(pixels).detach(), pixels, recipe, torch.Generator())
    used.append(time.process_time() - before)
    sys.stdout.write(
        f"cd, {images} masks of {steps} steps: {used[1]:.2f} s of a processor, passes alone {used[0]:.2f} s\n"
    )


if __name__ == "__main__":
    main()
