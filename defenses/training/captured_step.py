"""Steps that a GPU replays: Python's part of a step, which takes longer than the GPU's, is done once.

The step is recorded as a CUDA graph, and the first steps of each epoch are taken both ways from the same state: where
they end apart, or where recording fails, the stage goes on eagerly and says why. A recording reads batches and the
learning rate from tensors that stay where they are, and random numbers from the stage's generators, which go on as they
would without it. Batches of another size, such as an epoch's last, are taken eagerly.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from defenses.api import StageContext
from defenses.training.step import Batch, EagerSteps, Work

log = logging.getLogger(__name__)

STEP_MODES = ("auto", "eager", "captured", "compiled")
CAPTURE_FROM = 30
"""Steps an epoch from which recording is worth its check of every epoch, which costs about as much as four steps."""
COMPILE_FROM = 60_000
"""Steps of a stage from which compiling repays its half a minute: it saves 0.4 to 0.7 ms a step (H200, ResNet-18)."""
FIRST_STEPS = 3
"""Steps that are taken both ways once a step is recorded; in later epochs it is one."""
TOLERANCE = {"fp32": 0.02, "bf16": 0.1}
"""How far apart both may end, as a share of the way the eager steps went: sums on a GPU have no fixed order."""

_ADVERBS = {"captured": "captured without compiling", "eager": "eagerly"}

Recorder = Callable[[Callable[[], object], Sequence[torch.Generator]], Callable[[], object]]
"""(what to record, the generators that it draws from) -> what does it again. It may do it for real meanwhile."""


class ApartError(RuntimeError):
    """A replayed step and an eager one ended apart."""


def record_graph(work: Callable[[], object], generators: Sequence[torch.Generator]) -> Callable[[], object]:
    """Records what a GPU does in `work` as a CUDA graph.

    Raises:
        RuntimeError: something in it asks the GPU for a value, or there is too little memory.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose their algorithms in the first runs, which cannot be recorded
        for _ in range(FIRST_STEPS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    before = [generator.clone_state() for generator in generators]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases register a generator when it is drawn from
        warnings.simplefilter("ignore", DeprecationWarning)
        for generator in generators:
            graph.register_generator_state(generator)
    try:
        # Other threads of the process may go on with the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
    except BaseException:
        for generator, state in zip(generators, before, strict=True):
            generator.graphsafe_set_state(state)  # a recording that broke off may have left it unable to draw
        raise
    return graph.replay


RECORDERS: dict[str, Recorder] = {"cuda": record_graph}
"""Type of a device -> what records there; on others every step is eager."""


@dataclass(frozen=True)
class TrainingSize:
    """How much a stage trains: batches an epoch, and epochs."""

    batches: int
    epochs: int


def choose_mode(asked: str, device: torch.device, size: TrainingSize) -> str:
    """How to take the steps of a stage: ``eager``, ``captured`` or ``compiled``.

    Args:
        asked: one of `STEP_MODES`.

    Raises:
        ValueError: it is none of them.
    """
    if asked not in STEP_MODES:
        raise ValueError(f"steps are taken {', '.join(STEP_MODES)}, got {asked!r}")
    if asked == "eager" or device.type not in RECORDERS:
        return "eager"
    if asked != "auto":
        return asked
    if size.batches < CAPTURE_FROM:
        return "eager"
    return "compiled" if size.batches * size.epochs >= COMPILE_FROM else "captured"


class _Kept:
    """What steps change, as it was: weights, statistics, momentum, generators, and what the loss writes to."""

    def __init__(self, live: Mapping[str, Tensor], generators: Sequence[torch.Generator]) -> None:
        self.live, self.generators = live, generators
        self.tensors = _copies(live)
        self._drawn = [generator.get_state() for generator in generators]

    def put_back(self) -> None:
        with torch.no_grad():
            for name, tensor in self.live.items():
                tensor.copy_(self.tensors[name])
        for generator, state in zip(self.generators, self._drawn, strict=True):
            generator.set_state(state)


def _copies(live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of them, in the same layout."""
    return {name: tensor.detach().clone() for name, tensor in live.items()}


class CapturedSteps(EagerSteps):
    """Steps that are replayed as they were recorded, and checked against eager ones in every epoch.

    Args:
        context: of the stage.
        work: what a step does; its rate lies on the device.
        mode: ``captured``, or ``compiled``: what is recorded is the network as `torch.compile` translates it.
        changed: what the loss changes beside the model, or draws from; of it tensors and generators matter.

    Attributes:
        mode: how steps are taken now; ``eager`` once a recording was given up.
    """

    def __init__(self, context: StageContext, work: Work, mode: str, changed: Mapping[str, object]) -> None:
        super().__init__(work)
        self.mode = mode
        self._stage = context.stage
        self._tolerance = TOLERANCE[context.precision]
        self._tensors = {name: part for name, part in changed.items() if isinstance(part, Tensor)}
        self._generators = [part for part in changed.values() if isinstance(part, torch.Generator)]
        self._replay: Callable[[], object] | None = None
        self._batch: Batch = ()
        self._loss = torch.zeros(())

    def prepare(self, batches: Sequence[Batch], rates: Sequence[float]) -> None:
        """Sees to it that a recording is there which does on batches (int64 [b], and others) what an eager step does.

        It is given up where it does not.
        """
        super().prepare(batches, rates)
        if self._replay is not None:
            try:
                self._check(batches, rates, 1)
                return
            except ApartError:
                pass  # what the stage does may have changed with the epoch: layers that were frozen, another loss
        while self.mode != "eager":
            try:
                self._record(batches[0], rates[0])
                self._check(batches, rates, FIRST_STEPS)
                return
            except Exception as error:  # whatever a driver, a compiler or an operator finds wrong, eager steps work
                self._step_down(error)

    def step(self, batch: Batch, rate: float) -> Tensor:
        """As `EagerSteps.step` (int64 [b], and others), replayed where the batch has the recorded sizes."""
        if self._replay is None or not self._fits(batch):
            return super().step(batch, rate)
        self.work.set_rate(rate)
        for static, given in zip(self._batch, batch, strict=True):
            static.copy_(given)
        self._replay()
        return self._loss

    def _fits(self, batch: Batch) -> bool:
        return [part.shape for part in batch] == [part.shape for part in self._batch]

    def _record(self, batch: Batch, rate: float) -> None:
        self._replay = None
        self._batch = tuple(part.clone() for part in batch)
        self._loss = torch.zeros((), device=batch[0].device)
        kept = _Kept(self._live(), self._generators)
        self.work.set_rate(rate)

        def work() -> None:
            self._loss.copy_(self.work(*self._batch))

        try:
            with compiled(self.work.model) if self.mode == "compiled" else nullcontext():
                self._replay = RECORDERS[batch[0].device.type](work, self._generators)
        finally:
            kept.put_back()

    def _check(self, batches: Sequence[Batch], rates: Sequence[float], steps: int) -> None:
        """Takes the first steps both ways; all is afterwards as it was.

        Raises:
            ApartError: they end apart.
        """
        chosen = [number for number, batch in enumerate(batches) if self._fits(batch)][:steps]
        kept = _Kept(self._live(), self._generators)
        try:
            eager = [super(CapturedSteps, self).step(batches[at], rates[at]).clone() for at in chosen]
            there = _copies(self._live())
            kept.put_back()
            replayed = [self.step(batches[at], rates[at]).clone() for at in chosen]
            self._compare(torch.stack(eager), torch.stack(replayed), kept.tensors, there)
        finally:
            kept.put_back()

    def _compare(
        self, eager: Tensor, replayed: Tensor, before: Mapping[str, Tensor], there: Mapping[str, Tensor]
    ) -> None:
        if not torch.allclose(eager, replayed, rtol=self._tolerance, atol=self._tolerance, equal_nan=True):
            raise ApartError(f"its losses are {eager.tolist()} eagerly and {replayed.tolist()} replayed")
        here = self._live()
        for kind, names in _by_kind(here).items():
            went = _norm(there[name] - before[name] for name in names)
            apart = _norm(here[name] - there[name] for name in names)
            if apart > self._tolerance * went:
                raise ApartError(f"its {kind} move by {went:.3g} eagerly and end {apart:.3g} away from there replayed")

    def _live(self) -> dict[str, Tensor]:
        """Every tensor that a step may change, where it lies now."""
        moments = {
            f"{name} {at}": tensor
            for at, state in enumerate(self.work.optimiser.state.values())
            for name, tensor in state.items()
        }
        return {
            **{f"weights {name}": tensor for name, tensor in self.work.model.named_parameters()},
            **{f"statistics {name}": tensor for name, tensor in self.work.model.named_buffers()},
            **moments,
            **{f"state {name}": tensor for name, tensor in self._tensors.items()},
        }

    def _step_down(self, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        then = "captured" if self.mode == "compiled" else "eager"
        log.warning("%s: its steps are taken %s and not %s: %s", self._stage, _ADVERBS[then], self.mode, reason)
        self.mode, self._replay = then, None


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the tensors of numbers, by the first word of the name."""
    kinds: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            kinds.setdefault(name.partition(" ")[0], []).append(name)
    return kinds


def _norm(tensors: Iterator[Tensor]) -> float:
    """The length of all of them together; 0 where it is no number, as in a training that diverged."""
    squares = [tensor.detach().float().square().sum() for tensor in tensors]
    return float(torch.stack(squares).sum().sqrt().nan_to_num(0.0))


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Within the block a model runs as `torch.compile` translates it, which takes half a minute for a ResNet."""
    model.__dict__["forward"] = torch.compile(model.forward, dynamic=False)
    try:
        yield
    finally:
        del model.__dict__["forward"]


def make_steps(
    context: StageContext,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch_loss: Callable[..., Tensor],
    size: TrainingSize,
    changed: Mapping[str, object],
    clip_norm: float | None = None,
) -> EagerSteps:
    """The steps of a stage, taken as its context says.

    Args:
        optimiser: SGD or Adam, with one learning rate for all parameters.
        batch_loss: the tensors of a batch (positions int64 [b], and others) -> a float scalar.
        clip_norm: see `Work`.
        changed: see `CapturedSteps`.
    """
    device = context.device
    rate = torch.tensor(float(optimiser.param_groups[0]["lr"]), device=device) if device.type in RECORDERS else None
    work = Work(model, optimiser, batch_loss, clip_norm, rate)
    mode = choose_mode(context.step, device, size)
    return EagerSteps(work) if mode == "eager" else CapturedSteps(context, work, mode, changed)
