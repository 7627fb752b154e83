"""ISSBA: the message is read back, is faint, and lies in every image in another way (specs/attacks.md 2.10)."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_images import make_images

from defenses.registry import UserError
from defenses.storage.store import Store
from defenses.training.loop import TrainingDiverged
from study.attacks import parse_attack
from study.attacks.api import COVER, TEST, TRAIN, State
from study.attacks.issba import ISSBAConfig, error_weight, hide, measure, right_bits
from study.attacks.support.fitting import FitContext
from study.attacks.support.issba_networks import Decoder, Encoder
from study.datasets.images import Images
from study.scenarios.poison import apply_in_chunks, poison

Pixels = NDArray[np.uint8]
TRAINED = "issba:bits=4:width=4:steps=400:batch_size=16:lr=0.005:hold_steps=10:ramp_steps=100:l2_weight=12"
BRIEF = "issba:width=2:steps=2:hold_steps=0:ramp_steps=1:batch_size=4"  # networks that know nothing yet


@pytest.fixture(scope="module")
def trained(images: Images) -> State:
    """Networks that hide four bits in images of 16 px."""
    torch.set_num_threads(1)
    return parse_attack(TRAINED).fit(images, FitContext(seed=0))


def brief(images: Images, options: str = "", seed: int = 0, store: Store | None = None) -> State:
    return parse_attack(BRIEF + options).fit(images, FitContext(seed=seed, store=store))


def residuals(state: State, pixels: Pixels, flipped: bool = False) -> NDArray[np.float32]:
    secret = 1 - state["secret"] if flipped else state["secret"]
    return (hide(pixels, state["encoder"], secret) - pixels).reshape(len(pixels), -1)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    return a @ b.T


# --- what the specification asks of a trained encoder -----------------------------------------------------------------


def test_held_out_images_are_read_and_look_alike(trained: State, images: Images) -> None:
    for secret in (trained["secret"], 1 - trained["secret"]):
        quality = measure(images.test_images, trained["encoder"], trained["decoder"], secret)
        assert quality["bit_accuracy"] >= 0.97
        assert quality["psnr"] >= 25


def test_clean_images_do_not_hold_the_message(trained: State, images: Images) -> None:
    def nothing(pixels: torch.Tensor, messages: torch.Tensor) -> torch.Tensor:
        return pixels

    quality = measure(images.test_images, nothing, trained["decoder"], trained["secret"])  # type: ignore[arg-type]
    assert quality["bit_accuracy"] < 0.95
    assert quality["psnr"] > 100


def test_every_image_gets_another_residual(trained: State, images: Images) -> None:
    found = residuals(trained, images.test_images[:32])
    others = cosines(found, found)[~np.eye(32, dtype=bool)]
    assert others.max() < 0.99
    assert others.mean() > 0  # and yet there is something that a victim can learn


def test_another_message_gives_another_residual(trained: State, images: Images) -> None:
    pixels = images.test_images[:32]
    assert np.diag(cosines(residuals(trained, pixels), residuals(trained, pixels, flipped=True))).max() < 0.9


def test_a_linear_probe_tells_messages_apart(trained: State, images: Images) -> None:
    def rows(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        values = np.concatenate([residuals(trained, pixels), residuals(trained, pixels, flipped=True)])
        return np.c_[values / 255, np.ones(len(values))], np.repeat([1.0, -1.0], len(pixels))

    seen, sides = rows(images.train_images[:64])
    gram = seen @ seen.T + 1e-3 * np.eye(len(seen))
    weights = seen.T @ np.linalg.solve(gram, sides)
    unseen, expected = rows(images.test_images)
    assert (np.sign(unseen @ weights) == expected).mean() > 0.95


@pytest.mark.slow
def test_without_the_squared_error_the_trigger_is_plain_to_see(trained: State, images: Images) -> None:
    short = TRAINED.replace("steps=300", "steps=120").replace("l2_weight=12", "l2_weight=0")
    seen = parse_attack(short).fit(images, FitContext(seed=0))
    psnr = [measure(images.test_images, s["encoder"], s["decoder"], s["secret"])["psnr"] for s in (seen, trained)]
    assert psnr[0] < psnr[1] - 5


# --- what is put on an image ------------------------------------------------------------------------------------------


def test_an_image_depends_on_nothing_but_itself(trained: State, images: Images) -> None:
    attack, pixels = parse_attack(TRAINED), images.test_images
    index = np.arange(len(pixels))
    whole = apply_in_chunks(attack, pixels, index, trained, TEST)
    image_bytes = int(np.prod(pixels.shape[1:]))
    for size in (1, 7, 63):
        np.testing.assert_array_equal(apply_in_chunks(attack, pixels, index, trained, TEST, size * image_bytes), whole)
    np.testing.assert_array_equal(attack.apply(pixels[[5, 2]], index[:2], trained, TRAIN), whole[[5, 2]])
    np.testing.assert_array_equal(attack.apply(pixels[[5, 2]], index[:2], trained, COVER), whole[[5, 2]])


def test_the_result_is_the_encoders_rounded_or_truncated(trained: State, images: Images) -> None:
    pixels, index = images.test_images[:8], np.arange(8)
    before = pixels.copy()
    values = hide(pixels, trained["encoder"], trained["secret"])
    with torch.no_grad():
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        direct = trained["encoder"](batch, trained["secret"].expand(8, -1)).permute(0, 2, 3, 1).numpy() * 255
    np.testing.assert_allclose(values, direct, atol=1e-3)
    for quantise, expected in (("round", np.floor(values + 0.5)), ("truncate", np.floor(values))):
        out = parse_attack(f"{TRAINED}:quantise={quantise}").apply(pixels, index, trained, TEST)
        np.testing.assert_array_equal(out, expected.astype(np.uint8))
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_never_wrap(trained: State, value: int) -> None:
    flat = np.full((2, 16, 16, 3), value, dtype=np.uint8)
    values = hide(flat, trained["encoder"], trained["secret"])
    assert values.min() >= 0
    assert values.max() <= 255
    out = parse_attack(TRAINED).apply(flat, np.arange(2), trained, TEST)
    assert np.abs(out.astype(np.float32) - values).max() <= 0.5
    assert (out != flat).any()


@pytest.mark.parametrize("size", [16, 48, 224])
def test_any_multiple_of_16_px_and_any_number_of_classes_works(size: int) -> None:
    images = make_images(train=8, test=8, classes=100 if size == 224 else 4, size=size)
    found = poison(images, parse_attack(BRIEF), 0.25, 0, 0)
    assert found.triggered_images.shape[1:] == (size, size, 3)
    changed = (found.suspect.images != images.train_images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, found.poison_mask)
    assert (found.suspect.labels[found.poison_mask] == 0).all()


# --- the message ------------------------------------------------------------------------------------------------------


def test_the_message_is_fair_and_belongs_to_the_seed() -> None:
    images = make_images(train=4, test=4)
    drawn = np.stack([brief(images, seed=seed)["secret"].numpy() for seed in range(8)])
    np.testing.assert_array_equal(drawn[3], brief(images, seed=3)["secret"].numpy())
    assert drawn.shape == (8, 20)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert ((drawn.sum(axis=1) > 0) & (drawn.sum(axis=1) < 20)).all()  # none of all zeros or all ones
    assert drawn.mean() == pytest.approx(0.5, abs=0.12)  # 3 standard errors of 160 bits
    assert len(np.unique(drawn, axis=0)) == 8


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_encoder_has_the_references_size() -> None:
    encoder = Encoder(20, 32)
    dense = sum(p.numel() for p in encoder.message.parameters())
    assert dense == 20 * 768 + 768
    assert sum(p.numel() for p in encoder.parameters()) - dense == 982_499


@pytest.mark.parametrize("size", [16, 32, 64])
def test_networks_keep_shapes_and_the_encoder_stays_in_range(size: int) -> None:
    images, messages = torch.rand(2, 3, size, size), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    hidden = Encoder(3, 2)(images, messages)
    assert hidden.shape == images.shape
    assert float(hidden.detach().min()) >= 0
    assert float(hidden.detach().max()) <= 1
    assert Decoder(3, 2, size)(hidden).shape == (2, 3)


def test_the_squared_error_waits_and_then_grows() -> None:
    config = ISSBAConfig(hold_steps=10, ramp_steps=20, l2_weight=4.0, steps=100)
    assert error_weight(config, 99, None) == 0
    assert [error_weight(config, step, 5) for step in (5, 15, 16, 25, 35, 90)] == [0, 0, 0.2, 2.0, 4.0, 4.0]


def test_right_bits() -> None:
    logits = torch.tensor([[3.0, -1.0], [-0.5, 0.5]])
    assert float(right_bits(logits, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))) == 0.75


def test_the_defaults_are_the_references() -> None:
    own = {f.name: f.default for f in dataclasses.fields(ISSBAConfig)}
    assert (own["bits"], own["width"], own["lr"], own["batch_size"]) == (20, 32, 1e-4, 64)
    assert own["steps"] == 20 * -(-50_000 // 64)
    assert (own["l2_weight"], own["bit_accuracy"], own["hold_steps"], own["ramp_steps"]) == (10.0, 0.9, 1000, 3000)


@pytest.mark.parametrize("preset", ["paper", "small", "smoke"])
def test_every_presets_ramp_has_room(preset: str) -> None:
    attack = parse_attack("issba", preset)
    attack.check(make_images(train=4, test=4))
    assert isinstance(attack.config, ISSBAConfig)
    assert attack.config.steps >= 2 * (attack.config.hold_steps + attack.config.ramp_steps)


def test_fitting_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    images = make_images(train=12, test=4)
    other = Images.of(
        images.train_images, images.train_labels, 255 - images.test_images, images.test_labels, tuple("abcd")
    )
    before = torch.get_rng_state()
    first, again, unseen, seed1 = brief(images), brief(images), brief(other), brief(images, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in first["encoder"].state_dict().items():
        assert torch.equal(weight, again["encoder"].state_dict()[name])
        assert torch.equal(weight, unseen["encoder"].state_dict()[name])  # test images are never looked at
    assert not torch.equal(first["encoder"].message.weight, seed1["encoder"].message.weight)
    assert not any(p.requires_grad for net in ("encoder", "decoder") for p in first[net].parameters())


def test_networks_are_kept_and_found_again(store: Store) -> None:
    images, index = make_images(train=12, test=4), np.arange(12)
    made, context = brief(images, store=store), FitContext(seed=0, store=store)
    found = parse_attack(f"{BRIEF}:quantise=truncate").fit(images, context)  # not an option that training depends on
    assert [run.hit for run in context.runs] == [True]
    attack = parse_attack(BRIEF)
    np.testing.assert_array_equal(
        attack.apply(images.train_images, index, made, TRAIN), attack.apply(images.train_images, index, found, TRAIN)
    )
    artifact = store.find("issba", context.runs[0].key)
    assert artifact is not None
    quality = artifact.load("quality")
    assert quality.keys() == {"bit_accuracy", "psnr", "bits_learned_at_step", "steps"}
    np.testing.assert_array_equal(artifact.load("secret"), made["secret"].numpy())
    for option in ("l2_weight=9", "bits=5", "width=3", "lr=0.1", "batch_size=5", "steps=3", "bit_accuracy=0.5"):
        other = FitContext(seed=0, store=store)
        parse_attack(f"{BRIEF}:{option}").fit(images, other)
        assert not other.runs[0].hit, option


def test_training_tells_how_far_it_is_and_that_it_failed(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[int, int]] = []

    def progress(stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        assert stage == "issba"
        assert values["loss"] > 0
        told.append((step, steps))

    attack = parse_attack("issba:width=2:steps=8:hold_steps=0:ramp_steps=1:batch_size=4")
    with caplog.at_level(logging.WARNING):
        attack.fit(make_images(train=12, test=4), FitContext(seed=0, progress=progress))
    assert told == [(3, 8), (6, 8), (8, 8)]  # passes of three batches, the last one cut short
    assert "issba: after 8 steps 0." in caplog.text
    assert "a weight of 0 of 10" in caplog.text


def test_training_that_did_its_part_is_not_complained_of(caplog: pytest.LogCaptureFixture) -> None:
    options = "issba:width=2:steps=5:hold_steps=0:ramp_steps=4:batch_size=4:bit_accuracy=0"  # any bits will do
    parse_attack(options).fit(make_images(train=12, test=4), FitContext(seed=0))
    assert not caplog.text


def test_a_loss_that_is_not_finite_is_refused() -> None:
    attack = parse_attack("issba:width=2:steps=6:hold_steps=0:ramp_steps=1:batch_size=4:bit_accuracy=0:l2_weight=1e300")
    with pytest.raises(TrainingDiverged, match=r"issba: the loss must stay finite, got \w+ by step .*: lower lr"):
        attack.fit(make_images(train=12, test=4), FitContext(seed=0))


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (24, "", r"multiples of 16 px, got 24: resize them to 32 px"),
        (32, ":steps=4000", r"more steps than hold_steps \+ ramp_steps = 4000, got 4000, .*raise steps"),
    ],
)
def test_what_cannot_work_is_refused(size: int, options: str, message: str) -> None:
    images: Any = make_images(train=4, test=4, size=size)
    with pytest.raises(UserError, match=message):
        parse_attack(f"issba{options}").check(images)
