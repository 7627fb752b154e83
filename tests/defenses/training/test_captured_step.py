"""Recorded steps: when they are chosen, what is checked, and that a recording which is wrong changes nothing."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from recorded_operations import record_operations, replay_by_calling
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import StageContext, SuspectDataset, silent
from defenses.models import ModelSpec
from defenses.training import captured_step
from defenses.training.captured_step import TrainingSize, choose_mode, compiled
from defenses.training.loop import Recipe, TrainingDiverged, fit

N, BATCH = 22, 8  # two whole batches and one of six
RECIPE = Recipe(3, 0.1, BATCH, "one_cycle", 0.9, 1e-3)


def context(step: str = "captured") -> StageContext:
    data = SuspectDataset.of(np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64), 2)
    return StageContext("some_stage", data, ModelSpec(), torch.device("cpu"), "fp32", 0, silent, step=step)


class Toy:
    """A small network with statistics of its own, on numbers, with noise from a generator."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(1)
        self.inputs, self.labels = torch.randn(N, 4, generator=drawn), torch.arange(N) % 3
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.noise = torch.Generator().manual_seed(3)
        self.sizes: list[int] = []
        self.epoch = 0

    def loss(self, index: Tensor) -> Tensor:
        self.sizes.append(len(index))
        noise = torch.randn(len(index), 4, generator=self.noise)
        return functional.cross_entropy(self.model(self.inputs[index] + 0.1 * noise), self.labels[index])

    def ended(self, epoch: int) -> None:
        self.epoch = epoch + 1

    def train(self, step: str = "captured", loss: Callable[[Tensor], Tensor] | None = None, **changes: Any) -> Tensor:
        """Trains, and gives all that the network is in one row."""
        recipe = Recipe(**(vars(RECIPE) | changes))
        self.context = context(step)
        fit(self.context, self.model, N, recipe, loss or self.loss, self.ended, {"noise": self.noise})
        return torch.cat([tensor.flatten().float() for tensor in self.model.state_dict().values()])


def use(monkeypatch: pytest.MonkeyPatch, recorder: captured_step.Recorder) -> None:
    monkeypatch.setitem(captured_step.RECORDERS, "cpu", recorder)


@pytest.mark.parametrize(
    ("asked", "device", "batches", "epochs", "mode"),
    [
        ("auto", "cpu", 391, 200, "eager"),
        ("captured", "cpu", 391, 200, "eager"),
        ("eager", "cuda", 391, 200, "eager"),
        ("captured", "cuda", 1, 1, "captured"),
        ("compiled", "cuda", 1, 1, "compiled"),
        ("auto", "cuda", 29, 10_000, "eager"),
        ("auto", "cuda", 30, 100, "captured"),
        ("auto", "cuda", 391, 100, "captured"),  # 39,100 steps
        ("auto", "cuda", 391, 200, "compiled"),  # the papers' 200 epochs of 50,000 images
    ],
)
def test_how_steps_are_taken(asked: str, device: str, batches: int, epochs: int, mode: str) -> None:
    assert choose_mode(asked, torch.device(device), TrainingSize(batches, epochs)) == mode


def test_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'fast'"):
        choose_mode("fast", torch.device("cpu"), TrainingSize(1, 1))


@pytest.mark.parametrize("recorder", [record_operations, replay_by_calling])
@pytest.mark.parametrize(
    "changes", [{}, {"schedule": "step"}, {"momentum": 0.0}, {"clip_norm": 0.01}, {"batch_size": 11}, {"epochs": 1}]
)
def test_replayed_steps_end_where_eager_ones_end(
    monkeypatch: pytest.MonkeyPatch, recorder: captured_step.Recorder, changes: dict[str, Any]
) -> None:
    use(monkeypatch, recorder)
    assert torch.equal(Toy().train("captured", **changes), Toy().train("eager", **changes))


def test_a_rate_on_the_device_is_the_rate_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Toy().train("eager")
    use(monkeypatch, record_operations)
    torch.testing.assert_close(Toy().train("captured"), plain, rtol=1e-4, atol=1e-6)


