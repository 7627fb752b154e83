"""One step of a training: the work of a batch, done eagerly. `defenses.training.captured_step` replays it instead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]
"""What the loss of a step is computed from: positions int64 [b], and whatever else changes from step to step."""


@dataclass(frozen=True)
class Work:
    """What every step does: descends a loss. None of it waits for the device.

    Attributes:
        optimiser: SGD or Adam.
        batch_loss: the tensors of a batch -> a scalar.
        clip_norm: largest norm of a step's gradient; None for no limit.
        rate: float32 scalar on the device, which the optimiser reads as its learning rate, so that a recorded step sees
            it change; None where it reads a number of Python's.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    batch_loss: Callable[..., Tensor]
    clip_norm: float | None = None
    rate: Tensor | None = None

    def __call__(self, *batch: Tensor) -> Tensor:
        """Takes the step on positions int64 [b], and others; the loss before it, a scalar without gradient."""
        loss = self.batch_loss(*batch)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimiser.step()
        return loss.detach()

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps that follow."""
        if self.rate is not None:
            self.rate.fill_(rate)
            return
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def settle(self) -> None:
        """Puts what the optimiser keeps on the device, where recordings look for it.

        A new optimiser has nothing yet, and one whose state was read from a checkpoint has other tensors.
        """
        if self.rate is None:
            return
        for group in self.optimiser.param_groups:
            # Of the ways to take a step, the fused one alone reads a rate on the device without waiting for it.
            group |= {"lr": self.rate, "fused": True}
            if "capturable" in group:
                group["capturable"] = True
            for parameter in group["params"]:
                # What a first step would begin with; a recording must not hold a first step.
                state = self.optimiser.state[parameter]
                for name in _kept_by(self.optimiser, group):
                    if state.get(name) is None:
                        state[name] = torch.zeros_like(parameter)
                if isinstance(self.optimiser, torch.optim.Adam):
                    state["step"] = torch.as_tensor(state.get("step", 0.0), device=parameter.device).float()


def _kept_by(optimiser: torch.optim.Optimizer, group: dict[str, object]) -> tuple[str, ...]:
    """What an optimiser keeps beside each parameter, of its shape."""
    if isinstance(optimiser, torch.optim.Adam):
        return ("exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if group["momentum"] else ()


class EagerSteps:
    """Steps that Python starts one by one.

    Attributes:
        mode: how steps are taken.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.mode = "eager"

    def epoch(self, batches: Sequence[Batch], rates: Sequence[float]) -> Tensor:
        """Takes the steps of an epoch.

        Args:
            batches: in order, none of them empty; positions int64 [b], and others.
            rates: the learning rate of each.

        Returns:
            The sum of the samples' losses, a float32 scalar on the device: asking for each value would stall a GPU.
        """
        self.prepare(batches, rates)
        total = torch.zeros((), device=batches[0][0].device)
        for batch, rate in zip(batches, rates, strict=True):
            total += self.step(batch, rate) * len(batch[0])
        return total

    def prepare(self, batches: Sequence[Batch], rates: Sequence[float]) -> None:
        """Before an epoch, with some of its batches (positions int64 [b], and others) that it may be tried on."""
        self.work.settle()

    def step(self, batch: Batch, rate: float) -> Tensor:
        """Takes one step on positions int64 [b], and others; its loss, a float32 scalar, until the next."""
        self.work.set_rate(rate)
        return self.work(*batch)
