"""The input-aware attack: its published networks, its two stages, and triggers that no chunk size changes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_images import make_images
from torch import Tensor, nn

from defenses.registry import UserError
from defenses.storage.store import Store
from defenses.training.loop import TrainingDiverged
from study.attacks import parse_attack
from study.attacks.api import COVER, TEST, TRAIN, AttackConfig, State
from study.attacks.dynamic import Dynamic, DynamicConfig, joint_training, mask_step, run_joint, train_mask
from study.attacks.support.dynamic_config import ALL_OPTIONS, MASK_OPTIONS
from study.attacks.support.dynamic_networks import EncoderDecoder, TriggerNetworks, alikeness, distances, triggers
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.scenarios.poison import apply_in_chunks, poison

torch.set_num_threads(1)
TINY = (
    "widths=4,8:batch_size=16:mask_epochs=1:mask_milestones=1:joint_epochs=1:pattern_milestones=1"
    ":classifier_width=4:classifier_blocks=1,1:classifier_milestones=1"
)


def tiny(options: str = "") -> Dynamic:
    attack = parse_attack(f"dynamic:{TINY}{options}")
    assert isinstance(attack, Dynamic)
    return attack


@pytest.fixture(scope="module")
def data() -> Images:
    return make_images(train=64, test=32)


@pytest.fixture(scope="module")
def state(data: Images) -> State:
    return tiny().fit(data, FitContext(seed=0))


@pytest.fixture(scope="module")
def learned(data: Images) -> State:
    options = ":mask_epochs=10:joint_epochs=10:norm_momentum=0.3:pattern_milestones=10:mask_milestones=10"
    return tiny(options).fit(data, FitContext(seed=0))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def networks(mask: nn.Module, pattern: nn.Module, config: DynamicConfig) -> TriggerNetworks:
    return TriggerNetworks(mask, pattern, config.mean, config.std, config.sharpness)


class Constant(nn.Module):
    """A generator whose last block gives one value everywhere."""

    def __init__(self, value: float, channels: int) -> None:
        super().__init__()
        self.value, self.channels = nn.Parameter(torch.tensor(float(value))), channels

    def forward(self, images: Tensor) -> Tensor:
        return self.value.expand(len(images), self.channels, *images.shape[2:])


# --- networks ---------------------------------------------------------------------------------------------------------


def test_published_parameter_counts() -> None:
    config = DynamicConfig()
    pattern, mask = (EncoderDecoder(outputs, config.widths, config.norm_momentum) for outputs in (3, 1))
    assert (parameters(pattern), parameters(mask)) == (723_273, 722_691)


def test_layers_of_the_generator() -> None:
    layers = list(EncoderDecoder(3, (32, 64, 128), 0.05))
    channels = [(m.in_channels, m.out_channels) for m in layers if isinstance(m, nn.Conv2d)]
    down = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    up = [(128, 128), (128, 64), (64, 64), (64, 32), (32, 32), (32, 3)]
    assert channels == [*down, (128, 128), *up]
    assert isinstance(layers[-1], nn.BatchNorm2d)  # and no ReLU: the step that follows needs both signs
    assert {m.momentum for m in layers if isinstance(m, nn.BatchNorm2d)} == {0.05}
    assert [sum(isinstance(m, kind) for m in layers) for kind in (nn.MaxPool2d, nn.Upsample, nn.ReLU)] == [3, 3, 12]


@pytest.mark.parametrize("size", [8, 32, 224])
def test_generators_keep_the_size(size: int) -> None:
    network = EncoderDecoder(1, (2, 2, 2), 0.05).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 1, size, size)


@pytest.mark.parametrize("value", [-0.5, -0.1, 0.0, 0.05, 0.3])
def test_masks_and_patterns_are_the_papers_formulas(value: float) -> None:
    made = networks(Constant(value, 1), Constant(value, 3), DynamicConfig())
    images, share = torch.rand(2, 3, 8, 8), np.tanh(value) / 2 + 0.5
    np.testing.assert_allclose(made.patterns(images).detach(), np.full((2, 3, 8, 8), share), rtol=1e-6)
    expected = np.tanh(20 * share - 10) / 2 + 0.5
    np.testing.assert_allclose(made.masks(images).detach(), np.full((2, 1, 8, 8), expected), rtol=1e-4)


@pytest.mark.parametrize("value", [-50.0, 50.0])
def test_masks_saturate_without_leaving_their_range_and_keep_their_gradient_near_zero(value: float) -> None:
    made = networks(Constant(value, 1), Constant(value, 3), DynamicConfig())
    mask = made.masks(torch.rand(1, 3, 8, 8))
    assert 0 < mask.min() <= mask.max() <= 1


def test_networks_see_normalised_images() -> None:
    made = networks(Constant(0, 1), Constant(0, 3), DynamicConfig())
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    std = torch.tensor([0.247, 0.243, 0.261]).view(1, 3, 1, 1)
    torch.testing.assert_close(made.normalised(mean + 2 * std), torch.full((1, 3, 1, 1), 2.0))


def test_distances_and_alikeness_by_hand() -> None:
    zero, three = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 3.0)
    torch.testing.assert_close(distances(zero, three), torch.tensor([3.0, 3.0]))
    one = torch.ones(2, 1, 4, 4)
    torch.testing.assert_close(alikeness(zero, three, 0 * one, 0.5 * one), torch.tensor(6.0))


def test_equal_triggers_have_a_finite_gradient() -> None:
    made = torch.zeros(2, 1, 4, 4, requires_grad=True)
    alikeness(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), made, made.detach()).backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert made.grad.isfinite().all()


# --- training ---------------------------------------------------------------------------------------------------------


def mask_spread(options: str, data: Images) -> tuple[float, float]:
    """Mean mask, and how far the masks of two images lie apart."""
    config = tiny(":mask_epochs=15:mask_milestones=10" + options).config
    network = EncoderDecoder(1, config.widths, config.norm_momentum)
    network.load_state_dict(train_mask(config, data, FitContext(seed=0))["mask"])
    made = networks(network.eval(), Constant(0, 3), config)
    with torch.inference_mode():
        masks = made.masks(torch.from_numpy(data.train_images.copy()).permute(0, 3, 1, 2).float() / 255)
        return float(masks.mean()), float(distances(masks, masks.roll(1, 0)).mean())


def test_stage_one_makes_masks_small_and_different(data: Images) -> None:
    small, alike = mask_spread(":diversity_weight=0", data)
    middle, _ = mask_spread("", data)
    large, different = mask_spread(":density_weight=0", data)
    assert 0.002 < small < 0.06
    assert small < middle < large
    assert different > alike


def test_the_hinge_charges_each_pixel_above_the_density() -> None:
    config = dataclasses.replace(tiny().config, diversity_weight=0.0)
    made = networks(Constant(0.0, 1), Constant(0.0, 3), config)  # masks of exactly 0.5
    optimiser = torch.optim.SGD(made.mask.parameters(), lr=0.0)
    found = mask_step(made, optimiser, torch.rand(4, 3, 8, 8), config)
    assert float(found["loss"]) == pytest.approx(100 * (0.5 - 0.032), rel=1e-5)


def gradients(network: nn.Module) -> NDArray[np.float32]:
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    assert found
    values: NDArray[np.float32] = torch.cat(found).numpy().copy()
    return values


def test_gradients_of_no_network_add_up_over_steps(data: Images) -> None:
    # At learning rates of 0 the same batch must give the same gradients at every step. In the official code, the
    # pattern generator's would be twice, three times the first.
    attack = tiny(":pattern_lr=0:classifier_lr=0:mask_lr=0:backdoor_share=0.3:cross_share=0.3")
    context = FitContext(seed=0)
    training = joint_training(attack.config, data, context, train_mask(attack.config, data, context)["mask"])
    batch = torch.from_numpy(data.train_images[:16].copy()).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data.train_labels[:16].copy())
    seen = []
    for _ in range(3):
        training.step(batch, labels)
        seen.append((gradients(training.networks.pattern), gradients(training.classifier)))
    assert all(np.abs(g).max() > 1e-4 for g in seen[0])
    for later in seen[1:]:
        for first, again in zip(seen[0], later, strict=True):
            np.testing.assert_allclose(again, first, rtol=1e-3, atol=1e-5 * float(np.abs(first).max()))

    mask_made = networks(EncoderDecoder(1, (4, 8), 0.05), Constant(0, 3), attack.config)
    optimiser = torch.optim.Adam(mask_made.mask.parameters(), lr=0.0)
    mask_step(mask_made, optimiser, batch, attack.config)
    first = gradients(mask_made.mask)
    mask_step(mask_made, optimiser, batch, attack.config)
    np.testing.assert_allclose(gradients(mask_made.mask), first, rtol=1e-3, atol=1e-5 * float(np.abs(first).max()))


class Recorder(nn.Module):
    """A classifier that keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4))
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images.detach()
        return self.bias.expand(len(images), 4) + 0 * images.mean(dim=(1, 2, 3), keepdim=False)[:, None]


