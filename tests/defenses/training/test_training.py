"""Losses, schedules, batches, augmentation and the loop, against values worked out by hand or by brute force."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from defenses.api import StageContext, SuspectDataset, silent
from defenses.models import ModelSpec, build_model
from defenses.registry import UserError
from defenses.training import inference, loop
from defenses.training.images import crop_padding, epoch_batches, take, take_augmented, to_device
from defenses.training.inference import predict_array, predict_logits, sample_losses
from defenses.training.loop import BatchSource, Recipe, TrainingDiverged, fit, frozen_batch_statistics
from defenses.training.losses import local_gradient_ascent, soft_cross_entropy
from defenses.training.precision import PRECISIONS, autocast, best_precision
from defenses.training.schedule import SCHEDULES, learning_rate

torch.set_num_threads(1)  # on a busy machine, threads that wait for each other make these tests ten times slower
CPU = torch.device("cpu")


def context(seed: int = 0, progress: Callable[..., None] = silent) -> StageContext:
    data = SuspectDataset.of(np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64), 2)
    return StageContext("some_stage", data, ModelSpec(), CPU, "fp32", seed, progress)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Losses


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits), logits)[0]


def per_sample(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each sample and its gradient, softmax - one-hot."""
    p = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    rows = torch.arange(len(labels))
    slope = p.clone()
    slope[rows, labels] -= 1
    return -torch.log(p[rows, labels]), slope


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.2, 5.0])
def test_lga_descends_or_ascends_with_the_whole_batch(gamma: float) -> None:
    logits = torch.randn(8, 5, generator=generator(), dtype=torch.float64)
    labels = torch.arange(8) % 5
    losses, slope = per_sample(logits, labels)
    sign = 1 if losses.mean() > gamma else -1
    found = gradient(lambda x: local_gradient_ascent(x, labels, gamma, "batch"), logits)
    torch.testing.assert_close(found, sign * slope / 8)
    assert float(local_gradient_ascent(logits, labels, gamma, "batch")) == pytest.approx(sign * float(losses.mean()))


def test_lga_by_sample_signs_each_loss() -> None:
    logits = torch.randn(8, 5, generator=generator(), dtype=torch.float64)
    labels = torch.arange(8) % 5
    losses, slope = per_sample(logits, labels)
    gamma = float(losses.median()) + 1e-3
    sign = torch.where(losses > gamma, 1.0, -1.0).double()
    assert 0 < (sign > 0).sum() < 8
    found = gradient(lambda x: local_gradient_ascent(x, labels, gamma, "sample"), logits)
    torch.testing.assert_close(found, sign.unsqueeze(1) * slope / 8)
    value = float(local_gradient_ascent(logits, labels, gamma, "sample"))
    assert value == pytest.approx(float((sign * losses).mean()))


def test_lga_stands_still_at_gamma() -> None:
    logits, labels = torch.zeros(2, 4, dtype=torch.float64), torch.tensor([0, 3])
    found = gradient(lambda x: local_gradient_ascent(x, labels, math.log(4), "batch"), logits)
    assert torch.equal(found, torch.zeros_like(found))


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(2, 6))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_soft_cross_entropy_is_a_dense_one(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(n, 2 * classes))
    labels, epsilon = rng.integers(0, classes, n), rng.uniform(size=n)
    dense = np.zeros((n, 2 * classes))
    for i in range(n):
        dense[i, labels[i]] = 1 - epsilon[i]
        dense[i, labels[i] + classes] = epsilon[i]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -(dense * np.log(p)).sum(axis=1).mean()
    found = soft_cross_entropy(*(torch.from_numpy(a) for a in (logits, labels, epsilon)), classes)
    assert float(found) == pytest.approx(expected, rel=1e-9)


