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
from defenses.api import Params, StageContext, SuspectDataset, silent
from defenses.models import ModelSpec
from defenses.runner import stage_params

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


if __name__ == "__main__":
    main()