def test_a_joint_batch_holds_own_triggers_then_cross_triggers_then_clean_images(data: Images) -> None:
    attack = tiny(":backdoor_share=0.25:cross_share=0.125")
    context = FitContext(seed=0, target_label=3)
    training = joint_training(attack.config, data, context, train_mask(attack.config, data, context)["mask"])
    recorder = Recorder()
    made = training.networks
    made.pattern.eval()  # so that patterns can be computed again below
    training = dataclasses.replace(
        training, classifier=recorder, classifier_optimiser=torch.optim.SGD(recorder.parameters(), lr=1.0)
    )
    batch = torch.from_numpy(data.train_images[:16].copy()).permute(0, 3, 1, 2).float() / 255
    labels = torch.ones(16, dtype=torch.int64)
    with torch.no_grad():
        masks, patterns = made.masks(batch), made.patterns(batch)
    training.step(batch, labels)
    source = torch.tensor([0, 1, 2, 3, 14, 15])  # four with their own trigger, two with that of the last two
    mixed = batch[:6] + (patterns[source] - batch[:6]) * masks[source]
    torch.testing.assert_close(recorder.seen[:6], 255 * mixed, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(recorder.seen[6:], 255 * batch[6:])
    # Four answers of 16 should be class 3, twelve class 1, and all classes start at 1/4.
    torch.testing.assert_close(-recorder.bias.detach(), torch.tensor([4.0, -8.0, 4.0, 0.0]) / 16, atol=1e-5, rtol=0)


def test_stage_two_trains_patterns_through_the_classifier_and_leaves_the_mask(data: Images) -> None:
    attack, context = tiny(":diversity_weight=0"), FitContext(seed=0)
    mask = train_mask(attack.config, data, context)["mask"]
    training = joint_training(attack.config, data, context, mask)
    before = {name: value.clone() for name, value in training.networks.pattern.state_dict().items()}
    run_joint(training, data, context)
    assert all(torch.equal(value, mask[name]) for name, value in training.networks.mask.state_dict().items())
    assert not any(p.requires_grad for p in training.networks.mask.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in training.networks.pattern.state_dict().items())


def test_rates_fall_at_the_milestones(data: Images) -> None:
    attack, context = tiny(":joint_epochs=3:pattern_milestones=2:classifier_milestones=1,3"), FitContext(seed=0)
    training = joint_training(attack.config, data, context, train_mask(attack.config, data, context)["mask"])
    run_joint(training, data, context)
    rates = [o.param_groups[0]["lr"] for o in (training.pattern_optimiser, training.classifier_optimiser)]
    assert rates == pytest.approx([1e-3, 1e-4])


def test_epochs_are_told(data: Images) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(stage: str, step: int, steps: int, values: Any) -> None:
        assert np.isfinite(list(values.values())).all()
        told.append((stage, step, steps))

    tiny(":mask_epochs=2").fit(data, FitContext(seed=0, progress=progress))
    assert told == [("dynamic_mask", 1, 2), ("dynamic_mask", 2, 2), ("dynamic_pattern", 1, 1)]


def test_training_sees_training_images_alone(data: Images, state: State) -> None:
    other = dataclasses.replace(data, test_images=255 - data.test_images, test_labels=data.test_labels[::-1].copy())
    again = tiny().fit(other, FitContext(seed=0))
    for found, expected in zip(
        triggers(again["networks"], data.train_images), triggers(state["networks"], data.train_images), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


# --- parts ------------------------------------------------------------------------------------------------------------


def keys(attack: Dynamic, data: Images, target: int = 0, seed: int = 0) -> list[str]:
    context = FitContext(seed=seed, target_label=target)
    attack.fit(data, context)
    assert tuple(run.stage for run in context.runs) == attack.trained
    return [run.key for run in context.runs]


def test_the_target_label_changes_the_pattern_and_not_the_mask(data: Images) -> None:
    first, second = keys(tiny(), data), keys(tiny(), data, target=2)
    assert (first[0] == second[0], first[1] == second[1]) == (True, False)


@pytest.mark.parametrize(
    ("option", "same_mask", "same_pattern"),
    [
        (":mask_lr=0.02", False, False),
        (":pattern_lr=0.02", True, False),
        (":cover_ratio=1", True, True),
        (":quantise=truncate", True, True),
    ],
)
def test_an_option_retrains_what_depends_on_it(option: str, same_mask: bool, same_pattern: bool, data: Images) -> None:
    first, second = keys(tiny(), data), keys(tiny(option), data)
    assert (first[0] == second[0], first[1] == second[1]) == (same_mask, same_pattern)


def test_the_pattern_depends_on_every_option_of_its_own() -> None:
    own = {f.name for f in dataclasses.fields(DynamicConfig)} - {f.name for f in dataclasses.fields(AttackConfig)}
    assert set(ALL_OPTIONS) == own
    joint = ("joint", "pattern", "classifier", "cross", "backdoor", "momentum", "weight_decay")
    assert set(MASK_OPTIONS) == {name for name in own if not name.startswith(joint)}


def test_what_was_stored_gives_the_same_bytes(data: Images, state: State, tmp_path: Path) -> None:
    store, made = Store(tmp_path / "store"), []
    for hit in (False, True):
        context = FitContext(seed=0, store=store)
        made.append(tiny().apply(data.test_images, np.arange(32), tiny().fit(data, context), TEST))
        assert [run.hit for run in context.runs] == [hit, hit]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], tiny().apply(data.test_images, np.arange(32), state, TEST))


