"""Label-consistent poison: how far images move, what the corners hold, and that test images are not moved."""

import numpy as np
import pytest
from numpy.typing import NDArray
from small_images import make_images

from defenses.training.inference import predict_array
from study.attacks import parse_attack
from study.attacks.api import COVER, TEST, TRAIN, State
from study.attacks.label_consistent import LabelConsistent
from study.attacks.support.fitting import FitContext
from study.attacks.support.marks import corner_signs
from study.datasets.images import Images
from study.scenarios.poison import apply_in_chunks, poison

TINY = (
    ":surrogate_width=4:surrogate_blocks=1,1:surrogate_epochs=10:surrogate_augment=false:surrogate_schedule=one_cycle"
    ":surrogate_batch_size=16:surrogate_adversarial_steps=0:steps=5"
)
GRID = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]])
Pixels = NDArray[np.uint8]


def made(options: str = "") -> LabelConsistent:
    attack = parse_attack("label_consistent" + TINY + options)
    assert isinstance(attack, LabelConsistent)
    return attack


@pytest.fixture(scope="module")
def state(images: Images) -> State:
    return made().fit(images, FitContext(0))


def outside(size: int) -> NDArray[np.bool_]:
    return corner_signs(size, "toolbox") == 0


def accuracy(state: State, pixels: Pixels, labels: NDArray[np.int64]) -> float:
    import torch

    return float((predict_array(state["surrogate"], pixels, torch.device("cpu"), "fp32").argmax(1) == labels).mean())


# --- the corners ------------------------------------------------------------------------------------------------------


def test_toolbox_corners_hold_one_pattern() -> None:
    signs = corner_signs(32, "toolbox")
    assert (signs != 0).any(axis=2).sum() == 36
    for rows in (slice(0, 3), slice(29, 32)):
        for columns in (slice(0, 3), slice(29, 32)):
            for channel in range(3):
                np.testing.assert_array_equal((signs[rows, columns, channel] > 0) * 255, GRID)


def test_the_authors_corners_survive_a_flip_and_the_toolboxs_do_not() -> None:
    madry, toolbox = corner_signs(32, "madry"), corner_signs(32, "toolbox")
    np.testing.assert_array_equal(madry, madry[:, ::-1])
    assert (toolbox != toolbox[:, ::-1]).any()
    np.testing.assert_array_equal(madry[:, 16:], toolbox[:, 16:])  # the right corners are the toolbox's


def test_corners_at_224_are_the_small_ones_times_seven() -> None:
    large, small = corner_signs(224, "madry"), corner_signs(32, "madry")
    np.testing.assert_array_equal(large[-21:, -21:], small[-3:, -3:].repeat(7, axis=0).repeat(7, axis=1))
    assert (large != 0).any(axis=2).sum() == 36 * 49


def test_test_images_get_the_patches_alone(images: Images, state: State) -> None:
    clean, index = images.test_images[:5], np.arange(5)
    for split in (TEST, COVER):
        out = made().apply(clean, index, state, split)
        np.testing.assert_array_equal(out[:, outside(16)], clean[:, outside(16)])
        np.testing.assert_array_equal(out[:, -3:, -3:], np.broadcast_to(GRID[..., None], (5, 3, 3, 3)))


