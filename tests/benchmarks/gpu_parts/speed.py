"""Images a second of a training loop, everything that it does included, beside what the device can do at most."""

import itertools
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from defenses.api import StageContext, SuspectDataset
from defenses.models import ModelSpec, build_model
from defenses.training.images import to_device
from defenses.training.loop import BatchSource, Recipe, fit
from defenses.training.precision import best_precision

MODES = ("eager", "captured", "compiled")


def throughput(network: ModelSpec, batch: int, mode: str, images: int, device: torch.device) -> dict[str, Any]:
    """How fast `fit` trains a network, in the fastest of its epochs after the first.

    Args:
        network: whose image size and classes the random images have.
        mode: one of `MODES`.
        images: of an epoch.

    Returns:
        ``images_per_second``; ``flops``, those that the convolutions and products of these images take a second; and
        ``taken``, how the steps were taken in the end.
    """
    rng = np.random.default_rng(0)
    size = network.image_size
    pixels = rng.integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    dataset = SuspectDataset.of(pixels, rng.integers(0, network.num_classes, images), network.num_classes)
    stamps: list[float] = []

    def stamp(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    context = StageContext("speed", dataset, network, device, best_precision(device), 0, stamp, step=mode)
    model = build_model(network, 0).to(device)
    labels = to_device(dataset.labels, device)
    feed = BatchSource.of(context, augment=True)
    recipe = Recipe(4, 0.01, batch, "cosine", 0.9, 5e-4)

    def loss(index: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(feed.logits(model, index), labels[index])

    started = time.perf_counter()
    fit(context, model, images, recipe, loss, kept={"augment": feed.generator})
    fastest = min(after - before for before, after in itertools.pairwise(stamps))
    return {
        "images_per_second": round(images / fastest),
        "flops": images / fastest * flops_an_image(network),
        "first_epoch_seconds": round(stamps[0] - started, 2),
        "taken": context.how["step"],
    }


def flops_an_image(network: ModelSpec) -> float:
    """Of a training step: those of a forward pass, and twice as many backward."""
    model = build_model(network, 0).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, 3, network.image_size, network.image_size, dtype=torch.uint8))
    return 3.0 * counter.get_total_flops()


def measured_peak(device: torch.device, side: int) -> float:
    """Floating-point operations a second of a product of two square matrices, in the precision of training."""
    dtype = torch.bfloat16 if best_precision(device) == "bf16" else torch.float32
    matrix = torch.randn(side, side, device=device).to(dtype)
    seconds = []
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2.0 * side**3 / min(seconds[1:])