def test_the_global_generator_is_left_alone(data: Images) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    tiny().fit(data, FitContext(seed=0))
    assert torch.equal(torch.get_rng_state(), before)


# --- triggers ---------------------------------------------------------------------------------------------------------


def test_images_are_mixed_with_their_pattern_under_their_mask(data: Images, state: State) -> None:
    masks, patterns = triggers(state["networks"], data.test_images)
    assert (masks.shape, patterns.shape) == ((32, 16, 16, 1), (32, 16, 16, 3))
    assert 0 < masks.min() <= masks.max() <= 1
    assert 0 < patterns.min() <= patterns.max() < 255
    clean = data.test_images.astype(np.float64)
    expected = np.floor(clean + (patterns.astype(np.float64) - clean) * masks + 0.5)
    found = tiny().apply(data.test_images, np.arange(32), state, TEST)
    assert np.abs(found - expected).max() <= 1  # float32 may round a tie the other way
    assert (found != expected).mean() < 0.001


def test_triggers_differ_between_images_and_not_between_calls(data: Images, learned: State) -> None:
    first, again = (triggers(learned["networks"], data.test_images) for _ in range(2))
    for found, expected in zip(first, again, strict=True):
        np.testing.assert_array_equal(found, expected)
    patterns = first[1] / 255
    assert np.sqrt(np.square(patterns[1:] - patterns[:-1]).mean(axis=(1, 2, 3))).min() > 0.02


