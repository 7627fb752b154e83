"""What decides a sum beside its terms: processor, libraries and threads. A stage's key holds it.

Training is chaotic: where the order of a sum moves its last bits, LGA's isolation can end with poison at the highest
loss instead of the lowest: one cell of PIPD's reached TPR 0.044 and AUROC 0.188 on one thread, and 1.000 and 0.986 on
two (``study/README.md``, "What decides a number").
"""

import functools
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

_CHOSEN_BY = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "sve", "sve2")
_OVERRIDES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)


def numerics(device: torch.device) -> dict[str, Any]:
    """What decides the bits of a sum on a device, as it is in this process now; JSON can hold it.

    On the CPU: vendor, instruction sets and caches, by which torch, oneDNN and MKL choose kernels and blocks, what
    overrides that choice, and torch's threads. On a GPU: its model and the CUDA and cuDNN releases. On both torch's
    version and switches. Two machines that agree in all of it can still differ in ways that no library tells;
    `describe_machine` names the processor beside each stored entry.
    """
    switches = {
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    common = {"device": device.type, "torch": torch.__version__, **switches}
    if device.type != "cpu":
        return {**common, **_gpu(device), "tf32": torch.backends.cudnn.allow_tf32}
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch do not tell
    sets = [name for name in _CHOSEN_BY if capabilities.get(name) is True]
    return {
        **common,
        "processor": f"{capabilities.get('architecture', platform.machine())} {_cpuinfo('vendor_id')}".strip(),
        "kernels": [torch.backends.cpu.get_cpu_capability(), *sets],
        "caches": [capabilities.get(name) for name in ("l1d_cache_size", "l2_cache_size")],
        "onednn": torch.backends.mkldnn.enabled,
        "overrides": {name: os.environ[name] for name in _OVERRIDES if name in os.environ},
        "threads": torch.get_num_threads(),
    }


def describe_numerics(device: torch.device) -> str:
    """The same for people, in a few words: ``AVX512, 1 thread, torch 2.10.0``."""
    parts = numerics(device)
    if device.type != "cpu":
        return f"{parts.get('gpu', device.type)}, torch {parts['torch']}"
    threads = parts["threads"]
    kernels = parts["kernels"][0]
    return f"{parts['processor']} {kernels}, {threads} thread{'s' * (threads != 1)}, torch {parts['torch']}"


def describe_machine() -> dict[str, Any]:
    """What computes in this process, for whoever wonders later where a stored number comes from."""
    parts = {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    # Asked of a process that has not used its GPU, CUDA would start here, and take memory that a trial was promised.
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {**parts, **_gpu(torch.device("cuda"))} if started else parts


def _gpu(device: torch.device) -> dict[str, Any]:
    """Of a GPU that this process can see: a driver may plan for GPUs that only other machines have."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return {}
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": cudnn,
    }


@functools.cache  # of hardware, asked for the key of each stage
def _cpuinfo(field: str) -> str:
    """A line of Linux's description of the first processor; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
