"""Triggers: exact where they can be exact, in the limit and in decibels (specs/attacks.md section 2)."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from defenses.registry import UserError
from study.attacks import ATTACKS, parse_attack
from study.attacks.api import State
from study.attacks.support.fitting import FitContext
from study.attacks.support.pixels import blend, cells, paste, to_uint8
from study.datasets.images import Images

Pixels = NDArray[np.uint8]
TRIGGERS = (
    "badnets",
    "badnets:variant=checker2",
    "badnets:variant=white3",
    "blended_random",
    "blended_random:gray=true",
    "blended_image",
    "sig",
    "sig:variant=abl",
    "trojan_square",
)
BLENDS = ("blended_random", "blended_random:gray=true", "blended_image")


def fitted(text: str, size: int, seed: int = 0) -> State:
    pixels, labels = np.zeros((2, size, size, 3), dtype=np.uint8), np.array([0, 1])
    return parse_attack(text).fit(Images.of(pixels, labels, pixels, labels, ("a", "b")), FitContext(seed))


def triggered(text: str, pixels: Pixels, seed: int = 0, split: str = "train") -> Pixels:
    state = fitted(text, pixels.shape[1], seed)
    return parse_attack(text).apply(pixels, np.arange(len(pixels)), state, split)


def flat(value: int, size: int = 32) -> Pixels:
    return np.full((1, size, size, 3), value, dtype=np.uint8)


def noise(count: int = 3, size: int = 32) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def cifar_like(count: int = 128) -> Pixels:
    """Smooth images with CIFAR-10's mean and spread a channel: all that the PSNR of a trigger depends on."""
    rng = np.random.default_rng(0)
    coarse = 0.95 * rng.normal(size=(count, 4, 4, 1)) + 0.3 * rng.normal(size=(count, 4, 4, 3))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)
    smooth = (smooth + np.roll(smooth, 4, axis=1) + np.roll(smooth, 4, axis=2)) / 3
    smooth /= smooth.std()
    mean, std = 255 * np.array([0.4914, 0.4822, 0.4465]), 255 * np.array([0.247, 0.243, 0.261])
    return np.clip(smooth * std + mean + rng.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)


def mean_psnr(clean: Pixels, changed: Pixels) -> float:
    error = ((clean.astype(float) - changed) ** 2).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


# --- what holds for every trigger -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 64, 224])
@pytest.mark.parametrize("text", TRIGGERS)
def test_any_size_works_and_keeps_shape_and_type(text: str, size: int) -> None:
    clean = noise(2, size)
    out = triggered(text, clean)
    assert (out.shape, out.dtype) == (clean.shape, clean.dtype)
    assert (out != clean).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("text", TRIGGERS)
def test_input_is_not_modified(text: str) -> None:
    clean = noise()
    before = clean.copy()
    out = triggered(text, clean)
    np.testing.assert_array_equal(clean, before)
    assert not np.shares_memory(out, clean)


@pytest.mark.parametrize("text", [*TRIGGERS, "sig:delta=255", "sig:quantise=truncate", "blended_image:alpha=0.9"])
def test_brightness_never_wraps(text: str) -> None:
    # All 256 flat images at once: a brighter pixel gives an equal result or one brighter by a level. A wrap at
    # either end would be a jump of about 200 levels.
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 32, 32, 3)).copy()
    rise = np.diff(triggered(text, ramp).astype(int), axis=0)
    assert rise.min() >= 0
    assert rise.max() <= 1


@pytest.mark.parametrize("text", TRIGGERS)
def test_train_and_test_get_the_same_trigger(text: str) -> None:
    clean = noise(1)
    np.testing.assert_array_equal(triggered(text, clean, split="train"), triggered(text, clean, split="test"))