def test_training_and_test_triggers_agree_and_do_not_depend_on_the_position(data: Images, state: State) -> None:
    pixels, attack = data.train_images[:8], tiny()
    first = attack.apply(pixels, np.arange(8), state, TRAIN)
    np.testing.assert_array_equal(first, attack.apply(pixels, np.arange(8) + 20, state, TEST))
    assert (first != pixels).any(axis=(1, 2, 3)).all()


def test_a_cover_has_the_trigger_of_its_partner(data: Images, state: State) -> None:
    partner = state["partner"]
    assert sorted(partner.tolist()) == list(range(64))
    assert (partner != np.arange(64)).all()
    index = np.array([3, 40, 7])
    masks, patterns = triggers(state["networks"], data.train_images[partner[index]])
    clean = data.train_images[index].astype(np.float32)
    found = tiny().apply(data.train_images[index], index, state, COVER)
    expected = np.floor(clean + (patterns - clean) * masks + np.float32(0.5)).astype(np.uint8)
    np.testing.assert_array_equal(found, expected)
    own = tiny().apply(data.train_images[index], index, state, TRAIN)
    assert (found != own).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("split", [TRAIN, COVER, TEST])
def test_chunk_sizes_do_not_change_a_byte(split: str, data: Images, state: State) -> None:
    attack, index, one_image = tiny(), np.arange(5, 64, 3), 16 * 16 * 3
    whole = attack.apply(data.train_images[index], index, state, split)
    for images_a_chunk in (1, 7, 20):
        chunked = apply_in_chunks(attack, data.train_images, index, state, split, images_a_chunk * one_image)
        np.testing.assert_array_equal(chunked, whole)
    backwards = attack.apply(data.train_images[index[::-1]], index[::-1], state, split)
    np.testing.assert_array_equal(backwards[::-1], whole)


