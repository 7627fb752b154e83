"""A recorder for a CPU with the rules of a CUDA graph: operations are recorded once and replayed without Python.

So what a step would get wrong on a GPU it gets wrong here: a Python number or branch that changes from step to step
stays as it was recorded, and an operation whose outcome Python must read, or whose shape depends on values, is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

_ASKS_THE_DEVICE = ("lift_fresh", "_local_scalar_dense", "_unique2", "nonzero", "masked_select", "unique_dim", "equal")


class _Recording(TorchDispatchMode):
    """Notes each operation with its arguments and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put_") else ()
        if name in _ASKS_THE_DEVICE or any(part is not None and part.dtype == torch.bool for part in indices):
            raise RuntimeError(f"operation {name} not permitted when stream is capturing")
        outcome = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, outcome))
        return outcome


def _is_view(func: Any) -> bool:
    aliases = [part.alias_info for part in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def record_operations(work: Callable[[], object], generators: Sequence[torch.Generator]) -> Callable[[], object]:
    """As `defenses.training.captured_step.record_graph`; it does the work for real while recording."""
    with _Recording() as recording:
        work()

    def replay() -> None:
        with torch.no_grad():
            for func, args, kwargs, outcome in recording.operations:
                if _is_view(func):
                    continue  # it still looks at what it looked at
                again = func(*args, **kwargs)
                for old, new in zip(_pytree.tree_leaves(outcome), _pytree.tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old is not new:
                        old.copy_(new)

    return replay


def replay_by_calling(work: Callable[[], object], generators: Sequence[torch.Generator]) -> Callable[[], object]:
    """The simplest recorder: what it gives does the work itself."""
    return work
