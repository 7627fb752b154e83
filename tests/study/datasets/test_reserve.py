"""The clean reserve: which test images are set aside, and that they judge nothing."""

import dataclasses

import numpy as np
import pytest

from defenses.registry import UserError
from study.datasets import DatasetSpec, load_dataset
from study.datasets.images import Images
from study.datasets.reserve import split_reserve


def bytes_of(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_dataset(DatasetSpec("digits"))


def test_the_reserve_is_balanced_and_disjoint_from_what_judges(digits: Images) -> None:
    apart, left = split_reserve(digits.test_labels, 100, 10, "digits")
    assert np.bincount(digits.test_labels[apart]).tolist() == [10] * 10
    assert digits.test_labels[apart][:10].tolist() == list(range(10))
    assert np.array_equal(np.sort(np.concatenate([apart, left])), np.arange(360))
    assert np.array_equal(left, np.sort(left))


def test_a_smaller_reserve_is_the_beginning_of_a_larger_one(digits: Images) -> None:
    large, _ = split_reserve(digits.test_labels, 150, 10, "digits")
    small, _ = split_reserve(digits.test_labels, 30, 10, "digits")
    assert np.array_equal(large[:30], small)


def test_loaded_images_leave_the_reserve_out_of_the_test_set(digits: Images) -> None:
    with_reserve = load_dataset(DatasetSpec("digits", reserve=100))
    assert with_reserve.reserve is not None
    assert len(with_reserve.reserve) == 100
    assert len(with_reserve.test_labels) == 260
    assert bytes_of(with_reserve.test_images).isdisjoint(bytes_of(with_reserve.reserve.images))
    assert bytes_of(with_reserve.test_images) | bytes_of(with_reserve.reserve.images) == bytes_of(digits.test_images)
    # What a defense trains on, and so every stage that takes no clean images, is untouched by it.
    assert np.array_equal(with_reserve.train_images, digits.train_images)
    assert with_reserve.fingerprint != digits.fingerprint
    assert digits.reserve is None
    # The labels are those of the images.
    for image, label in zip(with_reserve.reserve.images[:20], with_reserve.reserve.labels[:20], strict=True):
        same = (digits.test_images == image).all(axis=(1, 2, 3))
        assert label in digits.test_labels[same]


def test_the_reserve_is_set_aside_before_the_test_subset_is_taken(digits: Images) -> None:
    spec = DatasetSpec("digits", test_size=200, reserve=150)
    loaded = load_dataset(spec)
    assert len(loaded.test_labels) == 200  # 360 are there: nobody has to judge by fewer
    assert loaded.reserve is not None
    assert bytes_of(loaded.test_images).isdisjoint(bytes_of(loaded.reserve.images))
    again = load_dataset(dataclasses.replace(spec))
    assert again.reserve is not None
    assert again.reserve.fingerprint == loaded.reserve.fingerprint


@pytest.mark.parametrize("size", [351, 360, 5000])
def test_a_class_that_would_keep_no_test_image_is_refused(size: int, digits: Images) -> None:
    fewest = int(np.bincount(digits.test_labels).min())
    message = f"{size} images is taken out of the 360 test images of digits.* at most {(fewest - 1) * 10} "
    with pytest.raises(UserError, match=message):
        load_dataset(DatasetSpec("digits", reserve=size))
    assert load_dataset(DatasetSpec("digits", reserve=(fewest - 1) * 10)).reserve is not None


def test_uneven_classes_give_what_they_have() -> None:
    labels = np.array([0] * 50 + [1] * 4 + [2] * 20)
    apart, left = split_reserve(labels, 9, 3, "made up")
    assert np.bincount(labels[apart]).tolist() == [3, 3, 3]
    with pytest.raises(UserError, match=r"a class with 4 of them would keep none .* at most 9 "):
        split_reserve(labels, 12, 3, "made up")
    assert np.bincount(labels[left]).tolist() == [47, 1, 17]