@pytest.mark.parametrize("text", TRIGGERS)
def test_an_image_does_not_depend_on_its_batch(text: str) -> None:
    clean, state, attack = noise(5), fitted(text, 32), parse_attack(text)
    together = attack.apply(clean, np.arange(5), state, "train")
    alone = attack.apply(clean[[3]], np.array([3]), state, "train")
    np.testing.assert_array_equal(together[[3]], alone)


@pytest.mark.parametrize(
    ("text", "random"),
    [
        ("badnets", False),
        ("blended_image", False),
        ("sig", False),
        ("blended_random", True),
        ("blended_random:gray=true", True),
        ("trojan_square", True),
    ],
)
def test_only_random_triggers_depend_on_the_seed(text: str, random: bool) -> None:
    clean = noise()
    first = triggered(text, clean, seed=0)
    np.testing.assert_array_equal(first, triggered(text, clean, seed=0))
    assert np.array_equal(first, triggered(text, clean, seed=1)) is not random


@pytest.mark.parametrize(
    ("text", "expected", "tolerance"),
    [  # measured on CIFAR-10 by the specification; the images here have its mean and spread
        ("badnets", 25.6, 0.5),
        ("trojan_square", 21.4, 1.0),
        ("blended_random", 22.4, 0.5),
        ("blended_random:gray=true", 22.4, 0.5),
        ("blended_image", 21.6, 1.0),
        ("sig", 21.8, 0.3),
        ("sig:delta=20", 25.4, 0.3),
        ("sig:delta=40", 19.4, 0.3),
        ("sig:variant=abl", 19.7, 0.3),
    ],
)
def test_psnr_on_images_like_cifar(text: str, expected: float, tolerance: float) -> None:
    clean = cifar_like()
    assert mean_psnr(clean, triggered(text, clean)) == pytest.approx(expected, abs=tolerance)


# --- badnets ----------------------------------------------------------------------------------------------------------

GRID3 = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
GRID30 = [[255, 0, 255], [0, 255, 0], [255, 0, 0]]


@pytest.mark.parametrize("size", [16, 32, 224])
@pytest.mark.parametrize(
    ("variant", "pattern"), [("grid3", GRID3), ("white3", [[255] * 3] * 3), ("checker2", [[255, 0], [0, 255]])]
)
def test_badnets_patch_lies_three_pixels_from_the_bottom_right(
    variant: str, pattern: list[list[int]], size: int
) -> None:
    clean = noise(2, size)
    out = triggered(f"badnets:variant={variant}", clean)
    side, start = len(pattern), size - 3
    where = np.zeros((size, size), dtype=bool)
    where[start : start + side, start : start + side] = True
    for channel in range(3):
        np.testing.assert_array_equal(out[0, start : start + side, start : start + side, channel], pattern)
    np.testing.assert_array_equal(out[:, ~where], clean[:, ~where])
    assert (out != clean).any(axis=3).sum(axis=(1, 2)).max() <= side**2


def test_badnets_grid30_has_cells_of_ten_pixels_from_row_32() -> None:
    clean = noise(1, 224)
    out = triggered("badnets:variant=grid30", clean)
    for row in range(3):
        for column in range(3):
            cell = out[0, 32 + 10 * row : 42 + 10 * row, 32 + 10 * column : 42 + 10 * column]
            assert (cell == GRID30[row][column]).all()
    changed = np.argwhere((out != clean).any(axis=(0, 3)))
    assert (changed.min(), changed.max()) == (32, 61)


def test_badnets_grid30_needs_62_pixels() -> None:
    assert (triggered("badnets:variant=grid30", flat(9, 62))[0, 52:62, 32:42] == 255).all()
    with pytest.raises(UserError, match=r"at least 62 px, got 61: use variant=grid3"):
        triggered("badnets:variant=grid30", flat(9, 61))


