"""The surrogate: trained once, shared when its options agree, differentiable; and ascent that keeps to its ball."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_images import make_images
from torch import Tensor, nn

from defenses.registry import UserError
from defenses.storage.store import Store
from defenses.training.inference import predict_array
from study.attacks import parse_attack
from study.attacks.support.fitting import FitContext
from study.attacks.support.surrogate import Ascent, SurrogateConfig, penultimate_width, surrogate, surrogate_options
from study.datasets.images import Images

TINY = SurrogateConfig(
    surrogate_width=4,
    surrogate_blocks=(1, 1),
    surrogate_epochs=10,
    surrogate_augment=False,
    surrogate_schedule="one_cycle",
    surrogate_batch_size=16,
    surrogate_adversarial_steps=1,
    surrogate_adversarial_epsilon=2.0,
)
TINY_OPTIONS = (
    ":surrogate_width=4:surrogate_blocks=1,1:surrogate_epochs=1:surrogate_batch_size=16:surrogate_adversarial_steps=1"
)


class Linear(nn.Module):
    """Two logits, of which one grows with every pixel: the loss of class 0 rises by the ones' direction."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, 2]."""
        total = images.flatten(1).sum(dim=1) / 1000
        return torch.stack([-total, total], dim=1)


def ascend(ascent: Ascent, value: float, start: Tensor | None = None) -> Tensor:
    images = torch.full((2, 3, 4, 4), value)
    return ascent.perturb(Linear(), images, torch.tensor([0, 1]), start)


# --- ascent -----------------------------------------------------------------------------------------------------------


def test_one_l2_step_is_the_normalised_gradient() -> None:
    moved = ascend(Ascent("l2", 100.0, 1, 6.0), 100.0)
    step = 6 / np.sqrt(48)  # 48 values, all alike
    torch.testing.assert_close(moved[0], torch.full((3, 4, 4), 100 + step))
    torch.testing.assert_close(moved[1], torch.full((3, 4, 4), 100 - step))


def test_one_linf_step_is_the_sign() -> None:
    moved = ascend(Ascent("linf", 8.0, 1, 2.0), 100.0)
    assert moved[0].unique().tolist() == [102.0]
    assert moved[1].unique().tolist() == [98.0]


@pytest.mark.parametrize(("norm", "expected"), [("l2", 5.0 / np.sqrt(48)), ("linf", 5.0)])
def test_the_ball_stops_the_ascent(norm: str, expected: float) -> None:
    moved = ascend(Ascent(norm, 5.0, 7, 4.0), 100.0)
    torch.testing.assert_close(moved[0], torch.full((3, 4, 4), 100 + expected))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_cube_stops_the_ascent(norm: str) -> None:
    assert ascend(Ascent(norm, 900.0, 3, 300.0), 254.0)[0].unique().tolist() == [255.0]
    assert ascend(Ascent(norm, 900.0, 3, 300.0), 1.0)[1].unique().tolist() == [0.0]


def test_no_steps_change_nothing() -> None:
    assert ascend(Ascent("l2", 5.0, 0, 1.0), 33.0).unique().tolist() == [33.0]


def test_a_gradient_of_zero_moves_nothing() -> None:
    images = torch.full((1, 3, 4, 4), 9.0)
    moved = Ascent("l2", 5.0, 2, 1.0).perturb(lambda x: 0 * Linear()(x), images, torch.tensor([0]))  # type: ignore[arg-type]
    torch.testing.assert_close(moved, images)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_starts_lie_in_the_ball(norm: str) -> None:
    images, ascent = torch.zeros(64, 3, 8, 8), Ascent(norm, 7.0, 1, 1.0)
    start = ascent.start(images, torch.Generator().manual_seed(0)).flatten(1)
    lengths = start.norm(dim=1) if norm == "l2" else start.abs().amax(dim=1)
    assert 6 < float(lengths.max()) <= 7.001
    assert start.unique(dim=0).shape[0] == 64


# --- the surrogate ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(images: Images) -> nn.Module:
    return surrogate(images, TINY, FitContext(seed=0))


def test_it_learns_the_training_images(images: Images, network: nn.Module) -> None:
    answers = predict_array(network, images.train_images, torch.device("cpu"), "fp32").argmax(axis=1)
    assert (answers == images.train_labels).mean() > 0.9


