"""A trial's part of a GPU: Ray only counts the fractions, so the memory behind them is held, and measured, here."""

import gc
import math
from collections.abc import Callable

import torch

from defenses.registry import UserError

RETRIES = 2  # how often a trial that ran out of memory is tried again
_MARGIN = 1.25  # of the measured peak: other points have larger batches of activations, and the allocator's blocks
_CONTEXT_BYTES = 768 << 20  # what a CUDA process takes beside its tensors, and no allocator counts


def cap(share: float) -> None:
    """Holds this process to its share of the GPU, so that it runs out of memory itself and not its neighbours."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that the GPU's memory was too small, whichever library noticed it."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def release() -> None:
    """Gives back what a failed attempt held; to be called once its error is gone, which holds its tensors."""
    gc.collect()
    torch.cuda.empty_cache()


def larger(share: float, tries: int) -> float | None:
    """The share to try next after running out of memory: twice as much, at most a whole GPU; None for no more.

    Args:
        tries: how often the trial was tried again already.
    """
    if tries >= RETRIES or not 0 < share < 1:
        return None
    return min(1.0, 2 * share)


def share_for(peak: int, total: int) -> float:
    """The share of a GPU for a trial of this peak in bytes: 1/n, so that n trials fill it, rounded down for Ray."""
    needed = (_MARGIN * peak + _CONTEXT_BYTES) / total
    if needed >= 1:
        return 1.0
    return math.floor(1e4 / math.floor(1 / needed)) / 1e4


def measured_share(work: Callable[[], object]) -> float:
    """Runs `work` with the whole GPU, and gives the share that its peak asks for.

    Raises:
        UserError: it needs more than the GPU has.
    """
    torch.cuda.reset_peak_memory_stats()
    try:
        work()
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise UserError(
            "--gpus-per-trial auto: one trial of the paper's default does not fit a whole GPU: "
            "take a smaller --width or batch_size"
        ) from None
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return share_for(torch.cuda.max_memory_allocated(), total)
