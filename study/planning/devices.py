"""What a study runs on: the device, its precision, and how many trials fit on a node."""

import math
import os
from collections.abc import Mapping
from typing import Literal

from defenses.registry import UserError


def settle_device(wanted_gpus: float | Literal["auto"] | None, remote: bool) -> tuple[str, float]:
    """``cuda`` or ``cpu``, and the GPUs a trial.

    Args:
        wanted_gpus: the user's ``--gpus-per-trial``; None takes a GPU where this machine has one, and ``auto`` a whole
            one until a trial was measured.
        remote: the work is done on a cluster, whose GPUs cannot be seen from here.

    Raises:
        UserError: a GPU is wanted where there is none, or a share of GPUs above 1 that is no whole number.
    """
    import torch

    available = torch.cuda.is_available()
    if wanted_gpus is None:
        wanted_gpus = 1.0 if available and not remote else 0.0
    if wanted_gpus == 0:
        return "cpu", 0.0
    if not remote and not available:
        raise UserError(
            f"--gpus-per-trial {wanted_gpus} needs a GPU that torch can use, and this machine has none: "
            "leave it out to run on the CPU, or name a cluster with --address"
        )
    if wanted_gpus == "auto":
        return "cuda", 1.0
    if wanted_gpus > 1 and wanted_gpus != int(wanted_gpus):
        raise UserError(f"--gpus-per-trial must be at most 1 or a whole number, got {wanted_gpus:g}")
    return "cuda", wanted_gpus


def check_cpus(wanted: float, remote: bool) -> None:
    """Refuses more cores a trial than this machine has; a cluster's are known once it is reached.

    Raises:
        UserError: there are fewer.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not remote and wanted > here:
        raise UserError(
            f"--cpus-per-trial, by default --threads, must be at most {here}, the cores of this machine, got {wanted:g}"
        )


def settle_precision(wanted: str, device: str) -> str:
    """``bf16`` or ``fp32``, settled once so that all of a study's stages agree."""
    from defenses.training.precision import best_precision

    return best_precision(device) if wanted == "auto" and device == "cpu" else "bf16" if wanted == "auto" else wanted


def trials_at_once(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many trials fit on a node, given and wanted amounts by resource.

    A share of a GPU lies on one device: of two GPUs 0.4 fits four times, not five.
    """
    fits = [
        math.floor(1 / amount + 1e-9) * math.floor(node.get(name, 0.0))
        if name == "GPU" and amount < 1
        else math.floor(node.get(name, 0.0) / amount + 1e-9)
        for name, amount in wanted.items()
        if amount > 0
    ]
    return min(fits)