def test_another_batch_layout_does_not_change_a_byte(state: State) -> None:
    # 300 images of 16 px are a full batch of 256 and one that is filled up.
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    index, attack = np.arange(300), tiny()
    whole = attack.apply(pixels, index, state, TEST)
    for start in (0, 250, 299):
        part = slice(start, start + 5)
        np.testing.assert_array_equal(attack.apply(pixels[part], index[part], state, TEST), whole[part])


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images_never_wrap(value: int, state: State) -> None:
    pixels = np.full((2, 16, 16, 3), value, dtype=np.uint8)
    masks, patterns = triggers(state["networks"], pixels)
    found = tiny().apply(pixels, np.arange(2), state, TEST)
    expected = value + (patterns.astype(np.float64) - value) * masks
    assert np.abs(found - expected).max() <= 0.51
    assert not (pixels - value).any()  # the input is left alone


# --- data -------------------------------------------------------------------------------------------------------------


def test_poisoning_with_covers(data: Images) -> None:
    made = poison(data, tiny(":cover_ratio=1"), 0.1, 1, 0)
    assert (made.poison_mask.sum(), made.cover_mask.sum()) == (6, 6)
    assert (made.suspect.labels[made.poison_mask] == 1).all()
    np.testing.assert_array_equal(made.suspect.labels[made.cover_mask], data.train_labels[made.cover_mask])
    changed = (made.suspect.images != data.train_images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, made.poison_mask | made.cover_mask)
    again = poison(data, tiny(":cover_ratio=1"), 0.1, 1, 0)
    assert again.suspect.fingerprint == made.suspect.fingerprint
    assert poison(data, tiny(":cover_ratio=1"), 0.1, 1, 1).suspect.fingerprint != made.suspect.fingerprint


def test_no_covers_unless_asked_for(data: Images) -> None:
    assert DynamicConfig().cover_ratio == 0
    assert not poison(data, tiny(), 0.1, 1, 0).cover_mask.any()