# Schedules


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        ("constant", 0.0, 1.0),
        ("constant", 0.99, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 1 / 3, 0.75),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("step", 0.0, 1.0),
        ("step", 0.4999, 1.0),
        ("step", 0.5, 0.1),
        ("step", 0.7499, 0.1),
        ("step", 0.75, 0.01),
        ("one_cycle", 0.0, 0.04),
        ("one_cycle", 0.15, 0.52),
        ("one_cycle", 0.3, 1.0),
        ("one_cycle", 0.65, 0.5),
        ("one_cycle", 1.0, 0.0),
        # D-ST: 0.01, 0.5 and 0.0005 of a peak of 0.5, and 0.01 of one of 5.
        ("warm_up_cosine", 0.0, 0.02),
        ("warm_up_cosine", 0.025, 0.51),
        ("warm_up_cosine", 0.05, 1.0),
        ("warm_up_cosine", 0.525, 0.5005),
        ("warm_up_cosine", 1.0, 0.001),
        ("rise", 0.0, 0.002),
        ("rise", 0.49, 0.501),
        ("rise", 0.98, 1.0),
        ("rise", 0.99, 1.0),
    ],
)
def test_schedules_at_points_worked_out_by_hand(schedule: str, progress: float, share: float) -> None:
    assert learning_rate(schedule, 0.2, progress) == pytest.approx(0.2 * share, abs=1e-12)


def test_rates_stay_positive_and_below_the_peak() -> None:
    for schedule in SCHEDULES:
        rates = [learning_rate(schedule, 0.3, k / 97) for k in range(97)]
        assert min(rates) > 0
        assert max(rates) == pytest.approx(0.3, rel=2e-3)
    with pytest.raises(ValueError, match="'linear'"):
        learning_rate("linear", 0.1, 0.5)


# Batches and augmentation