def test_it_is_frozen_and_lets_gradients_through(images: Images, network: nn.Module) -> None:
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    pixels = torch.from_numpy(images.train_images[:4]).permute(0, 3, 1, 2).float().requires_grad_()
    network(pixels).square().sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_same_seed_gives_the_same_weights(images: Images, network: nn.Module) -> None:
    torch.manual_seed(123)  # the global generator must not matter
    again = surrogate(images, TINY, FitContext(seed=0)).state_dict()
    other = surrogate(images, TINY, FitContext(seed=1)).state_dict()
    for name, weights in network.state_dict().items():
        torch.testing.assert_close(weights, again[name], rtol=0, atol=0)
    assert not torch.equal(again["network.linear.weight"], other["network.linear.weight"])


def test_adversarial_training_is_not_plain_training(images: Images, network: nn.Module) -> None:
    plain = SurrogateConfig(**{**vars(TINY), "surrogate_adversarial_steps": 0})
    weights = surrogate(images, plain, FitContext(seed=0)).state_dict()["network.linear.weight"]
    assert not torch.equal(weights, network.state_dict()["network.linear.weight"])


def test_test_images_are_not_trained_on(images: Images, network: nn.Module) -> None:
    blank = np.zeros_like(images.test_images)
    changed = Images.of(images.train_images, images.train_labels, blank, images.test_labels, images.classes)
    torch.testing.assert_close(surrogate(changed, TINY, FitContext(0)).state_dict(), dict(network.state_dict()))


def test_every_epoch_is_told(images: Images) -> None:
    told: list[tuple[str, int, int]] = []
    context = FitContext(0, progress=lambda stage, step, steps, values: told.append((stage, step, steps)))
    surrogate(images, TINY, context)
    assert told == [("surrogate", epoch, 10) for epoch in range(1, 11)]


def test_both_attacks_share_one(images: Images, tmp_path: Path) -> None:
    first, second = (FitContext(0, store=Store(tmp_path)) for _ in range(2))
    parse_attack("label_consistent:steps=1" + TINY_OPTIONS).fit(images, first)
    parse_attack("trojan_inversion:inversion_steps=2:probe_steps=2" + TINY_OPTIONS).fit(images, second)
    assert [(run.stage, run.hit) for run in first.runs] == [("surrogate", False)]
    assert [(run.stage, run.hit) for run in second.runs] == [("surrogate", True), ("trojan_mark", False)]
    assert first.runs[0].key == second.runs[0].key


@pytest.mark.parametrize("preset", ["smoke", "small"])
def test_presets_agree_on_it(preset: str) -> None:
    configs = [parse_attack(text, preset).config for text in ("label_consistent", "trojan_inversion")]
    one, other = (surrogate_options(config) for config in configs if isinstance(config, SurrogateConfig))
    assert one == other


def test_every_option_of_it_changes_its_key(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"surrogate_model": "preact_resnet18", "surrogate_width": 5, "surrogate_blocks": (1, 1, 1)}
    keys = set()
    for change in ({}, *({name: value} for name, value in changes.items()), {"surrogate_weight_decay": 1e-3}):
        context = FitContext(0)
        surrogate(images, SurrogateConfig(**{**vars(TINY), "surrogate_epochs": 1, **change}), context)
        keys.add(context.runs[0].key)
    assert len(keys) == 5


def test_it_takes_224_px_and_100_classes() -> None:
    images = make_images(train=100, test=100, classes=100, size=224)
    config = SurrogateConfig(**{**vars(TINY), "surrogate_epochs": 1, "surrogate_width": 2})
    made = surrogate(images, config, FitContext(0))
    assert made(torch.zeros(1, 3, 224, 224)).shape == (1, 100)


@pytest.mark.parametrize("count", [29, 51])
def test_odd_batches_of_a_narrow_network_do_not_end_the_process(count: int) -> None:
    # With channels last they do, at two threads on a processor with AVX512.
    images = make_images(train=64 + count, test=8, size=32)
    changes = {
        "surrogate_width": 8,
        "surrogate_batch_size": 64,
        "surrogate_epochs": 3,
        "surrogate_adversarial_steps": 0,
    }
    made = surrogate(images, SurrogateConfig(**{**vars(TINY), **changes}), FitContext(0))
    assert made(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_it_takes_fewer_images_than_a_batch() -> None:
    images = make_images(train=9, test=8)
    made = surrogate(images, SurrogateConfig(**{**vars(TINY), "surrogate_epochs": 1}), FitContext(0))
    assert made(torch.from_numpy(images.train_images[:1]).permute(0, 3, 1, 2).float()).isfinite().all()


def test_penultimate_width_is_the_networks(network: nn.Module) -> None:
    assert penultimate_width(TINY) == network.get_submodule("network.linear").in_features == 8


def test_an_empty_ball_is_refused(images: Images) -> None:
    with pytest.raises(UserError, match="surrogate_adversarial_steps=0"):
        parse_attack("label_consistent:surrogate_adversarial_epsilon=0").check(images)
