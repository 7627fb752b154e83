"""PIPD's stages re-derived: LGA's first step, activations by plain hooks, P_p and P_b, and Eq. 10 with its gradient."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.api import Stage, StageContext, SuspectDataset, silent
from defenses.methods.pipd import pipd
from defenses.methods.pipd.pipd import ISOLATE, SELECTIVE_TRAINING, PIPDConfig
from defenses.models import ModelSpec, Normalised, build_model, load_model
from defenses.models.taps import tap_names
from defenses.registry import UserError
from defenses.shared_stages import CHANNEL_ACTIVATIONS, PRE_ISOLATION, count_from_share, cpu_weights, lowest_mask
from defenses.training import inference
from defenses.training.loop import BatchSource

torch.set_num_threads(1)  # on a busy machine, threads that wait for each other make these tests ten times slower
CPU = torch.device("cpu")
K, N = 3, 24
SPEC = ModelSpec("resnet18", 4, (1, 1), K, 8)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def suspect() -> SuspectDataset:
    """24 images in 3 classes, told by their brightness."""
    rng = np.random.default_rng(0)
    labels = (np.arange(N) % K).astype(np.int64)
    images = rng.integers(0, 60, (N, 8, 8, 3)) + 90 * labels[:, None, None, None]
    return SuspectDataset.of(images.astype(np.uint8), labels, K)


def run(stage: Stage, suspect: SuspectDataset, inputs: dict[str, Any], **values: Any) -> dict[str, Any]:
    config = PIPDConfig(**values)
    context = StageContext(stage.name, suspect, SPEC, CPU, "fp32", 0, silent)
    return stage.run(context, inputs, SimpleNamespace(**{name: getattr(config, name) for name in stage.reads}))


@pytest.fixture(scope="module")
def weights(suspect: SuspectDataset) -> dict[str, Tensor]:
    """A model that knows some of the classes: some samples are predicted as labelled, some are not."""
    values = {"pre_isolation_epochs": 2, "batch_size": 8, "pre_isolation_lr": 0.02, "gamma": 0.0}
    return run(PRE_ISOLATION, suspect, {}, **values, pre_isolation_schedule="constant")["weights"]


def batch(suspect: SuspectDataset, index: Any = slice(None)) -> Tensor:
    return torch.from_numpy(suspect.images[index]).permute(0, 3, 1, 2)


# Pre-isolation

ONE_STEP = {"pre_isolation_epochs": 1, "batch_size": N, "momentum": 0.0, "weight_decay": 0.0}


@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("gamma", [0.5, 1.1, 3.0])
def test_one_step_of_pre_isolation_is_lgas(suspect: SuspectDataset, granularity: str, gamma: float) -> None:
    values = {**ONE_STEP, "granularity": granularity, "gamma": gamma, "pre_isolation_lr": 0.1}
    found = run(PRE_ISOLATION, suspect, {}, **values, pre_isolation_schedule="constant")
    model = build_model(SPEC, 0).train()
    losses = functional.cross_entropy(model(batch(suspect)), torch.from_numpy(suspect.labels), reduction="none")
    values_of_losses = losses.detach()
    sign = torch.sign((values_of_losses.mean() if granularity == "batch" else values_of_losses) - gamma)
    loss = (sign * losses).mean()
    torch.autograd.backward(loss)
    assert found["series"]["loss"] == pytest.approx([loss.item()], rel=1e-4)
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(found["weights"][name], expected, rtol=1e-3, atol=1e-5)


def test_sample_losses_are_cross_entropies_without_a_sign(suspect: SuspectDataset) -> None:
    found = run(PRE_ISOLATION, suspect, {}, **ONE_STEP, gamma=5.0)
    model = load_model(SPEC, found["weights"]).eval()
    with torch.no_grad():
        logits = model(batch(suspect)).double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(N), suspect.labels])
    assert found["sample_losses"] == pytest.approx(expected, rel=1e-4)
    assert (found["sample_losses"] > 0).all()


# Activations


@pytest.mark.parametrize("statistic", ["max", "mean"])
@pytest.mark.parametrize("taps", ["all_convolutions", "blocks"])
def test_activations_are_those_of_plain_hooks(
    monkeypatch: pytest.MonkeyPatch, suspect: SuspectDataset, weights: dict[str, Tensor], statistic: str, taps: str
) -> None:
    monkeypatch.setattr(inference, "CHUNK_PIXELS", 7 * 64)  # chunks of 7, 7, 7 and 3 images
    found = run(CHANNEL_ACTIVATIONS, suspect, {"weights": weights}, taps=taps, channel_statistic=statistic)
    model = load_model(SPEC, weights).eval()
    names = tap_names(model, taps)
    expected = []
    for name in names:
        held: list[Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, out, held=held: held.append(out))
        with torch.no_grad():
            model(batch(suspect))
        handle.remove()
        maps = held[0].numpy()
        expected.append(maps.max(axis=(2, 3)) if statistic == "max" else maps.mean(axis=(2, 3)))
    assert found["tap_sizes"] == [part.shape[1] for part in expected]
    assert found["activations"].dtype == np.float32
    np.testing.assert_allclose(found["activations"], np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)


# Isolation


def test_shares_and_masks() -> None:
    assert [count_from_share(rate, 1000) for rate in (0.01, 0.2, 0.0001, 0.0016)] == [10, 200, 1, 2]
    losses = np.array([3.0, 1.0, 2.0, 1.0, 0.5])
    assert lowest_mask(losses, 2).tolist() == [False, True, False, False, True]  # of equal losses the earlier one
    assert lowest_mask(losses, 0).tolist() == [False] * 5
    assert lowest_mask(-losses, 2).tolist() == [True, False, True, False, False]


def test_p_and_q_are_shares_of_lowest_and_highest_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    losses = rng.permutation(200).astype(np.float64)
    data = SuspectDataset.of(np.zeros((200, 8, 8, 3), np.uint8), np.arange(200) % K, K)
    held: dict[str, Any] = {}

    def spy(activations: Any, tap_sizes: Any, poisoned: Any, benign: Any, **settings: Any) -> Any:
        held.update(poisoned=poisoned, benign=benign, **settings)
        return isolate(activations, tap_sizes, poisoned, benign, **settings)

    isolate = pipd.isolate
    monkeypatch.setattr(pipd, "isolate", spy)
    activations = rng.normal(size=(200, 8)).astype(np.float32)
    inputs = {"sample_losses": losses, "activations": activations, "tap_sizes": [3, 5]}
    found = run(ISOLATE, data, inputs, isolation_rate=0.02, clean_rate=0.3, beta=2.0, rounds=3, channels_per_tap=0.5)
    assert np.array_equal(held["poisoned"], losses < 4)
    assert np.array_equal(held["benign"], losses >= 140)
    assert (held["beta"], held["rounds"], held["channels_per_tap"]) == (2.0, 3, 0.5)
    assert found["scores"].shape == found["flagged"].shape == (200,)
    assert np.array_equal(found["flagged_series"][-1], found["flagged"])


# Selective training, Eq. 10

STEP = {"selective_epochs": 1, "batch_size": N, "momentum": 0.0, "selective_weight_decay": 0.0, "selective_lr": 0.1}
STEP |= {"selective_schedule": "constant", "selective_augment": False}


def flags(count: int) -> np.ndarray:
    flagged = np.zeros(N, dtype=bool)
    flagged[np.random.default_rng(1).permutation(N)[:count]] = True
    return flagged


def eq10(
    model: Normalised, suspect: SuspectDataset, flagged: np.ndarray, ascent_weight: float
) -> tuple[Tensor, np.ndarray]:
    """The loss of the whole set in one step, and which flagged samples the model still obeys."""
    labels = torch.from_numpy(suspect.labels)
    model.train()
    descent = functional.cross_entropy(model(batch(suspect, ~flagged)), labels[~flagged])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    log_p = torch.log_softmax(model(batch(suspect, flagged)), dim=1)
    model.train()
    obeyed = (log_p.argmax(dim=1) == labels[flagged]).numpy()
    total = torch.zeros(())
    for position, is_obeyed in enumerate(obeyed):
        if is_obeyed:
            total = total - log_p[position, labels[flagged][position]]
    return descent - ascent_weight * total / len(obeyed), obeyed


@pytest.mark.parametrize("ascent_weight", [1.0, 0.3])
def test_one_step_of_selective_training_is_eq_10(
    suspect: SuspectDataset, weights: dict[str, Tensor], ascent_weight: float
) -> None:
    flagged = flags(11)
    found = run(
        SELECTIVE_TRAINING, suspect, {"weights": weights, "flagged": flagged}, **STEP, ascent_weight=ascent_weight
    )
    model = load_model(SPEC, weights)
    loss, obeyed = eq10(model, suspect, flagged, ascent_weight)
    assert 0 < obeyed.sum() < len(obeyed)  # the indicator decides something
    assert found["series"]["loss"] == pytest.approx([loss.item()], rel=1e-4)
    torch.autograd.backward(loss)
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(found["weights"][name], expected, rtol=1e-3, atol=1e-5)


def test_the_second_term_counts_obeyed_samples_over_all_of_the_batch() -> None:
    logits = torch.tensor([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0], [0, 0, 5.0]])
    labels = torch.tensor([0, 1, 2, 0])  # the last one is no longer obeyed

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return logits[images[:, 0, 0, 0].long()]

    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(4)
    feed = BatchSource(images, "fp32", torch.Generator(), augment=False)
    loss_of_one = float(torch.log(torch.exp(torch.tensor(5.0)) + 2) - 5)
    found = pipd._still_obeyed(Fixed(), feed, torch.arange(4), labels)
    assert float(found) == pytest.approx(3 / 4 * loss_of_one, rel=1e-5)
    assert float(pipd._still_obeyed(Fixed(), feed, torch.tensor([3]), labels)) == 0


def test_flagged_samples_leave_batch_statistics_alone(suspect: SuspectDataset, weights: dict[str, Tensor]) -> None:
    model = load_model(SPEC, weights).train()
    feed = BatchSource(torch.from_numpy(suspect.images), "fp32", torch.Generator(), augment=False)
    pipd._still_obeyed(model, feed, torch.arange(5), torch.from_numpy(suspect.labels))
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    # In a whole step: the statistics are those of one pass over the kept samples, whatever the flagged ones are.
    flagged = flags(11)
    found = run(SELECTIVE_TRAINING, suspect, {"weights": weights, "flagged": flagged}, **STEP)["weights"]
    expected = load_model(SPEC, weights).train()
    with torch.no_grad():
        expected(batch(suspect, ~flagged))
    for name, tensor in expected.state_dict().items():
        if name.endswith(STATISTICS):
            torch.testing.assert_close(found[name], tensor)
            assert not torch.equal(tensor, weights[name])


@pytest.mark.parametrize("count", [N, N - 1])
def test_with_everything_flagged_the_model_stays(
    suspect: SuspectDataset, weights: dict[str, Tensor], count: int
) -> None:
    found = run(SELECTIVE_TRAINING, suspect, {"weights": weights, "flagged": flags(count)}, **STEP)
    assert all(torch.equal(weights[name], tensor) for name, tensor in found["weights"].items())
    assert found["series"]["loss"] == []


@pytest.mark.parametrize("ascent_weight", [0.0, 5.0])
def test_with_nothing_flagged_it_is_plain_training(
    suspect: SuspectDataset, weights: dict[str, Tensor], ascent_weight: float
) -> None:
    inputs = {"weights": weights, "flagged": np.zeros(N, dtype=bool)}
    found = run(SELECTIVE_TRAINING, suspect, inputs, **STEP, ascent_weight=ascent_weight)
    model = load_model(SPEC, weights).train()
    loss = functional.cross_entropy(model(batch(suspect)), torch.from_numpy(suspect.labels))
    assert found["series"]["loss"] == pytest.approx([loss.item()], rel=1e-4)
    torch.autograd.backward(loss)
    stepped = model.network.linear.weight.detach() - 0.1 * model.network.linear.weight.grad
    torch.testing.assert_close(found["weights"]["network.linear.weight"], stepped, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, N - 2])
def test_any_number_of_flagged_samples_trains(suspect: SuspectDataset, weights: dict[str, Tensor], count: int) -> None:
    values = {**STEP, "selective_epochs": 3, "batch_size": 4, "selective_lr": 0.01, "selective_augment": True}
    found = run(SELECTIVE_TRAINING, suspect, {"weights": weights, "flagged": flags(count)}, **values)
    assert np.isfinite(found["series"]["loss"]).all()
    assert len(found["series"]["loss"]) == 3
    assert not torch.equal(found["weights"]["network.conv1.weight"], weights["network.conv1.weight"])


def test_an_epoch_goes_through_both_sets_about_once(
    monkeypatch: pytest.MonkeyPatch, suspect: SuspectDataset, weights: dict[str, Tensor]
) -> None:
    flagged = flags(8)
    seen: list[int] = []

    def spy(model: nn.Module, feed: BatchSource, index: Tensor, labels: Tensor) -> Tensor:
        seen.extend(index.tolist())
        return still_obeyed(model, feed, index, labels)

    still_obeyed = pipd._still_obeyed
    monkeypatch.setattr(pipd, "_still_obeyed", spy)
    # 16 kept samples in batches of 4 are 4 steps; 8 flagged ones make batches of round(4 * 8 / 16) = 2.
    values = {**STEP, "batch_size": 4, "selective_epochs": 2}
    run(SELECTIVE_TRAINING, suspect, {"weights": weights, "flagged": flagged}, **values)
    for epoch in (seen[:8], seen[8:]):
        assert sorted(epoch) == np.flatnonzero(flagged).tolist()
    assert seen[:8] != seen[8:]


def test_the_clip_norm_limits_a_step(suspect: SuspectDataset, weights: dict[str, Tensor]) -> None:
    inputs = {"weights": weights, "flagged": flags(11)}
    found = run(SELECTIVE_TRAINING, suspect, inputs, **STEP, selective_clip_norm=0.01)["weights"]
    parameters = [name for name, _ in build_model(SPEC, 0).named_parameters()]
    moved = torch.cat([(found[name] - weights[name]).flatten() for name in parameters]).norm()
    assert float(moved) == pytest.approx(0.1 * 0.01, rel=1e-2)


def test_nothing_handed_in_is_changed(suspect: SuspectDataset, weights: dict[str, Tensor]) -> None:
    before, images = {name: tensor.clone() for name, tensor in weights.items()}, suspect.images.copy()
    run(SELECTIVE_TRAINING, suspect, {"weights": weights, "flagged": flags(5)}, **STEP)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.items())
    assert np.array_equal(images, suspect.images)
    model = load_model(SPEC, weights)
    copied = cpu_weights(model)
    copied["network.conv1.weight"] += 1
    assert torch.equal(model.state_dict()["network.conv1.weight"], weights["network.conv1.weight"])


@pytest.mark.parametrize("taps", ["convolutions", "blocks", "last_three"])
def test_taps_that_a_network_does_not_have_are_refused_in_a_line(taps: str) -> None:
    model = build_model(ModelSpec("resnet18", 4, (1,), 4, 16), 0)
    with pytest.raises(UserError, match=f"taps={taps} reads .* from the second on, and this one has 1: set taps=all"):
        tap_names(model, taps)
    assert tap_names(model, "all_convolutions")