@given(st.integers(1, 200), st.integers(2, 50), st.integers(0, 99))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_an_epoch_covers_each_index_once(n: int, batch_size: int, seed: int) -> None:
    batches = list(epoch_batches(n, batch_size, generator(seed), CPU))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    sizes = [len(batch) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    assert n == 1 or 2 <= sizes[-1] <= batch_size + 1
    again = list(epoch_batches(n, batch_size, generator(seed), CPU))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_epochs_are_shuffled_anew() -> None:
    shuffle = generator()
    first, second = (torch.cat(list(epoch_batches(50, 8, shuffle, CPU))).tolist() for _ in range(2))
    assert first != second
    assert first != list(range(50))


def all_views(image: np.ndarray, padding: int) -> list[bytes]:
    """Every crop of the padded image, flipped or not, channels first."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    views = []
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[row : row + height, column : column + width]
            views += [np.ascontiguousarray(v.transpose(2, 0, 1)).tobytes() for v in (crop, crop[:, ::-1])]
    return views


@pytest.mark.parametrize(("height", "width", "padding"), [(4, 4, 1), (3, 5, 2), (4, 4, 0)])
def test_augmented_images_are_views_and_every_view_comes(height: int, width: int, padding: int) -> None:
    images = torch.randint(1, 256, (3, height, width, 3), generator=generator(), dtype=torch.uint8)
    before = images.clone()
    # 600 draws of at most 50 views for each image: the chance that one is missed is below 1 in 1,000.
    index = torch.tensor([2, 0, 1]).repeat(600)
    out = take_augmented(images, index, padding, generator(1))
    assert out.shape == (1800, 3, height, width)
    assert out.dtype == torch.uint8
    for position in range(3):
        possible = all_views(images[position].numpy(), padding)
        assert len(set(possible)) == 2 * (2 * padding + 1) ** 2
        drawn = {np.ascontiguousarray(v.numpy()).tobytes() for v in out[index == position]}
        assert drawn == set(possible)
    assert torch.equal(images, before)


def test_augmentation_repeats_for_a_seed() -> None:
    images = torch.randint(0, 256, (5, 8, 8, 3), generator=generator(), dtype=torch.uint8)
    index = torch.arange(5)
    draws = [take_augmented(images, index, 4, generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_take_keeps_order_and_layout() -> None:
    images = torch.randint(0, 256, (5, 8, 8, 3), generator=generator(), dtype=torch.uint8)
    out = take(images, torch.tensor([4, 0, 4]))
    assert np.array_equal(out.numpy(), images.numpy()[[4, 0, 4]].transpose(0, 3, 1, 2))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_padding_is_the_papers() -> None:
    assert (crop_padding(32), crop_padding(224)) == (4, 16)


def test_a_read_only_array_is_shared_without_a_warning() -> None:
    array = np.arange(6, dtype=np.uint8)
    array.flags.writeable = False
    assert to_device(array, CPU).data_ptr() == array.ctypes.data


# The loop


class Scalar(nn.Module):
    """One parameter, at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    @property
    def value(self) -> float:
        return float(self.w.detach())


def recipe(**changes: object) -> Recipe:
    values = {"epochs": 1, "lr": 0.1, "batch_size": 2, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]


def test_two_steps_of_sgd_by_hand() -> None:
    model = Scalar()
    # Gradient 3, weight decay 0.5, momentum 0.9. Step 1: g = 3 + 0.5 * 1 = 3.5, w = 1 - 0.35 = 0.65.
    # Step 2: g = 3 + 0.5 * 0.65 = 3.325, velocity = 0.9 * 3.5 + 3.325 = 6.475, w = 0.65 - 0.6475 = 0.0025.
    losses = fit(context(), model, 4, recipe(momentum=0.9, weight_decay=0.5), lambda _index: 3 * model.w)
    assert model.value == pytest.approx(0.0025, abs=1e-6)
    assert losses == [pytest.approx((3 * 1 * 2 + 3 * 0.65 * 2) / 4)]


def test_an_epochs_loss_weighs_samples_not_batches() -> None:
    model = Scalar()
    # Batches of 4 and 2: (4 * 4 + 2 * 2) / 6.
    losses = fit(context(), model, 6, recipe(batch_size=4), lambda index: 0 * model.w + len(index))
    assert losses == [pytest.approx(20 / 6)]


def test_clip_norm_limits_the_step() -> None:
    for clip, expected in ((None, 1 - 0.1 * 300), (0.5, 1 - 0.1 * 0.5), (1e6, 1 - 0.1 * 300)):
        model = Scalar()
        fit(context(), model, 2, recipe(clip_norm=clip), lambda _index, model=model: 300 * model.w)
        assert model.value == pytest.approx(expected, rel=1e-4)


def test_the_schedule_moves_with_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def rate(schedule: str, peak: float, progress: float) -> float:
        assert (schedule, peak) == ("cosine", 0.1)
        asked.append(progress)
        return 0.5 if len(asked) == 1 else 0.0

    monkeypatch.setattr(loop, "learning_rate", rate)
    model = Scalar()
    fit(context(), model, 6, recipe(epochs=2, schedule="cosine"), lambda _index: model.w)
    assert asked == pytest.approx([k / 6 for k in range(6)])
    assert model.value == pytest.approx(0.5)  # the first step alone had a rate, and it was used


def test_every_epoch_is_told_and_trains_in_train_mode() -> None:
    told: list[tuple[str, int, int, float]] = []
    epochs: list[int] = []
    modes: list[bool] = []
    model = Scalar()

    def loss(_index: Tensor) -> Tensor:
        modes.append(model.training)
        return model.w

    def on_epoch(epoch: int) -> None:
        epochs.append(epoch)
        model.eval()

    def progress(stage: str, step: int, steps: int, values: dict[str, float]) -> None:
        told.append((stage, step, steps, values["loss"]))

    losses = fit(context(progress=progress), model, 2, recipe(epochs=3), loss, on_epoch)
    assert epochs == [0, 1, 2]
    assert modes == [True, True, True]
    assert told == [("some_stage", k + 1, 3, losses[k]) for k in range(3)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_an_error_that_names_rate_and_epoch(bad: float) -> None:
    model = Scalar()
    epochs: list[int] = []

    def loss(_index: Tensor) -> Tensor:
        return model.w * (bad if len(epochs) == 1 else 1.0)  # good in the first epoch, bad in the second

    with pytest.raises(TrainingDiverged, match=r"some_stage.*epoch 2 of 4.*rate of 0\.25") as error:
        fit(context(), model, 2, recipe(epochs=4, lr=0.25), loss, epochs.append)
    assert isinstance(error.value, UserError)
    assert epochs == [0]


def test_a_rate_that_explodes_a_real_network_is_caught() -> None:
    model = build_model(ModelSpec(width=2, blocks=(1,), num_classes=2, image_size=8), 0)
    images = torch.randint(0, 256, (8, 8, 8, 3), generator=generator(), dtype=torch.uint8)
    feed = BatchSource(images, "fp32", generator(), augment=False)
    labels = torch.arange(8) % 2
    with pytest.raises(TrainingDiverged, match="some_stage"):
        fit(
            context(),
            model,
            8,
            recipe(epochs=20, lr=1e30, batch_size=4),
            lambda index: nn.functional.cross_entropy(feed.logits(model, index), labels[index]),
        )


def test_frozen_statistics_are_used_not_updated_and_train_mode_comes_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5), nn.BatchNorm2d(2))
    model.train()
    model[2].eval()  # frozen by the caller: must stay so
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(4, 2, 3, 3, generator=generator()) + 5
    with frozen_batch_statistics(model):
        assert model[1].training
        # Fresh statistics are mean 0, variance 1: the layer passes its input through.
        torch.testing.assert_close(model[0](x), x / math.sqrt(1 + 1e-5))
        model(x)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [m.training for m in model] == [True, True, False]
    with pytest.raises(RuntimeError, match="stop"), frozen_batch_statistics(model):
        raise RuntimeError("stop")
    assert [m.training for m in model] == [True, True, False]
    model(x)
    assert float(model[0].running_mean.mean()) == pytest.approx(0.5, abs=0.1)  # outside, it learns again