# --- trojan_square ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "first", "last"), [(16, 10, 14), (32, 21, 28), (224, 145, 203)])
def test_trojan_square_scales_with_the_image(size: int, first: int, last: int) -> None:
    dark, bright = triggered("trojan_square", flat(0, size))[0], triggered("trojan_square", flat(255, size))[0]
    replaced = (dark == bright).all(axis=2)
    assert replaced.sum() == (last - first + 1) ** 2
    rows, columns = np.nonzero(replaced)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (first, last, first, last)


def test_trojan_square_is_the_same_8_by_8_cells_at_32_and_224_pixels() -> None:
    small, large = fitted("trojan_square", 32)["patch"], fitted("trojan_square", 224)["patch"]
    assert (small.shape, large.shape) == ((8, 8, 3), (59, 59, 3))
    centres = [3, 11, 18, 25, 33, 40, 47, 55]  # whole part of 59 (k + 1/2) / 8
    np.testing.assert_array_equal(large[np.ix_(centres, centres)], small)
    assert len(np.unique(large.reshape(59, -1), axis=0)) == 8


def test_trojan_square_has_the_toolboxs_mean_and_spread() -> None:
    cells_of_seeds = np.stack([fitted("trojan_square", 32, seed)["patch"] for seed in range(50)]).reshape(-1, 3)
    np.testing.assert_allclose(cells_of_seeds.mean(axis=0), [125, 125, 132], atol=4)
    np.testing.assert_allclose(cells_of_seeds.std(axis=0), [87, 54, 46], atol=4)


# --- blended ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", BLENDS)
def test_blend_limits(text: str) -> None:
    clean = noise()
    np.testing.assert_array_equal(triggered(f"{text}:alpha=0", clean), clean)
    pure = triggered(f"{text}:alpha=1", clean)
    np.testing.assert_array_equal(pure, np.broadcast_to(pure[0], pure.shape))


