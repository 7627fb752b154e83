"""Trojan (Liu et al., NDSS 2018) with the mark that excites chosen neurons of a surrogate.

The neurons are those of the last layer but one with the largest sum of absolute outgoing weights that a mark can raise.
The paper too passes over neurons that the input hardly changes; backdoor-toolbox and BackdoorBench do not, and then
often get one that the background excites and a small square cannot. As in backdoor-toolbox the mark is
(tanh(w) + 1) / 2, found by Adam with a cosine schedule on a black background, and the objective is the squared distance
of the activations to a target; the surrogate normalises within the graph. The paper ascends with a total-variation step
instead, and it and the toolbox go on to train the victim: here the mark is a static trigger.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from defenses.api import Outputs
from defenses.config import param
from defenses.models import Normalised
from defenses.registry import UserError
from defenses.training.schedule import learning_rate
from study.attacks.api import Attack, Pixels, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.networks import BATCH_PIXELS
from study.attacks.support.pixels import paste, to_uint8
from study.attacks.support.surrogate import (
    SURROGATE_PRESETS,
    SurrogateConfig,
    check_surrogate,
    penultimate_width,
    surrogate,
    surrogate_options,
)
from study.attacks.trojan import square_edges
from study.datasets.images import Images

STAGE = "trojan_mark"
ENOUGH = 5.0  # times the activation of the random start; a mark below it excites nothing in particular
_QUIET = 1e-6  # an activation that counts as none: gains stay finite
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrojanInversionConfig(SurrogateConfig):
    """The surrogate and the search for the mark. It is trained plainly in the paper, robustly at smaller presets."""

    surrogate_adversarial_steps: int = param(0, "PGD steps of adversarial training; 0 for plain training", low=0)
    neurons: int = param(2, "neurons to excite (BackdoorBench; backdoor-toolbox's code says 100)", low=1)
    candidates: int = param(64, "neurons, by outgoing weight, that are tried one by one first", low=1)
    probe_steps: int = param(50, "steps of Adam of a trial", low=1)
    probe_gain: float = param(10.0, "times its first activation that a trial must reach", low=1.0)
    probe_floor: float = param(0.1, "share of the trials' mean activation that it must reach too", low=0.0)
    activation: float = param(100.0, "what each is driven to (both toolboxes)", low=0.0)
    inversion_steps: int = param(1000, "steps of Adam (backdoor-toolbox)", low=1)
    inversion_lr: float = param(0.1, "peak rate of Adam, in units of w (backdoor-toolbox)", low=1e-6, high=10.0)


_OPTIONS = (
    "neurons",
    "candidates",
    "probe_steps",
    "probe_gain",
    "probe_floor",
    "activation",
    "inversion_steps",
    "inversion_lr",
    "quantise",
)


class TrojanInversion(Attack):
    """Replaces a square near the bottom right, rows and columns 21-28 at 32 px, with the mark that was found."""

    name = "trojan_inversion"
    config_type = TrojanInversionConfig
    config: TrojanInversionConfig
    trained = ("surrogate", "trojan_mark")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**changes, "inversion_steps": 300} for name, changes in SURROGATE_PRESETS.items()
    }

    def check(self, images: Images) -> None:
        """Refuses more neurons than the surrogate or the trials have, and see `check_surrogate`.

        Raises:
            UserError: either of the two.
        """
        check_surrogate(self.config)
        available = min(self.config.candidates, penultimate_width(self.config))
        if self.config.neurons > available:
            raise UserError(
                f"{self.name}:neurons={self.config.neurons} needs as many candidates in the surrogate's last layer but "
                f"one, and there are {available}: use at most {available}, or raise {self.name}:candidates and "
                f"{self.name}:surrogate_width"
            )

    def fit(self, images: Images, context: FitContext) -> State:
        """The mark uint8 [h, w, 3], its place, and how many times the random start's activation it gives."""
        self.check(images)
        network = surrogate(images, self.config, context)
        options = {
            **surrogate_options(self.config),
            **{name: getattr(self.config, name) for name in _OPTIONS},
            "num_classes": images.num_classes,
        }
        made = context.part(STAGE, images, options, lambda own: self._invert(Place(network, images.image_size), own))
        ratio = float(made["activation"]["ratio"])
        if ratio < ENOUGH:
            log.warning(
                "%s: the mark raises the activation %.1f times, less than %g: raise inversion_steps or candidates",
                self.name,
                ratio,
                ENOUGH,
            )
        start, _ = square_edges(images.image_size)
        return {"patch": np.asarray(made["mark"]), "start": np.array([start, start]), "ratio": np.array(ratio)}

    def apply(self, images: Pixels, index: NDArray[np.int64], state: State, split: str) -> Pixels:
        """Triggered copies; see `Attack.apply`."""
        row, column = state["start"].tolist()
        return paste(images, state["patch"], row, column)

    def _invert(self, place: "Place", context: FitContext) -> Outputs:
        """The mark, and the mean activation of its neurons before and after, both as uint8 pixels give it."""
        config = self.config
        start, stop = square_edges(place.image_size)
        drawn = self.rng(context.seed, "mark").standard_normal((1, 3, stop - start, stop - start), dtype=np.float32)
        first = torch.from_numpy(drawn).to(context.device)
        chosen = _choose(place, first, config)
        inverted = _ascend(place, first, chosen, config, config.inversion_steps)
        marks = torch.cat([_rounded(w, config.quantise) for w in (first, inverted)])
        with torch.no_grad():
            before, after = place.features(marks)[:, chosen[0]].mean(dim=1).tolist()
        ratio = after / max(before, _QUIET)
        context.progress(STAGE, 1, 1, {"activation": after, "ratio": ratio})
        return {
            "mark": marks[1].permute(1, 2, 0).to(torch.uint8).cpu().numpy(),
            "neurons": chosen[0].cpu().numpy(),
            "activation": {"start": before, "found": after, "ratio": ratio},
        }