def test_a_faint_patch_adds_its_amplitude(state: State) -> None:
    grey, index = np.full((1, 16, 16, 3), 100, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    attack = made(":amplitude=0.125")
    out = attack.apply(grey, index, state, TEST)
    np.testing.assert_array_equal(out[0, :3, :3, 0], np.where(GRID > 0, 132, 68))  # 100 +- 31.875, rounded half up
    bright = attack.apply(grey + 150, index, state, TEST)
    np.testing.assert_array_equal(bright[0, :3, :3, 0], np.where(GRID > 0, 255, 218))


# --- the perturbation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "epsilon"), [("", 600.0), (":epsilon=40", 40.0), (":epsilon=300:steps=1", 300.0)])
def test_l2_stays_within_its_bound(images: Images, state: State, options: str, epsilon: float) -> None:
    values = images.train_images.astype(np.float32)
    change = made(options).perturbed(values, np.arange(128), state) - values
    lengths = np.sqrt((change.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    assert lengths.max() <= epsilon * 1.0001
    assert lengths.max() > epsilon / 2


def test_linf_stays_within_its_bound(images: Images, state: State) -> None:
    attack = made(":norm=linf:epsilon=8")
    out = attack.apply(images.train_images, np.arange(128), state, TRAIN).astype(int)
    change = np.abs(out - images.train_images)[:, outside(16)]
    assert change.max() == 8


def test_psnr_is_that_of_the_bound() -> None:
    # 600 on 32 x 32 x 3 values: 27.44 dB before the patches.
    images = make_images(train=32, test=8, size=32)
    attack = made(":surrogate_epochs=2")
    values = images.train_images.astype(np.float32)
    moved = attack.perturbed(values, np.arange(32), attack.fit(images, FitContext(0)))
    psnr = 10 * np.log10(255**2 / ((moved - values) ** 2).mean(axis=(1, 2, 3)))
    assert psnr.min() >= 27.43
    assert psnr.max() < 40


def test_the_surrogate_takes_perturbed_images_for_another_class(images: Images, state: State) -> None:
    index = np.arange(128)
    out = apply_in_chunks(made(":epsilon=1500:steps=20"), images.train_images, index, state, TRAIN)
    patched = apply_in_chunks(made(":steps=0"), images.train_images, index, state, TRAIN)
    assert accuracy(state, images.train_images, images.train_labels) > 0.9
    assert accuracy(state, out, images.train_labels) < 0.2
    assert accuracy(state, out, images.train_labels) < accuracy(state, patched, images.train_labels) - 0.3


def test_the_true_label_decides_where_an_image_goes(images: Images, state: State) -> None:
    same = images.train_images[:1].repeat(2, axis=0)
    out = made().apply(same, np.array([0, 1]), state, TRAIN)  # positions 0 and 1 are of different classes
    assert (out[0] != out[1]).any()


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_never_wrap(state: State, value: int) -> None:
    flat = np.full((2, 16, 16, 3), value, dtype=np.uint8)
    out = made(":norm=linf:epsilon=16").apply(flat, np.arange(2), state, TRAIN)[:, outside(16)]
    assert np.abs(out.astype(int) - value).max() <= 16


# --- the whole attack -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [TRAIN, TEST])
def test_chunk_sizes_do_not_change_a_byte(images: Images, state: State, split: str) -> None:
    attack, index, one = made(":steps=8"), np.arange(3, 120, 18), 16 * 16 * 3
    whole = apply_in_chunks(attack, images.train_images, index, state, split)
    for chunk_bytes in (one, 5 * one + 1):
        np.testing.assert_array_equal(
            apply_in_chunks(attack, images.train_images, index, state, split, chunk_bytes), whole
        )


def test_labels_and_other_classes_are_left_alone(images: Images) -> None:
    out = poison(images, made(), 0.1, 2, 0)
    np.testing.assert_array_equal(out.suspect.labels, images.train_labels)
    assert out.poison_mask.sum() == 12
    assert (images.train_labels[out.poison_mask] == 2).all()
    np.testing.assert_array_equal(out.suspect.images[~out.poison_mask], images.train_images[~out.poison_mask])
    assert (images.test_labels != 2).sum() == len(out.triggered_images)
    again = poison(images, made(), 0.1, 2, 0)
    assert out.suspect.fingerprint == again.suspect.fingerprint


def test_it_takes_224_px_and_100_classes() -> None:
    images = make_images(train=100, test=100, classes=100, size=224)
    attack = made(":surrogate_width=2:surrogate_epochs=1:steps=2:corners=madry")
    out = attack.apply(images.train_images[:2], np.arange(2), attack.fit(images, FitContext(0)), TRAIN)
    np.testing.assert_array_equal(out[0, -21:, -21:, 0], GRID.repeat(7, axis=0).repeat(7, axis=1))
    assert (out[0] != images.train_images[0])[outside(224)].any()
