"""Poisoning: who is taken, what is changed and what is not (specs/attacks.md sections 1 and 4)."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_images import make_images

from defenses.api import fingerprint
from defenses.registry import UserError
from study.attacks import parse_attack
from study.attacks.support.fitting import FitContext
from study.datasets.images import Images
from study.scenarios.poison import PoisonedDataset, apply_in_chunks, poison, poison_count, preview, select

DIRTY = ("badnets", "blended_random", "blended_random:gray=true", "blended_image", "trojan_square")
CLEAN_LABEL = ("sig", "sig:variant=abl")
POISONING = (*DIRTY, *CLEAN_LABEL)
TARGET = 1

# Label arrays of the shape of the real datasets; the order is mixed as theirs is.
CIFAR10 = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
CIFAR100 = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 500))
IMAGENET30 = np.arange(38_859) % 30  # 1,296 images of class 0


def chosen(labels: NDArray[np.int64], text: str, rate: float, seed: int = 0, target: int = 0) -> NDArray[np.int64]:
    return select(labels, parse_attack(text), rate, target, seed).poisoned


def poisoned(images: Images, text: str, rate: float = 0.1, seed: int = 0, target: int = TARGET) -> PoisonedDataset:
    return poison(images, parse_attack(text), rate, target, seed)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "text", "rate", "wanted", "taken"),
    [
        (CIFAR10, "badnets", 0.05, 2500, 2500),
        (CIFAR10, "blended_random", 0.10, 5000, 5000),
        (CIFAR10, "trojan_square", 0.29, 14_500, 14_500),  # int(50000 * 0.29) would be 14,499
        (CIFAR10, "sig", 0.08, 4000, 4000),
        (CIFAR10, "sig", 0.05, 2500, 2500),
        (CIFAR10, "sig", 0.10, 5000, 5000),  # the whole class, and no more
        (CIFAR10, "sig:rate_base=class", 0.10, 500, 500),  # the QT code's meaning of 10 %
        (CIFAR100, "badnets", 0.05, 2500, 2500),
        (CIFAR100, "sig:cap=true", 0.05, 2500, 500),
        (CIFAR100, "sig:cap=true", 0.005, 250, 250),
        (IMAGENET30, "badnets", 0.05, 1942, 1942),
        (IMAGENET30, "sig:cap=true", 0.08, 3108, 1296),
    ],
)
def test_counts(labels: NDArray[np.int64], text: str, rate: float, wanted: int, taken: int) -> None:
    found = select(labels, parse_attack(text), rate, 0, seed=0)
    positions, asked = found.poisoned, found.wanted
    assert (len(positions), asked) == (taken, wanted)
    assert (np.diff(positions) > 0).all()  # sorted, each once


def test_too_small_a_class_is_refused_and_the_way_out_works() -> None:
    with pytest.raises(UserError) as error:
        chosen(CIFAR100, "sig", 0.05)
    assert str(error.value) == (
        "sig poisons images of class 0 alone: a poison rate of 0.05 needs 2500 of them and there are 500; "
        "use a rate of at most 0.01, or sig:cap=true to poison them all"
    )
    assert len(chosen(CIFAR100, "sig", 0.01)) == 500


def test_numbers_of_a_refusal_are_those_of_its_rule() -> None:
    labels = np.repeat(np.arange(2), [10, 29_990])
    with pytest.raises(UserError, match=r"there are 10; use a rate of at most 0\.0003, or sig:cap=true"):
        chosen(labels, "sig", 0.05)
    assert len(chosen(labels, "sig", 0.0003)) == 9
    with pytest.raises(UserError, match=r"^a poison rate of 0.05 of 10 images of class 0 is less than one image"):
        chosen(labels, "sig:rate_base=class", 0.05)
    assert len(chosen(labels, "sig:rate_base=class", 0.1)) == 1


def test_less_than_one_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a poison rate of 0.001 of 128 images is less than one image"):
        chosen(np.arange(128) % 4, "badnets", 0.001)
    assert len(chosen(np.arange(1000) % 4, "badnets", 0.001)) == 1


@pytest.mark.parametrize("text", ["clean", *POISONING])
def test_rate_zero_takes_nothing(text: str) -> None:
    found = select(CIFAR10, parse_attack(text), 0.0, 0, seed=0)
    positions, asked = found.poisoned, found.wanted
    assert (len(positions), asked) == (0, 0)
    assert positions.dtype == np.int64


def test_the_control_takes_nothing_at_any_rate() -> None:
    assert len(chosen(CIFAR10, "clean", 0.1)) == 0


@settings(max_examples=100, deadline=None)
@given(base=st.integers(1, 1_000_000), data=st.data())
def test_a_rate_of_k_in_n_is_k_images(base: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, base))
    assert poison_count(count / base, base) == count


# --- selection --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(rates=st.tuples(st.integers(1, 250), st.integers(1, 250)), seed=st.integers(0, 1000))
def test_rates_nest(rates: tuple[int, int], seed: int) -> None:
    labels = np.arange(1000) % 4
    few, many = sorted(rates)
    for text in ("badnets", "sig"):
        assert set(chosen(labels, text, few / 1000, seed)) <= set(chosen(labels, text, many / 1000, seed))


def test_dirty_label_attacks_take_the_same_images() -> None:
    first = chosen(CIFAR10, "badnets", 0.05)
    for text in DIRTY[1:]:
        np.testing.assert_array_equal(first, chosen(CIFAR10, text, 0.05))


@pytest.mark.parametrize("text", ["badnets", "sig"])
def test_seeds_take_different_images(text: str) -> None:
    first, second = (chosen(CIFAR10, text, 0.05, seed) for seed in (0, 1))
    np.testing.assert_array_equal(first, chosen(CIFAR10, text, 0.05, 0))
    assert len(np.intersect1d(first, second)) < 0.6 * len(first)  # SIG takes half of its class: half is expected


def test_dirty_label_attacks_take_every_class_alike() -> None:
    # A tenth of 2,500 a class, the target's included; five standard deviations of a binomial are 75.
    counts = np.bincount(CIFAR10[chosen(CIFAR10, "badnets", 0.05)], minlength=10)
    assert np.abs(counts - 250).max() <= 75


@pytest.mark.parametrize("target", [0, 7])
def test_clean_label_attacks_take_the_target_class_alone(target: int) -> None:
    assert (CIFAR10[chosen(CIFAR10, "sig", 0.05, target=target)] == target).all()


@pytest.mark.parametrize("rate", [-0.1, 0.6, 2.0])  # -0.1 poisons 90 % of the images
def test_a_rate_out_of_range_is_refused(images: Images, rate: float) -> None:
    with pytest.raises(UserError, match="rate"):
        poisoned(images, "badnets", rate)


@pytest.mark.parametrize("target", [-1, 4])
def test_a_target_out_of_range_is_refused(images: Images, target: int) -> None:
    with pytest.raises(UserError, match=rf"^a target label must lie in \[0, 4\), got {target}$"):
        poisoned(images, "badnets", target=target)


# --- poisoned data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", POISONING)
def test_only_the_poisoned_rows_change_and_order_is_kept(images: Images, text: str) -> None:
    before = images.train_images.copy(), images.train_labels.copy()
    made = poisoned(images, text)
    attack = parse_attack(text)
    rows = np.flatnonzero(made.poison_mask)
    assert made.poison_mask.dtype == bool
    assert len(rows) == 12  # a tenth of 128
    np.testing.assert_array_equal(rows, chosen(images.train_labels, text, 0.1, target=TARGET))
    np.testing.assert_array_equal(made.suspect.images[~made.poison_mask], images.train_images[~made.poison_mask])
    np.testing.assert_array_equal(made.suspect.labels[~made.poison_mask], images.train_labels[~made.poison_mask])
    expected = attack.apply(images.train_images[rows], rows, attack.fit(images, FitContext(0)), "train")
    np.testing.assert_array_equal(made.suspect.images[rows], expected)
    assert (made.suspect.images[rows] != images.train_images[rows]).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(images.train_images, before[0])  # the input is left alone
    np.testing.assert_array_equal(images.train_labels, before[1])
    assert not np.shares_memory(made.suspect.images, images.train_images)
    assert not np.shares_memory(made.suspect.labels, images.train_labels)


@pytest.mark.parametrize("text", POISONING)
def test_types_and_ground_truth(images: Images, text: str) -> None:
    made = poisoned(images, text)
    assert (made.suspect.images.dtype, made.suspect.labels.dtype) == (np.uint8, np.int64)
    assert not (made.poison_mask & made.cover_mask).any()
    assert not made.cover_mask.any()  # none of these attacks has covers
    np.testing.assert_array_equal(made.original_labels, images.train_labels)
    assert made.suspect.num_classes == 4
    assert made.suspect.fingerprint == fingerprint(made.suspect.images, made.suspect.labels, 4)
    assert made.suspect.fingerprint != fingerprint(images.train_images, images.train_labels, 4)


def test_dirty_label_poison_has_the_target_label_and_counts_images_that_had_it_before(images: Images) -> None:
    made = poisoned(images, "badnets", rate=0.5)
    assert (made.suspect.labels[made.poison_mask] == TARGET).all()
    had_it = made.poison_mask & (images.train_labels == TARGET)
    assert 0 < had_it.sum() < 64
    # These keep their label, so labels alone would not tell that they are poisoned; their pixels do.
    assert (made.suspect.images[had_it] != images.train_images[had_it]).any(axis=(1, 2, 3)).all()
    assert made.meta["n_poison_from_target"] == had_it.sum()
    assert (made.suspect.labels != images.train_labels).sum() == 64 - had_it.sum()


@pytest.mark.parametrize("text", CLEAN_LABEL)
def test_clean_label_attacks_keep_every_label(images: Images, text: str) -> None:
    made = poisoned(images, text)
    np.testing.assert_array_equal(made.suspect.labels, images.train_labels)
    assert (images.train_labels[made.poison_mask] == TARGET).all()
    assert made.meta["n_poison_from_target"] == 12


@pytest.mark.parametrize("text", POISONING)
def test_triggered_test_set_leaves_out_the_target_class(images: Images, text: str) -> None:
    made = poisoned(images, text)
    victims = np.flatnonzero(images.test_labels != TARGET)
    assert len(made.triggered_images) == len(made.triggered_labels) == 48  # three of four classes of 16
    assert made.triggered_labels.dtype == np.int64
    assert (made.triggered_labels == TARGET).all()
    attack = parse_attack(text)
    expected = attack.apply(images.test_images[victims], victims, attack.fit(images, FitContext(0)), "test")
    np.testing.assert_array_equal(made.triggered_images, expected)
    np.testing.assert_array_equal(made.test_images, images.test_images)
    np.testing.assert_array_equal(made.test_labels, images.test_labels)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_control_is_the_clean_data_without_a_triggered_set(images: Images, rate: float) -> None:
    made = poisoned(images, "clean", rate)
    assert made.suspect.fingerprint == fingerprint(images.train_images, images.train_labels, 4)
    assert not made.poison_mask.any()
    assert made.triggered_images.shape == (0, 16, 16, 3)
    assert len(made.triggered_labels) == 0
    assert (made.meta["n_poison"], made.meta["effective_rate"]) == (0, 0.0)


def test_an_attack_at_rate_zero_still_has_a_triggered_set(images: Images) -> None:
    made = poisoned(images, "badnets", 0.0)
    assert not made.poison_mask.any()
    np.testing.assert_array_equal(made.suspect.images, images.train_images)
    np.testing.assert_array_equal(made.triggered_images, poisoned(images, "badnets", 0.1).triggered_images)


def test_a_capped_attack_poisons_its_class_and_says_so(images: Images, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = poisoned(images, "sig:cap=true", 0.5)
    np.testing.assert_array_equal(made.poison_mask, images.train_labels == TARGET)
    assert caplog.messages == ["sig: the target class has 32 images, 64 were asked for: all of them are poisoned"]
    assert made.meta == {
        "n_train": 128,
        "n_poison": 32,
        "n_cover": 0,
        "n_poison_from_target": 32,
        "effective_rate": 0.25,
        "clean_fingerprint": images.fingerprint,
    }


@pytest.mark.parametrize("size", [16, 32, 64, 224])
@pytest.mark.parametrize("text", POISONING)
def test_every_size_can_be_poisoned(text: str, size: int) -> None:
    made = poisoned(make_images(train=8, test=4, size=size), text, rate=0.25)
    assert made.poison_mask.sum() == 2
    assert made.suspect.images.shape == (8, size, size, 3)
    assert made.triggered_images.shape == (3, size, size, 3)


@pytest.mark.parametrize("text", POISONING)
def test_a_hundred_classes_can_be_poisoned(text: str) -> None:
    made = poisoned(make_images(train=1000, test=200, classes=100, size=16), text, rate=0.01, target=99)
    assert made.poison_mask.sum() == 10
    assert (made.suspect.labels[made.poison_mask] == 99).all()
    assert len(made.triggered_labels) == 198
    assert (made.triggered_labels == 99).all()


def test_seeds_give_other_data(images: Images) -> None:
    for text in POISONING:
        assert poisoned(images, text, seed=0).suspect.fingerprint != poisoned(images, text, seed=1).suspect.fingerprint


# --- covers, all-to-all and the QT code's ways ------------------------------------------------------------------------


def test_covers_carry_the_trigger_and_keep_their_labels(images: Images) -> None:
    made = poisoned(images, "badnets:cover_ratio=1.5")
    plain = poisoned(images, "badnets")
    covers = np.flatnonzero(made.cover_mask)
    # Of 128 images 12.8 and 19.2, each rounded down by itself.
    assert (made.poison_mask.sum(), len(covers), made.meta["n_cover"]) == (12, 19, 19)
    assert not (made.poison_mask & made.cover_mask).any()
    np.testing.assert_array_equal(made.poison_mask, plain.poison_mask)  # covers come after the poison
    np.testing.assert_array_equal(made.suspect.labels[covers], images.train_labels[covers])
    attack = parse_attack("badnets")
    expected = attack.apply(images.train_images[covers], covers, attack.fit(images, FitContext(0)), "cover")
    np.testing.assert_array_equal(made.suspect.images[covers], expected)
    untouched = ~(made.poison_mask | made.cover_mask)
    np.testing.assert_array_equal(made.suspect.images[untouched], images.train_images[untouched])


def test_covers_of_a_clean_label_attack_may_have_any_class(images: Images) -> None:
    made = poisoned(images, "sig:cover_ratio=2")
    assert made.cover_mask.sum() == 25  # int(0.2 * 128)
    assert len(np.unique(images.train_labels[made.cover_mask])) > 1


@pytest.mark.parametrize(
    ("count", "rate", "ratio", "covers"),
    [  # backdoor-toolbox takes int(N * rate) and int(N * cover_rate), each by itself
        (1437, 0.1, 2, 287),
        (1437, 0.1, 1, 143),
        (1437, 0.05, 2, 143),
        (38859, 0.05, 2, 3885),
        (50000, 0.05, 2, 5000),
        (100, 0.29, 1, 29),  # 28.999... in floating point
    ],
)
def test_covers_are_rounded_by_themselves_as_in_the_toolbox(count: int, rate: float, ratio: int, covers: int) -> None:
    labels = np.arange(count, dtype=np.int64) % 10
    for name in ("wanet", "adaptive_blend", "adaptive_patch", "badnets"):
        chosen = select(labels, parse_attack(f"{name}:cover_ratio={ratio}"), rate, 0, 0)
        assert (len(chosen.poisoned), len(chosen.covers)) == (int(count * rate + 1e-6), covers)


def test_covers_follow_the_base_of_the_rate_and_what_a_capped_class_has() -> None:
    labels = np.arange(1437, dtype=np.int64) % 10  # classes 0 to 6 have 144 images, the others 143
    assert len(select(labels, parse_attack("badnets:cover_ratio=2:rate_base=class"), 0.28, 0, 0).covers) == 80  # of 40
    capped = select(labels, parse_attack("sig:cap=true:cover_ratio=2"), 0.3, 0, 0)
    assert (len(capped.poisoned), len(capped.covers)) == (144, 288)


def test_too_many_covers_are_refused(images: Images) -> None:
    with pytest.raises(UserError, match=r"needs 128 covers beside its 64 poisoned images, and 64 images are left"):
        poisoned(images, "badnets:cover_ratio=2", rate=0.5)


def test_all_to_all_moves_every_class_to_the_next(images: Images) -> None:
    made = poisoned(images, "badnets_all_to_all", rate=0.5)
    rows = made.poison_mask
    np.testing.assert_array_equal(made.suspect.labels[rows], (images.train_labels[rows] + 1) % 4)
    assert len(made.triggered_labels) == 64  # every class is a victim
    np.testing.assert_array_equal(made.triggered_labels, (images.test_labels + 1) % 4)


def test_the_qt_code_measures_the_asr_on_the_target_class_too(images: Images) -> None:
    made = poisoned(images, "badnets:include_target=true")
    assert len(made.triggered_labels) == 64
    assert (made.triggered_labels == TARGET).all()
    # A perfectly clean model, which calls every image by its name, scores on a quarter of them.
    assert (images.test_labels == made.triggered_labels).mean() == 0.25


# --- determinism ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", POISONING)
@pytest.mark.parametrize("split", ["train", "test"])
def test_chunk_sizes_do_not_change_a_byte(images: Images, text: str, split: str) -> None:
    attack = parse_attack(text)
    state, index = attack.fit(images, FitContext(0)), np.arange(5, 64, 3)
    one_image = 16 * 16 * 3
    whole = apply_in_chunks(attack, images.train_images, index, state, split)
    for chunk_bytes in (1, one_image, 7 * one_image + 1, 20 * one_image):
        np.testing.assert_array_equal(
            apply_in_chunks(attack, images.train_images, index, state, split, chunk_bytes), whole
        )
    np.testing.assert_array_equal(whole, attack.apply(images.train_images[index], index, state, split))


_OTHER_PROCESS = """
import hashlib, sys
from pathlib import Path
from study.attacks import parse_attack
from study.attacks.support.fitting import FitContext
from study.datasets import DatasetSpec, load_dataset
from study.scenarios.poison import poison
images = load_dataset(DatasetSpec("npz:" + sys.argv[1]))
for text in sys.argv[2:]:
    made = poison(images, parse_attack(text), 0.1, 1, 5)
    digest = hashlib.sha256(made.suspect.fingerprint.encode())
    for array in (made.poison_mask, made.triggered_images, made.triggered_labels):
        digest.update(array.tobytes())
    print(digest.hexdigest())
