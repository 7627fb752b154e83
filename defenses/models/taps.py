"""Named channel taps: one number a channel and image, read from inside a network in one forward pass; and its features.

NONE (Wang et al., NeurIPS 2022) and the published code of PIPD read every convolution of stages 2 to 4 and the
output of each projection shortcut: 15 taps and 4,480 channels on ResNet-18. DBALFA (Jebreel et al., 2023) reads whole
layers: the stem, each residual block and the logits, 10 taps on ResNet-18.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from defenses.models import Normalised
from defenses.models.resnet import BasicBlock, PreActBlock
from defenses.registry import UserError

CHANNEL_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "mean": lambda maps: maps.mean(dim=(2, 3), dtype=torch.float32),  # a mean in bf16 would keep three digits
}
TAP_SETS = ("convolutions", "all_convolutions", "blocks", "last_three")


def _convolutions(model: Normalised, first_stage: int) -> list[str]:
    network = model.network
    names = []
    for stage in range(first_stage, network.stages + 1):
        layer = network.get_submodule(f"layer{stage}")
        for index, block in enumerate(layer.children()):
            names += [f"network.layer{stage}.{index}.conv1", f"network.layer{stage}.{index}.conv2"]
            if not isinstance(block.get_submodule("shortcut"), nn.Identity):
                names.append(f"network.layer{stage}.{index}.shortcut")
    return names


def tap_names(model: Normalised, taps: str) -> list[str]:
    """The module names of a tap set, in the order of the forward pass.

    Args:
        model: the network.
        taps: ``convolutions`` (stages 2 to 4, the published PIPD code), ``all_convolutions`` (every stage, the
            wording of the paper's section 5.1), ``blocks`` (the output of each residual block of stages 2 to 4),
            ``last_three`` (the code's setting for Refool), or ``layer3``, for SS alone: the output of the stage before
            the last, or of the only one.

    Raises:
        UserError: the network has none of them.
    """
    if taps == "layer3":
        return [f"network.layer{max(1, model.network.stages - 1)}"]
    if taps == "blocks":
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, BasicBlock | PreActBlock) and not name.startswith("network.layer1.")
        ]
    else:
        names = _convolutions(model, first_stage=1 if taps == "all_convolutions" else 2)
    if not names:
        raise UserError(
            f"taps={taps} reads a network's stages from the second on, and this one has {model.network.stages}: set "
            "taps=all_convolutions, or take blocks of a second stage",
            about="field taps",
        )
    return names[-3:] if taps == "last_three" else names


@contextmanager
def record_taps(model: Normalised, names: list[str], statistic: str) -> Iterator[dict[str, Tensor]]:
    """Within the block, each forward pass leaves ``{name: float32 [n, channels]}`` in the dictionary it gives."""
    reduce = CHANNEL_STATISTICS[statistic]
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Reduced here, inside the hook: whole maps of a large set would not fit in memory.
            seen[name] = reduce(output.detach()).to(torch.float32)

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def layer_taps(model: Normalised) -> list[str]:
    """The module names of whole layers, in the order of the forward pass: the stem, each residual block, the logits.

    The stem is read where it enters the pooling, after its ReLU; a pre-activation network has none there.
    """
    blocks = [name for name, module in model.named_modules() if isinstance(module, BasicBlock | PreActBlock)]
    return ["network.pool", *blocks, "network.linear"]


@contextmanager
def visit_layers(model: Normalised, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Within the block, each forward pass hands the whole of every layer to `visit`, one after the other.

    Nothing is kept: on ResNet-18 the layers of an image of 32 px are 311,306 numbers.

    Args:
        visit: is given the position in `layer_taps` and the layer, float32 [n, D], flattened in the order C, H, W.
    """

    def hook(position: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def show(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            layer = inputs[0] if position == 0 else output
            visit(position, layer.detach().flatten(start_dim=1).to(torch.float32))

        return show

    names = layer_taps(model)
    handles = [model.get_submodule(name).register_forward_hook(hook(at)) for at, name in enumerate(names)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, each forward pass adds its penultimate features, float32 [n, D], to the list it gives.

    They are what the network's last linear layer is given, after global average pooling.
    """
    features: list[Tensor] = []

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Flattened in any case: a map that reaches here unpooled must not pass for one value a channel.
        features.append(inputs[0].detach().flatten(start_dim=1).to(torch.float32))

    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(record)
    try:
        yield features
    finally:
        handle.remove()


@contextmanager
def record_last_maps(model: Normalised) -> Iterator[list[Tensor]]:
    """Within the block, each forward pass adds what the last stage gives, float [n, C, h, w], to the list it gives.

    Gradients flow back through them.
    """
    maps: list[Tensor] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        maps.append(output)

    handle = model.network.get_submodule(f"layer{model.network.stages}").register_forward_hook(record)
    try:
        yield maps
    finally:
        handle.remove()