# Precision and inference


def tiny() -> tuple[nn.Module, Tensor]:
    model = build_model(ModelSpec(width=4, blocks=(1, 1), num_classes=3, image_size=8), 0)
    return model, torch.randint(0, 256, (7, 8, 8, 3), generator=generator(), dtype=torch.uint8)


def test_bf16_runs_on_a_cpu_and_gives_float32_logits() -> None:
    model, images = tiny()
    index = torch.arange(7)
    found = {p: BatchSource(images, p, generator(), augment=False).logits(model, index) for p in PRECISIONS}
    assert found["bf16"].dtype == found["fp32"].dtype == torch.float32
    assert not torch.equal(found["bf16"], found["fp32"])
    torch.testing.assert_close(found["bf16"], found["fp32"], rtol=0.1, atol=0.1)
    feed = BatchSource(images, "bf16", generator(), augment=True)
    losses = fit(context(), model, 7, recipe(epochs=2, batch_size=4), lambda i: feed.logits(model, i).square().mean())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[1] < losses[0]


def test_precision_is_chosen_and_applied() -> None:
    assert best_precision("cpu") in PRECISIONS
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_inference_is_in_order_in_eval_mode_and_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny()
    labels = torch.arange(7) % 3
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = predict_logits(model, images, "fp32")
    one_by_one = torch.cat([model.eval()(images[i : i + 1].permute(0, 3, 1, 2)) for i in range(7)])
    torch.testing.assert_close(whole, one_by_one.detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    monkeypatch.setattr(inference, "CHUNK_PIXELS", 3 * 64)
    assert [len(chunk) for chunk in inference.chunks(images)] == [3, 3, 1]
    torch.testing.assert_close(predict_logits(model, images, "fp32"), whole, rtol=1e-4, atol=1e-5)
    expected, _ = per_sample(whole.double(), labels)
    losses = sample_losses(model, images, labels, "fp32")
    assert losses.dtype == np.float64
    assert losses == pytest.approx(expected.numpy(), rel=1e-4)
    assert predict_array(model, images.numpy(), CPU, "fp32") == pytest.approx(whole.numpy(), rel=1e-4, abs=1e-5)
