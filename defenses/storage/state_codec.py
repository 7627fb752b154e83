"""Live objects of a training loop (networks, optimisers, generators, tensors, lists) as JSON and tensors, and back.

Tensors keep their layout in memory: sums over another layout could end in another last bit.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """Networks, optimisers, schedulers, and whatever a stage writes of the kind."""

    def state_dict(self) -> dict[str, Any]:
        """All that the object changes, as tensors, numbers, texts, and lists and dicts of them."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Makes the object what it was when this was taken."""


Part = Stateful | torch.Generator | Tensor | list[Any] | dict[str, Any]
TrainingState = Mapping[str, Part]
"""What a loop changes, by name. Tensors, lists and dicts are written to in place: nobody may replace them."""


def build_state(part: Part) -> Any:
    """What a part holds now; tensors in it are the live ones."""
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, nn.Module):
        trained = [name for name, parameter in part.named_parameters() if parameter.requires_grad]
        return {"state": part.state_dict(), "trained": trained}
    return part if isinstance(part, Tensor | list | dict) else part.state_dict()


def restore(part: Part, state: Any) -> None:
    """Gives a part the state that `state_of` took of it.

    Raises:
        RuntimeError, ValueError, LookupError, TypeError, AttributeError: it was taken of another kind of part.
    """
    if isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, nn.Module):
        part.load_state_dict(state["state"])
        for name, parameter in part.named_parameters():
            parameter.requires_grad_(name in state["trained"])
    elif isinstance(part, Tensor):
        if (part.shape, part.dtype) != (state.shape, state.dtype):
            raise ValueError(f"a tensor {list(part.shape)} was kept as {list(state.shape)}")
        part.copy_(state)
    elif isinstance(part, list):
        part[:] = state
    elif isinstance(part, dict):
        part.clear()
        part.update(state)
    else:
        part.load_state_dict(state)


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; copies of its tensors, in main memory, go into `tensors` under names of ours.

    Raises:
        TypeError: it holds something that is neither a tensor nor JSON.
    """
    if isinstance(value, Tensor):
        strides = value.stride()
        order = sorted(range(value.dim()), key=lambda axis: -strides[axis])
        name = str(len(tensors))
        dense = value.detach().permute(order).cpu()
        tensors[name] = dense.clone(memory_format=torch.contiguous_format)
        return {"tensor": name, "order": order, "device": str(value.device)}
    if isinstance(value, dict):  # keys may be numbers: an optimiser's are
        return {"dict": [[key, pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors and what JSON can hold, got {type(value).__name__}")


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` took apart; its tensors are on the devices on which they were."""
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        inverse = [tree["order"].index(axis) for axis in range(len(tree["order"]))]
        return tensors[tree["tensor"]].permute(inverse).to(tree["device"])
    if "dict" in tree:
        return {key: unpack(item, tensors) for key, item in tree["dict"]}
    (kind, items), *_ = tree.items()
    values = [unpack(item, tensors) for item in items]
    return tuple(values) if kind == "tuple" else values
