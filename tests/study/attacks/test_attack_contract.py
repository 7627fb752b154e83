"""What must hold for every attack, whatever its trigger (specs/attacks.md section 4, first list).

A new attack needs one row of `attack_rows`. What is exact about a trigger stands in the attack's own test file.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from attack_rows import ATTACK_ROWS, text_of
from checkout import PYTHONPATH, ROOT
from numpy.typing import NDArray
from small_images import make_images

from defenses.seeds import derive_seed
from defenses.storage.store import Store
from study.attacks import ATTACKS, parse_attack
from study.attacks.api import COVER, TEST, TRAIN, State
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.scenarios.poison import PoisonedDataset, apply_in_chunks, poison, select

EVERY = sorted(ATTACK_ROWS)
SAME = [name for name in EVERY if ATTACK_ROWS[name].at_test == "same"]
PLAIN = [name for name in EVERY if not ATTACK_ROWS[name].options]
CLEAN_LABEL = ("sig", "label_consistent")

CIFAR10 = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
CIFAR100 = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 500))
IMAGENET30 = np.arange(38_859) % 30


@functools.cache
def small_images(train: int = 96, classes: int = 4, size: int = 16) -> Images:
    return make_images(train=train, test=96 if classes == 4 else 2 * classes, classes=classes, size=size)


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    """Of a store, so that what an attack trains is trained once a process; removed when the process ends."""
    return tempfile.TemporaryDirectory()


def at_fit(seed: int) -> FitContext:
    return FitContext(seed, 1, store=Store(Path(_folder().name)))


@functools.cache
def fitted(name: str, seed: int = 0, classes: int = 4, size: int = 16) -> State:
    return parse_attack(text_of(name)).fit(small_images(classes=classes, size=size), at_fit(seed))


@functools.cache
def poisoned(name: str, seed: int = 0, rate: float = 0.125) -> PoisonedDataset:
    return poison(small_images(), parse_attack(text_of(name)), rate, 1, seed, at_fit(seed))


def noise(count: int, size: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def digest(made: PoisonedDataset) -> str:
    found = hashlib.sha256(made.suspect.fingerprint.encode())
    for array in (made.poison_mask, made.cover_mask, made.triggered_images, made.triggered_labels):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def test_every_attack_has_its_row() -> None:
    assert set(ATTACK_ROWS) == {name for name in ATTACKS if ATTACKS[name].poisons}
    assert {name for name in ATTACKS if ATTACKS[name].trained} == set(EVERY) - set(PLAIN)
    assert {name for name in ATTACKS if ATTACKS[name].clean_label} == set(CLEAN_LABEL)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_counts_are_the_papers(name: str) -> None:
    attack = parse_attack(f"{name}:cap=true")
    if name in CLEAN_LABEL:
        wanted = [(CIFAR10, 0.08, 4000), (CIFAR100, 0.05, 500), (IMAGENET30, 0.08, 1296)]
    else:
        wanted = [(CIFAR10, 0.05, 2500), (CIFAR10, 0.1, 5000), (CIFAR100, 0.05, 2500), (IMAGENET30, 0.05, 1942)]
    for labels, rate, count in wanted:
        found = select(labels, attack, rate, 0, 0)
        assert len(found.poisoned) == count
        share = rate * attack.config.cover_ratio  # rounded by itself, as backdoor-toolbox does
        assert len(found.covers) == int(len(labels) * share + 1e-6)
        assert not set(found.poisoned) & set(found.covers)


@pytest.mark.parametrize("name", EVERY)
def test_rates_nest_and_seeds_differ(name: str) -> None:
    attack = parse_attack(f"{name}:cap=true:cover_ratio=0")
    smaller, larger, other = (
        set(select(CIFAR10, attack, rate, 0, seed).poisoned.tolist())
        for rate, seed in ((0.02, 0), (0.05, 0), (0.05, 1))
    )
    assert smaller < larger
    assert larger != other


# --- the poisoned set -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_masks_labels_and_untouched_rows(name: str) -> None:
    images, made, attack = small_images(), poisoned(name), parse_attack(text_of(name))
    rows, covers = made.poison_mask, made.cover_mask
    assert rows.sum() == 12
    assert covers.sum() == int(12 * attack.config.cover_ratio)
    assert not (rows & covers).any()
    same = (made.suspect.images == images.train_images).all(axis=(1, 2, 3))
    assert same[~(rows | covers)].all()
    assert not same[rows].any()
    np.testing.assert_array_equal(made.suspect.labels[~rows], images.train_labels[~rows])  # covers keep their labels
    if name in CLEAN_LABEL:
        np.testing.assert_array_equal(made.suspect.labels, images.train_labels)
        assert (images.train_labels[rows] == 1).all()
    elif name == "badnets_all_to_all":
        np.testing.assert_array_equal(made.suspect.labels[rows], (images.train_labels[rows] + 1) % 4)
    else:
        assert (made.suspect.labels[rows] == 1).all()


@pytest.mark.parametrize("name", EVERY)
def test_the_triggered_set_has_no_image_of_the_target(name: str) -> None:
    images, made = small_images(), poisoned(name)
    if name == "badnets_all_to_all":
        np.testing.assert_array_equal(made.triggered_labels, (images.test_labels + 1) % 4)
        return
    assert (made.triggered_labels == 1).all()
    assert len(made.triggered_labels) == (images.test_labels != 1).sum()
    clean = images.test_images[images.test_labels != 1]
    assert (made.triggered_images != clean).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", EVERY)
def test_another_seed_gives_other_data(name: str) -> None:
    assert digest(poisoned(name, 0)) != digest(poisoned(name, 1))


# --- the trigger ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_train_and_test_trigger_agree_or_must_differ(name: str) -> None:
    attack, state, clean = parse_attack(text_of(name)), fitted(name), noise(3)
    train, test = (attack.apply(clean, np.arange(3), state, split) for split in (TRAIN, TEST))
    assert np.array_equal(train, test) is (name in SAME)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("split", [TRAIN, COVER, TEST])
def test_the_input_is_left_alone(name: str, split: str) -> None:
    clean = noise(3)
    before = clean.copy()
    out = parse_attack(text_of(name)).apply(clean, np.arange(3), fitted(name), split)
    np.testing.assert_array_equal(clean, before)
    assert not np.shares_memory(out, clean)
    assert (out.shape, out.dtype) == (clean.shape, np.uint8)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("split", [TRAIN, COVER, TEST])
def test_black_and_white_images_never_wrap(name: str, split: str) -> None:
    # All 256 flat images with the draws of one position: a brighter image gives an equal result or a little brighter
    # one. A wrap at either end would be a fall of about 200 levels.
    attack, state = parse_attack(name), fitted(name, size=32)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 32, 32, 3)).copy()
    out = attack.apply(ramp, np.zeros(256, dtype=np.int64), state, split).astype(int)
    assert np.diff(out, axis=0).min() >= -1


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(PLAIN)))
@pytest.mark.parametrize("value", [0, 255])
def test_networks_never_wrap_either(name: str, value: int) -> None:
    # A wrapped pixel would lie at the other end: a network of random weights changes an image by less than that.
    flat = np.full((1, 16, 16, 3), value, dtype=np.uint8)
    rounded, truncated = (
        parse_attack(f"{text_of(name)}:quantise={how}").apply(flat, np.zeros(1, np.int64), fitted(name), TRAIN)
        for how in ("round", "truncate")
    )
    assert (rounded.astype(int) - truncated).min() >= 0
    assert (rounded.astype(int) - truncated).max() <= 1


@pytest.mark.parametrize("name", [name for name in EVERY if ATTACK_ROWS[name].psnr])
def test_psnr_lies_in_its_band(name: str) -> None:
    from test_attacks import cifar_like, mean_psnr

    clean = cifar_like()
    pixels = Images.of(clean, np.arange(128) % 2, clean[:2], np.arange(2), ("a", "b"))
    attack = parse_attack(name)
    state = attack.fit(pixels, FitContext(0))
    changed = attack.apply(clean, np.arange(128), state, TRAIN)
    low, high = ATTACK_ROWS[name].psnr or (0, 0)
    assert low <= mean_psnr(clean, changed) <= high


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_hundred_classes_of_32_px_can_be_poisoned(name: str) -> None:
    images = small_images(train=400, classes=100, size=32)
    made = poison(images, parse_attack(f"{text_of(name)}:cap=true"), 0.05, 99, 0)
    assert made.poison_mask.sum() == (4 if name in CLEAN_LABEL else 20)
    assert made.suspect.labels.max() == 99
    assert made.triggered_images.shape[1:] == (32, 32, 3)


@pytest.mark.parametrize("name", EVERY)
def test_224_px_can_be_poisoned(name: str) -> None:
    options = "widths=2,4:batch_size=8:mask_epochs=1:joint_epochs=1:classifier_width=4:classifier_blocks=1,1"
    small = {"dynamic": options, "issba": "width=2:steps=4:ramp_steps=1:hold_steps=1:batch_size=4"}
    text = f"{name}:{small[name]}" if name in small else text_of(name)
    images = small_images(train=16, classes=2, size=224)
    made = poison(images, parse_attack(f"{text}:cap=true"), 0.125, 0, 0)
    assert made.suspect.images.shape == (16, 224, 224, 3)
    assert made.poison_mask.sum() == 2
    changed = (made.suspect.images != images.train_images).any(axis=(1, 2, 3))
    assert changed.sum() == (made.poison_mask | made.cover_mask).sum()


# --- determinism ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("split", [TRAIN, COVER, TEST])
def test_chunks_do_not_change_a_byte(name: str, split: str) -> None:
    attack, state, clean = parse_attack(text_of(name)), fitted(name), noise(96)
    index = np.arange(5, 96, 3)
    whole = apply_in_chunks(attack, clean, index, state, split)
    one_image = 16 * 16 * 3
    for chunk_bytes in (1, 7 * one_image + 1, 20 * one_image):
        np.testing.assert_array_equal(apply_in_chunks(attack, clean, index, state, split, chunk_bytes), whole)
    np.testing.assert_array_equal(attack.apply(clean[[11]], np.array([11]), state, split), whole[[2]])


_OTHER_PROCESS = """
import json, sys
import torch
torch.set_num_threads(1)
from test_attack_contract import digest, poisoned
print(json.dumps({name: digest(poisoned(name)) for name in sys.argv[1:]}))
"""


def test_another_process_makes_the_same_bytes() -> None:
    other = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, *EVERY],
        env={
            **os.environ,
            "PYTHONHASHSEED": str(derive_seed("hash") % 1000),
            "PYTHONPATH": f"{PYTHONPATH}:{Path(__file__).parent}",
        },
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(other.stdout) == {name: digest(poisoned(name)) for name in EVERY}