@dataclass(frozen=True)
class Place:
    """A surrogate that looks at marks on black images."""

    network: Normalised
    image_size: int

    def features(self, marks: Tensor) -> Tensor:
        """Activations [n, C] of the last layer but one, for marks [n, 3, h, w] in [0, 255]; both float32."""
        start, stop = square_edges(self.image_size)
        seen: list[Tensor] = []
        head = self.network.network.linear
        handle = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            self.network(functional.pad(marks, (start, self.image_size - stop) * 2))
        finally:
            handle.remove()
        return seen[0]


def _pixels(w: Tensor) -> Tensor:
    """The mark in [0, 255]: every w gives a valid one."""
    return (torch.tanh(w) + 1) * 127.5


def _rounded(w: Tensor, quantise: str) -> Tensor:
    """The mark as an image file holds it, float32."""
    return torch.from_numpy(to_uint8(_pixels(w).cpu().numpy(), quantise).astype(np.float32)).to(w.device)


def _choose(place: Place, first: Tensor, config: TrojanInversionConfig) -> Tensor:
    """int64 [1, neurons]: those with the largest outgoing weights that a mark of their own raises enough.

    Where too few can be raised, the most raised of the others follow.
    """
    weights = place.network.network.linear.weight.abs().sum(dim=0)
    candidates = weights.argsort(descending=True, stable=True)[: config.candidates]
    raised = []
    for part in torch.split(candidates, max(1, BATCH_PIXELS // place.image_size**2)):
        wanted = part.view(-1, 1)
        ascended = _ascend(place, first.expand(len(part), -1, -1, -1), wanted, config, config.probe_steps)
        with torch.no_grad():
            raised.append(place.features(_pixels(ascended)).gather(1, wanted)[:, 0])
    with torch.no_grad():
        start = place.features(_pixels(first))[0, candidates]
    end = torch.cat(raised)
    # A neuron that goes from nothing to next to nothing has an endless gain and no effect: it is not raised.
    gain = torch.where(end >= config.probe_floor * end.mean(), end / start.clamp(min=_QUIET), 0)
    need = config.probe_gain
    rank = torch.where(gain >= need, need + weights[candidates], gain)
    order = rank.argsort(descending=True, stable=True)
    return candidates[order[: config.neurons]].view(1, -1)


def _ascend(place: Place, first: Tensor, neurons: Tensor, config: TrojanInversionConfig, steps: int) -> Tensor:
    """The w [n, 3, h, w] at the end of a descent from `first`, each towards its own neurons int64 [n, k]."""
    w = first.clone().requires_grad_()
    optimiser = torch.optim.Adam([w], lr=config.inversion_lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate("cosine", config.inversion_lr, step / steps)
        excited = place.features(_pixels(w)).gather(1, neurons)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward((excited - config.activation).square().sum())
        optimiser.step()
    return w.detach()