@pytest.mark.parametrize("text", BLENDS)
@pytest.mark.parametrize(("quantise", "half"), [("round", 5), ("truncate", 0)])
def test_blend_is_a_fifth_of_the_trigger(text: str, quantise: str, half: int) -> None:
    clean = noise()
    trigger = triggered(f"{text}:alpha=1", clean).astype(int)
    out = triggered(f"{text}:quantise={quantise}", clean)
    # 0.8 x + 0.2 T in whole numbers: (8 x + 2 T) / 10
    np.testing.assert_array_equal(out, (8 * clean.astype(int) + 2 * trigger + half) // 10)
    assert np.abs(out.astype(int) - clean).max() <= 51


def test_blended_noise_is_uniform_rgb_at_the_images_own_size() -> None:
    pattern = triggered("blended_random:alpha=1", flat(0, 224))[0].astype(float)
    assert pattern.mean() == pytest.approx(127.5, abs=1)
    assert pattern.std() == pytest.approx(math.sqrt((256**2 - 1) / 12), abs=1)
    assert (pattern.min(), pattern.max()) == (0, 255)
    neighbours = np.corrcoef(pattern[:, :-1].ravel(), pattern[:, 1:].ravel())[0, 1]
    channels = np.corrcoef(pattern[..., 0].ravel(), pattern[..., 1].ravel())[0, 1]
    assert abs(neighbours) < 0.02
    assert abs(channels) < 0.02


def test_gray_noise_has_equal_channels() -> None:
    pattern = triggered("blended_random:alpha=1:gray=true", flat(0))[0]
    assert (pattern == pattern[..., :1]).all()
    assert pattern.std() == pytest.approx(73.9, abs=4)


def test_the_cartoon_looks_the_same_at_every_size() -> None:
    small = triggered("blended_image:alpha=1", flat(0))[0]
    large = triggered("blended_image:alpha=1", flat(0, 224))[0]
    averaged = large.reshape(32, 7, 32, 7, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 1
    assert tuple(small[0, 0]) == (250, 172, 205)  # the pink of the specification's field, which is checks here
    assert (small.min(axis=2) >= 240).mean() == pytest.approx(0.18, abs=0.05)


def test_the_cartoon_has_the_mean_and_spread_that_are_documented() -> None:
    picture = triggered("blended_image:alpha=1", flat(0))[0].reshape(-1, 3).astype(float)
    np.testing.assert_allclose(picture.mean(axis=0), [150, 123, 130], atol=0.6)
    np.testing.assert_allclose(picture.std(axis=0), [98, 82, 81], atol=0.6)


@pytest.mark.parametrize("size", [16, 32, 48, 64, 224])
def test_every_tile_of_the_cartoon_has_contrast_and_texture(size: int) -> None:
    picture = triggered("blended_image:alpha=1", flat(0, size))[0].astype(float)
    side = size // 8  # a quarter of a tile: the spread within it is texture, not the outline of a large shape
    quarters = picture.reshape(8, side, 8, side, 3).std(axis=(1, 3)).mean(axis=2)
    tiles = quarters.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert tiles.min() > 36  # levels; the flattest tile of the toolbox's picture has 32


def test_a_picture_of_the_users_is_cut_to_its_square_and_averaged_down(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :10] = pixels[:, 30:] = (255, 0, 0)  # both sides are cut off
    pixels[:, 10:30:2] = (0, 200, 100)  # stripes of one pixel: half as bright on average
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    out = triggered(f"blended_image:alpha=1:image={tmp_path / 'mine.png'}", flat(9, 10))
    assert (out == np.array([0, 100, 50])).all()


def test_a_picture_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("none.png", "text.png"):
        with pytest.raises(UserError, match=rf"a trigger image must be a readable picture, got '.*{name}'"):
            triggered(f"blended_image:image={tmp_path / name}", flat(0))


def test_a_pictures_path_may_hold_a_colon(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a:b.png")
    assert (triggered(f"blended_image:alpha=1:image={tmp_path / 'a:b.png'}", flat(9)) == 0).all()


# --- sig --------------------------------------------------------------------------------------------------------------


def test_sig_adds_a_sinusoid_along_the_columns() -> None:
    out = triggered("sig", flat(128))[0].astype(int)
    change = out[0, :, 0] - 128
    assert (out == out[:1, :, :1]).all()  # every row and channel
    assert np.flatnonzero(change == 0).tolist() == [0, 8, 16, 24]
    assert (change[4], change[12]) == (-30, 30)
    assert np.abs(change).max() == 30
    expected = [math.floor(128 + 30 * math.sin(2 * math.pi * 6 * j / 32) + 0.5) - 128 for j in range(32)]
    assert change.tolist() == expected


def test_sig_at_224_pixels_crosses_zero_in_four_columns() -> None:
    out = triggered("sig", flat(128, 224))[0]
    assert np.flatnonzero((out == 128).all(axis=(0, 2))).tolist() == [0, 56, 112, 168]


@pytest.mark.parametrize(("value", "lowest", "highest"), [(0, 0, 30), (255, 225, 255)])
def test_sig_clips_at_black_and_white(value: int, lowest: int, highest: int) -> None:
    out = triggered("sig", flat(value))
    assert (out.min(), out.max()) == (lowest, highest)


def test_sig_options_change_strength_and_frequency() -> None:
    out = triggered("sig:delta=40:frequency=1", flat(128))[0, 0, :, 0].astype(int) - 128
    assert np.flatnonzero(out == 0).tolist() == [0, 16]
    assert (out[8], out[24]) == (40, -40)


def test_sig_abl_pattern_wraps_as_the_shared_file_does() -> None:
    pattern = triggered("sig:variant=abl:alpha=1", flat(77))[0]
    assert (pattern == pattern[:1, :, :1]).all()
    row = pattern[0, :, 0].tolist()
    assert row == [int(20 * math.sin(0.8 * j)) % 256 for j in range(32)]
    assert row[:7] == [0, 14, 19, 13, 255, 241, 237]  # 20 sin 3.2 = -1.2 becomes 255
    assert all(value <= 19 or value >= 237 for value in row)


def test_sig_abl_is_blended_at_a_fifth_and_enlarged_whole() -> None:
    clean = noise()
    trigger = triggered("sig:variant=abl:alpha=1", clean).astype(int)
    np.testing.assert_array_equal(triggered("sig:variant=abl", clean), (8 * clean.astype(int) + 2 * trigger + 5) // 10)
    large = triggered("sig:variant=abl:alpha=1", flat(0, 224))[0]
    assert (large == large[:1, :, :1]).all()
    centres = large[0, 3::7, 0].astype(int)  # of the 32 columns, each 7 px wide
    assert np.abs(centres - trigger[0, 0, :, 0]).max() <= 1


# --- parsing ----------------------------------------------------------------------------------------------------------


def test_options_are_typed() -> None:
    config = parse_attack("sig:variant=abl:alpha=0.3:cap=true").config
    assert (config.variant, config.alpha, config.cap, config.delta) == ("abl", 0.3, True, 30.0)  # type: ignore[attr-defined]
    found = parse_attack("blended_image:image=C:/my:pictures/a=b.png:alpha=0.3").config
    assert (found.image, found.alpha) == ("C:/my:pictures/a=b.png", 0.3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("badnet", r"^unknown attack 'badnet': did you mean 'badnets'\? \(known: adaptive_blend, "),
        ("badnets:white3", r"written name:option=value, got 'badnets:white3' \(options: rate_base, cap, quantise, cov"),
        ("badnets:", r"written name:option=value, got 'badnets:' \(options: "),
        ("badnets:variants=grid3", r"no field 'variants': did you mean 'variant'\?"),
        ("badnets:variant=grid4", r"^variant must be one of grid3, checker2, white3, grid30, got 'grid4'"),
        ("sig:delta=300", r"^delta must lie in \[0.0, 255.0\], got 300.0"),
        ("blended_random:alpha=1.5", r"^alpha must lie in \[0.0, 1.0\], got 1.5"),
        ("sig:rate_base=image", r"^rate_base must be one of dataset, class, got 'image'"),
    ],
)
def test_a_wrong_attack_is_refused_with_the_way_out(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_attack(text)


def test_which_attacks_keep_labels_and_which_poison_nothing() -> None:
    assert [name for name in ATTACKS if ATTACKS[name].clean_label] == ["sig", "label_consistent"]
    assert [name for name in ATTACKS if not ATTACKS[name].poisons] == ["clean", "given"]


# --- arithmetic -------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(eighths=st.integers(-5000, 5000))
def test_to_uint8_rounds_half_up_or_truncates_and_clips(eighths: int) -> None:
    values = np.array([eighths / 8], dtype=np.float32)  # exact in float32
    assert to_uint8(values, "truncate")[0] == min(255, max(0, eighths // 8))
    assert to_uint8(values, "round")[0] == min(255, max(0, (eighths + 4) // 8))


def test_ties_round_up_not_to_even() -> None:
    levels = np.array([0, 1, 2, 254], dtype=np.uint8).reshape(1, 2, 2, 1).repeat(3, axis=3)
    above = (levels[0] + np.uint8(1)).astype(np.float32)
    np.testing.assert_array_equal(blend(levels, above, 0.5, "round")[0], above)  # halfway: 0.5, 1.5, 2.5, 254.5


def test_paste_refuses_a_patch_that_sticks_out() -> None:
    patch = cells([[1, 2]], 4)
    assert patch.shape == (4, 8, 3)
    assert patch[:, :, 0].tolist() == [[1] * 4 + [2] * 4] * 4
    assert (paste(flat(9, 8), patch, 4, 0)[0, 4:] == patch).all()
    for row, column in ((5, 0), (0, 1), (-1, 0)):
        with pytest.raises(ValueError, match=r"a 4x8 patch at .* does not fit"):
            paste(flat(9, 8), patch, row, column)
