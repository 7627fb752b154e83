"""All-to-all labels (specification 2.1), and the Trojan watermark and added square (2.2)."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from small_images import make_images

from study.attacks import parse_attack
from study.attacks.api import COVER, TEST, TRAIN, State
from study.attacks.support.fitting import FitContext
from study.attacks.support.marks import draw_watermark
from study.datasets.images import Images
from study.scenarios.poison import apply_in_chunks, poison

Pixels = NDArray[np.uint8]
WATERMARKS = ("trojan_watermark", "trojan_watermark:mode=add", "trojan_watermark:alpha=0.4:brightness=30")
TRIGGERS = (*WATERMARKS, "trojan_square", "trojan_square:mode=add", "badnets_all_to_all")


def fitted(text: str, size: int, seed: int = 0) -> State:
    pixels, labels = np.zeros((2, size, size, 3), dtype=np.uint8), np.array([0, 1])
    return parse_attack(text).fit(Images.of(pixels, labels, pixels, labels, ("a", "b")), FitContext(seed=seed))


def triggered(text: str, pixels: Pixels, split: str = TRAIN, seed: int = 0) -> Pixels:
    return parse_attack(text).apply(pixels, np.arange(len(pixels)), fitted(text, pixels.shape[1], seed), split)


def noise(count: int = 3, size: int = 32) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def flat(value: int, size: int = 32) -> Pixels:
    return np.full((1, size, size, 3), value, dtype=np.uint8)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 48, 64, 224])
@pytest.mark.parametrize("text", TRIGGERS)
def test_any_size_works_and_every_split_gets_the_same_trigger(text: str, size: int) -> None:
    clean = noise(2, size)
    before = clean.copy()
    out = triggered(text, clean)
    assert (out.shape, out.dtype) == (clean.shape, clean.dtype)
    assert (out != clean).any(axis=(1, 2, 3)).all()
    for split in (COVER, TEST):
        np.testing.assert_array_equal(triggered(text, clean, split), out)
    np.testing.assert_array_equal(clean, before)


@pytest.mark.parametrize("text", [*TRIGGERS, "trojan_watermark:quantise=truncate", "trojan_square:mode=add"])
def test_brightness_never_wraps(text: str) -> None:
    # All 256 grey levels at once: one level more gives an equal result or one brighter by a level.
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 32, 32, 3)).copy()
    rise = np.diff(triggered(text, ramp).astype(int), axis=0)
    assert rise.min() >= 0
    assert rise.max() <= 1


@pytest.mark.parametrize("text", TRIGGERS)
def test_chunks_give_the_same_bytes(text: str) -> None:
    clean, attack, state = noise(20), parse_attack(text), fitted(text, 32)
    whole, some = attack.apply(clean, np.arange(20), state, TRAIN), np.array([0, 7, 19])
    for chunk_bytes in (1, 2 * 32 * 32 * 3, 1 << 20):
        np.testing.assert_array_equal(apply_in_chunks(attack, clean, some, state, TRAIN, chunk_bytes), whole[some])


# --- badnets_all_to_all -----------------------------------------------------------------------------------------------


def test_all_to_all_asks_for_the_next_class_and_the_last_asks_for_the_first() -> None:
    attack = parse_attack("badnets_all_to_all")
    labels = np.array([0, 1, 8, 9], dtype=np.int64)
    wanted = attack.attacker_labels(labels, target_label=3, num_classes=10)
    assert wanted.tolist() == [1, 2, 9, 0]
    assert wanted.dtype == np.int64
    assert attack.attacker_labels(np.array([99]), 0, 100).tolist() == [0]


@pytest.mark.parametrize("classes", [4, 100])
def test_all_to_all_poisons_and_measures_every_class(classes: int) -> None:
    images = make_images(train=400, test=200, classes=classes)
    found = poison(images, parse_attack("badnets_all_to_all"), 0.1, 2, seed=0)
    expected = np.where(found.poison_mask, (images.train_labels + 1) % classes, images.train_labels)
    np.testing.assert_array_equal(found.suspect.labels, expected)
    assert found.poison_mask.sum() == 40
    assert (found.suspect.labels != images.train_labels).sum() == 40  # none keeps its label, as with one target
    np.testing.assert_array_equal(found.triggered_labels, (images.test_labels + 1) % classes)
    assert len(found.triggered_images) == 200


def test_all_to_all_takes_the_images_and_the_patch_of_badnets() -> None:
    images = make_images()
    for variant in ("grid3", "white3", "checker2"):
        one, every = (
            poison(images, parse_attack(f"{name}:variant={variant}"), 0.1, 1, seed=0)
            for name in ("badnets", "badnets_all_to_all")
        )
        np.testing.assert_array_equal(np.asarray(one.suspect.images), np.asarray(every.suspect.images))
        np.testing.assert_array_equal(one.triggered_images, every.triggered_images[images.test_labels != 1])


# --- trojan_square ----------------------------------------------------------------------------------------------------


def test_square_is_added_and_saturates() -> None:
    clean = noise()
    patch = fitted("trojan_square", 32)["patch"]
    assert patch.max() > 200  # so that a wrap would show
    out = triggered("trojan_square:mode=add", clean)
    expected = clean.astype(int)
    expected[:, 21:29, 21:29] += patch
    np.testing.assert_array_equal(out, np.minimum(expected, 255))
    assert (expected > 255).any()


def test_square_added_to_black_is_the_square_and_to_white_is_nothing() -> None:
    np.testing.assert_array_equal(triggered("trojan_square:mode=add", flat(0)), triggered("trojan_square", flat(0)))
    np.testing.assert_array_equal(triggered("trojan_square:mode=add", flat(255)), flat(255))


# --- trojan_watermark -------------------------------------------------------------------------------------------------


def boxes(mask: NDArray[np.float32]) -> set[tuple[int, int, int, int]]:
    """First and last row, first and last column of each part of a mark that touches no other."""
    parts, _ = ndimage.label(mask > 0.5, structure=np.ones((3, 3)))
    return {(y.start, y.stop - 1, x.start, x.stop - 1) for y, x in ndimage.find_objects(parts)}


# Measured on the mask that backdoor-toolbox ships for its watermark at 224 px, where it is above one half.
RING, LETTER = (108, 193, 105, 195), (128, 173, 126, 174)
TEXT = [
    *((190, 205, 5, 18), (180, 195, 16, 29), (168, 189, 26, 41), (155, 178, 37, 53), (147, 162, 50, 59)),
    *((140, 155, 54, 67), (132, 153, 63, 81), (120, 137, 72, 92), (110, 124, 84, 100), (87, 111, 103, 124)),
    *((72, 87, 127, 143), (60, 76, 135, 153), (48, 62, 152, 166), (50, 52, 170, 172), (30, 48, 167, 184)),
    *((18, 41, 179, 194), (8, 26, 190, 207)),
]


def test_watermark_has_the_geometry_of_the_toolbox() -> None:
    mask = draw_watermark(224)
    assert (mask.shape, mask.dtype) == ((224, 224), np.float32)
    assert (mask.min(), mask.max()) == (0, 1)
    assert (mask * 255 > 127).mean() == pytest.approx(0.1005, abs=0.002)
    drawn = boxes(mask)
    assert {RING, LETTER} <= drawn
    rest = drawn - {RING, LETTER}
    for box in TEXT:  # every letter is where theirs is, give or take two pixels
        assert min(np.abs(np.subtract(box, other)).max() for other in rest) <= 2, box
    assert all(min(np.abs(np.subtract(box, other)).max() for other in TEXT) <= 10 for box in rest)  # and no other


def test_watermark_has_a_ring_ten_pixels_thick_around_a_letter_open_to_the_upper_right() -> None:
    mask = draw_watermark(224) > 0.5
    across, down = np.flatnonzero(mask[150]), np.flatnonzero(mask[:, 150])
    runs = [
        (across[across > 100], ([106, 127, 165, 186], [115, 136, 174, 195])),  # the toolbox's, first and last of each
        (down[down > 100], ([108, 128, 165, 184], [117, 137, 173, 193])),
    ]
    for drawn, (first, last) in runs:
        ends = np.diff(drawn) > 1
        np.testing.assert_allclose(drawn[np.r_[True, ends]], first, atol=1)
        np.testing.assert_allclose(drawn[np.r_[ends, True]], last, atol=1)
    centre, radius = np.array([151, 151]), 19  # within the letter's stroke
    open_at = [
        not mask[tuple((centre + radius * np.array([np.sin(t), np.cos(t)])).astype(int))]
        for t in np.radians(np.arange(0, 360, 5))
    ]
    degrees = np.arange(0, 360, 5)[open_at]
    assert (degrees.min(), degrees.max()) == (310, 325)  # clockwise from the right


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_watermark_scales_with_soft_edges(size: int) -> None:
    # Averaged over the same areas, the drawing is the same one at any size.
    mask, large = draw_watermark(size), draw_watermark(size * 2)
    np.testing.assert_allclose(large.reshape(size, 2, size, 2).mean(axis=(1, 3)), mask, atol=0.15)
    assert mask.mean() == pytest.approx(0.1015, abs=0.003)
    soft = (mask > 0) & (mask < 1)
    assert soft.sum() > size
    assert len(np.unique(mask)) > 8


def test_watermark_replaces_adds_and_blends_exactly() -> None:
    clean, mask = noise(), draw_watermark(32)[..., None].astype(float)
    values = clean.astype(float)
    wanted = {
        "trojan_watermark": values + mask * (255 - values),
        "trojan_watermark:mode=add": np.minimum(values + 255 * mask, 255),
        "trojan_watermark:alpha=0.4:brightness=30": values + 0.4 * mask * (30 - values),
        "trojan_watermark:alpha=0": values,
    }
    for text, expected in wanted.items():
        out = triggered(text, clean)
        assert np.abs(out - expected).max() <= 0.5 + 1e-3
        untouched = mask[..., 0] == 0
        np.testing.assert_array_equal(out[:, untouched], clean[:, untouched])
    full = draw_watermark(224) == 1
    assert (triggered("trojan_watermark", noise(1, 224))[0][full] == 255).all()


def test_watermark_is_the_same_for_every_seed() -> None:
    clean = noise()
    np.testing.assert_array_equal(triggered("trojan_watermark", clean), triggered("trojan_watermark", clean, seed=1))


def test_watermark_in_a_hundred_classes_at_224_pixels() -> None:
    images = make_images(train=200, test=100, classes=100, size=224)
    found = poison(images, parse_attack("trojan_watermark"), 0.05, 99, seed=0)
    assert found.poison_mask.sum() == 10
    assert found.triggered_images.shape == (99, 224, 224, 3)
