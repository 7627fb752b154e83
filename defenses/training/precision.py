"""bf16 where the processor has instructions for it, float32 elsewhere."""

import functools
from contextlib import AbstractContextManager

import torch

PRECISIONS = ("bf16", "fp32")


@functools.cache
def _cpu_has_bf16() -> bool:
    # AMX and AVX512-BF16 double the speed of a ResNet; without them, bf16 on a CPU is emulated and slower.
    # torch.cpu.get_capabilities, the public way to ask, came after our oldest torch.
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if known:
        return bool(known.get("amx_bf16") or known.get("avx512_bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def best_precision(device: torch.device | str) -> str:
    """``"bf16"`` or ``"fp32"``, whichever the device runs faster."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which convolutions and matrix products run in the given precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