def test_only_first_steps_and_other_sizes_run_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, record_operations)
    toy = Toy()
    toy.train("captured")
    # Recorded once; tried both ways on two batches, then on one an epoch; the last batch of each epoch is smaller.
    assert toy.sizes == [8, 8, 8, 6, 8, 6, 8, 6]
    assert toy.context.how == {"step": "captured"}


def test_a_loss_that_changes_with_the_epoch_is_recorded_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in D-ST's first model; the recording knows the branch that Python took."""

    def run(step: str) -> Tensor:
        toy = Toy()
        return toy.train(step, lambda index: toy.loss(index) * (1.0 if toy.epoch < 1 else -0.5))

    use(monkeypatch, record_operations)
    assert torch.equal(run("captured"), run("eager"))
    assert caplog.messages == []


def test_layers_that_are_frozen_and_freed_are_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(step: str) -> Tensor:
        toy = Toy()

        def freeze(epoch: int) -> None:
            toy.model[0].requires_grad_(epoch >= 0)

        freeze(-1)
        toy.ended = freeze  # type: ignore[method-assign]
        return toy.train(step)

    use(monkeypatch, record_operations)
    assert torch.equal(run("captured"), run("eager"))


def wrong(what: str) -> captured_step.Recorder:
    """A recorder whose recordings are wrong in one way."""

    def record(work: Callable[[], object], generators: Sequence[torch.Generator]) -> Callable[[], object]:
        replay = record_operations(work, generators)
        if what == "raises":
            raise RuntimeError("out of luck\nand more about it")
        if what == "does nothing":
            return lambda: None
        if what == "twice":
            return lambda: (replay(), replay())
        states = [generator.get_state() for generator in generators]

        def same_noise() -> None:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            replay()

        return same_noise

    return record


@pytest.mark.parametrize("what", ["raises", "does nothing", "twice", "same noise"])
def test_a_wrong_recording_is_told_once_and_changes_nothing(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, wrong(what))
    toy = Toy()
    with caplog.at_level(logging.WARNING):
        ended = toy.train("captured")
    assert torch.equal(ended, Toy().train("eager"))
    assert toy.context.how == {"step": "eager"}
    (message,) = caplog.messages
    assert message.startswith("some_stage: its steps are taken eagerly and not captured: ")
    assert message.endswith("out of luck" if what == "raises" else "replayed")


@pytest.mark.parametrize(
    "asks",
    [
        lambda loss: loss * float(loss.detach()),
        lambda loss: loss * loss.detach()[None][loss.detach()[None] > 0].sum(),
        lambda loss: loss * torch.tensor(2.0),
    ],
)
def test_a_loss_that_asks_the_device_stays_eager(
    asks: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, record_operations)
    toy = Toy()
    toy.train("captured", lambda index: asks(toy.loss(index)))
    assert toy.context.how == {"step": "eager"}
    assert len(caplog.messages) == 1


def test_what_cannot_be_compiled_is_captured(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def no_compiler(forward: Any, **options: Any) -> Any:
        raise RuntimeError("no compiler here")

    use(monkeypatch, record_operations)
    monkeypatch.setattr(torch, "compile", no_compiler)
    toy = Toy()
    assert torch.equal(toy.train("compiled"), Toy().train("eager"))
    assert toy.context.how == {"step": "captured"}
    (message,) = caplog.messages
    assert message == "some_stage: its steps are taken captured without compiling and not compiled: no compiler here"


def test_a_model_is_itself_again_after_it_ran_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **options: lambda x: forward(x) + 1)
    model = nn.Linear(2, 2)
    plain = model(torch.ones(1, 2))
    with compiled(model):
        assert torch.equal(model(torch.ones(1, 2)), plain + 1)
    assert torch.equal(model(torch.ones(1, 2)), plain)
    assert "forward" not in vars(model)


def test_a_training_that_diverges_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, record_operations)
    toy = Toy()
    with pytest.raises(TrainingDiverged, match="the loss must stay finite"):
        toy.train("captured", lambda index: toy.loss(index) * float("nan"))