"""


def test_another_process_makes_the_same_bytes(images: Images, tmp_path: Path) -> None:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "same.npz", **{name: getattr(images, name) for name in names})
    other = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, str(tmp_path / "same.npz"), *POISONING],
        env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = []
    for text in POISONING:
        made = poisoned(images, text, seed=5)
        digest = hashlib.sha256(made.suspect.fingerprint.encode())
        for array in (made.poison_mask, made.triggered_images, made.triggered_labels):
            digest.update(array.tobytes())
        expected.append(digest.hexdigest())
    assert other.stdout.split() == expected
    assert len(set(expected)) == len(POISONING)


# --- preview ----------------------------------------------------------------------------------------------------------


def test_preview_shows_clean_poisoned_and_ten_times_the_difference() -> None:
    clean = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    changed = clean.copy()
    changed[0] += 7
    changed[1] -= 30
    shown = preview(clean, changed)
    assert shown.shape == (24, 16, 3)
    rows = shown.reshape(3, 8, 2, 8, 3)
    for row, column, value in [(0, 0, 100), (0, 1, 100), (1, 0, 107), (1, 1, 70), (2, 0, 70), (2, 1, 255)]:
        assert (rows[row, :, column] == value).all()


def test_preview_of_nothing_is_empty() -> None:
    assert preview(np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)).size == 0


def test_preview_holds_at_most_eight_poisoned_images(images: Images) -> None:
    made = poisoned(images, "badnets")
    assert made.preview.shape == (3 * 16, 8 * 16, 3)
    first = np.flatnonzero(made.poison_mask)[0]
    np.testing.assert_array_equal(made.preview[:16, :16], images.train_images[first])
    np.testing.assert_array_equal(made.preview[16:32, :16], made.suspect.images[first])