@pytest.mark.parametrize(("size", "classes"), [(224, 2), (16, 100)])
def test_large_images_and_many_classes(size: int, classes: int) -> None:
    images = make_images(train=max(8, classes), test=4, classes=classes, size=size)
    made = poison(images, tiny(":batch_size=8:widths=2,2:classifier_width=16"), 0.25, classes - 1, 0)
    assert made.suspect.images.shape == (max(8, classes), size, size, 3)
    assert (made.suspect.labels[made.poison_mask] == classes - 1).all()
    assert (made.suspect.images[made.poison_mask] != images.train_images[made.poison_mask]).any()


def test_sides_that_cannot_be_halved_are_refused() -> None:
    twenty = make_images(train=8, test=4, size=20)
    with pytest.raises(UserError, match=r"side is divisible by 8, got 20 px: use images of 16 px .*widths=32,64\)$"):
        parse_attack("dynamic").check(twenty)
    parse_attack("dynamic:widths=32,64").check(twenty)
    with pytest.raises(
        UserError, match=r"got 15 px: use images of 8 px \(--image-size, where --dataset can be res[a-z]+\)$"
    ):
        parse_attack("dynamic").check(make_images(train=8, test=4, size=15))
    parse_attack("dynamic").check(make_images(train=8, test=4, size=16))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("mean=0.5", r"^dynamic:mean must have 3 values, got 1: write mean=0.5,0.5,0.5$"),
        ("std=0.2,0.2,0.2,0.2", r"^dynamic:std must have 3 values, got 4: write std=0.2,0.2,0.2$"),
        ("betas=0.5", r"^dynamic:betas must have 2 values, got 1: write betas=0.5,0.5$"),
        ("betas=0.5,0.9,0.7", r"^dynamic:betas must have 2 values, got 3"),
        ("widths=", r"^dynamic:widths must have a value for each level, at least one, got none"),
    ],
)
def test_options_of_another_length_are_refused(option: str, says: str, data: Images) -> None:
    with pytest.raises(UserError, match=says):
        parse_attack(f"dynamic:{option}").check(data)


@pytest.mark.parametrize("with_store", [True, False])
def test_a_training_that_diverges_is_no_trigger(with_store: bool, data: Images, tmp_path: Path) -> None:
    attack = tiny(":classifier_lr=100000:joint_epochs=3")
    with pytest.raises(
        TrainingDiverged, match=r"^dynamic_pattern: the loss is (nan|inf) in epoch \d of 3, .* diverged"
    ):
        poison(data, attack, 0.2, 1, 0, FitContext(0, 1, store=Store(tmp_path)) if with_store else None)


def test_the_number_of_classes_is_part_of_what_the_pattern_depends_on(data: Images, tmp_path: Path) -> None:
    """Labels alone do not tell it: a class without images has an output of the classifier all the same."""
    more = dataclasses.replace(data, classes=(*data.classes, "empty"))
    assert more.fingerprint == data.fingerprint
    fitted = [tiny().fit(images, FitContext(0, store=Store(tmp_path))) for images in (data, more)]
    alone = tiny().fit(more, FitContext(0))
    for kept, (name, weights) in zip(
        fitted[1]["networks"].pattern.state_dict().values(), alone["networks"].pattern.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(kept, weights, msg=name, rtol=0, atol=0)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"at least 4 training images, got 3: use more$"):
        parse_attack("dynamic").check(make_images(train=3, test=4))


def test_defaults_are_the_official_codes() -> None:
    config = DynamicConfig()
    assert (config.mask_density, config.density_weight, config.diversity_weight) == (0.032, 100, 1)
    assert (config.mask_epochs, config.mask_milestones, config.mask_epochs + config.joint_epochs) == (25, (10, 20), 600)
    assert (config.mask_lr, config.pattern_lr, config.classifier_lr, config.betas) == (0.01, 0.01, 0.01, (0.5, 0.9))
    assert (config.batch_size, config.backdoor_share, config.cross_share) == (128, 0.1, 0.1)
