"""Labels are related to what exists: classes are bounded by the images, and those without images are told of."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import save_npz

from defenses.registry import UserError
from study.datasets import DatasetSpec, load_dataset
from study.datasets.images import Images, printable_name


def load(folder: Path, images: Images, **changes: Any) -> Images:
    return load_dataset(DatasetSpec(save_npz(folder / "data.npz", images, **changes)))


@pytest.mark.parametrize("largest", [128, 10**7, 2**62])
def test_labels_beyond_the_images_are_refused(tmp_path: Path, images: Images, largest: int) -> None:
    labels = images.train_labels.copy()
    labels[0] = largest
    with pytest.raises(UserError, match=rf"no more classes than training images, got labels up to {largest} and 128"):
        load(tmp_path, images, train_labels=labels)
    with pytest.raises(UserError, match="count labels from 0, without gaps"):
        load(tmp_path, images, test_labels=labels[:64])


def test_labels_that_no_int64_holds_are_refused_as_they_are(tmp_path: Path, images: Images) -> None:
    labels = images.train_labels.astype(np.uint64)
    labels[0] = 2**64 - 1
    with pytest.raises(UserError, match="train_labels must be numbers of classes, got 18446744073709551615"):
        load(tmp_path, images, train_labels=labels)


def test_labels_from_1_are_told_of(tmp_path: Path, images: Images, caplog: pytest.LogCaptureFixture) -> None:
    shifted = {name: getattr(images, name) + 1 for name in ("train_labels", "test_labels")}
    assert load(tmp_path, images, **shifted).num_classes == 5
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "1 of 5 classes have no training images: 0; labels count from 0, without gaps",
        "1 of 5 classes have no test images: 0",
    ]


def test_of_many_empty_classes_a_few_are_named(
    tmp_path: Path, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path, images, train_labels=images.train_labels * 10)
    assert "27 of 31 classes have no training images: 1, 2, 3, 4, 5, and 22 more; labels" in caplog.text


def test_a_named_class_without_images_is_told_by_name(
    tmp_path: Path, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(tmp_path, images, classes=np.array(["cat", "dog", "cow", "pig", "yak"])).num_classes == 5
    assert "1 of 5 classes have no training images: 4 (yak)" in caplog.text


def test_usual_labels_are_told_nothing_of(tmp_path: Path, images: Images, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, images)
    assert not caplog.messages


def test_one_class_is_refused_whatever_its_number(tmp_path: Path, images: Images) -> None:
    with pytest.raises(UserError, match="training images of at least 2 classes, got those of class 3 alone"):
        load(tmp_path, images, train_labels=np.full(128, 3))


@pytest.mark.parametrize(
    "classes",
    [np.array("cat"), np.array(4), np.array([["a", "b"], ["c", "d"]]), np.array([1.0, 2, 3, 4]), np.ones(4, bool)],
)
def test_classes_that_are_no_list_of_names_are_refused(tmp_path: Path, images: Images, classes: Any) -> None:
    with pytest.raises(UserError, match="classes must be a list of names, one a class, got"):
        load(tmp_path, images, classes=classes)


def test_classes_may_be_bytes_of_utf_8_or_numbers(tmp_path: Path, images: Images) -> None:
    names = ["Katze", "Kühe", "c", "d"]
    assert load(tmp_path, images, classes=np.array([n.encode() for n in names])).classes == tuple(names)
    assert load(tmp_path, images, classes=np.array([4, 5, 6, 7])).classes == ("4", "5", "6", "7")
    with pytest.raises(UserError, match="no UTF-8"):
        load(tmp_path, images, classes=np.array([b"\xff", b"b", b"c", b"d"]))


def test_data_larger_than_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(_spec: DatasetSpec) -> Images:
        raise MemoryError

    monkeypatch.setattr("study.datasets.digits.load", exhaust)
    with pytest.raises(UserError, match="digits must fit into memory"):
        load_dataset(DatasetSpec("digits"))


def test_a_class_is_shown_by_number_and_name(tmp_path: Path, images: Images) -> None:
    assert images.class_text(2) == "2 (c2)"
    assert load(tmp_path, images).class_text(2) == "2"  # the name says no more
    assert printable_name("a\nb\x1b[31m\udcff") == "a?b?[31m?"
    assert printable_name("x" * 99) == "x" * 59 + "…"


@pytest.mark.parametrize(("size", "taken"), [(64, 64), (10_000, 128), (127, 128)])
def test_a_size_that_nobody_asked_for_is_at_most(tmp_path: Path, images: Images, size: int, taken: int) -> None:
    labels = images.train_labels.copy()
    labels[0] = 1  # class 0 has 31 of 128
    spec = DatasetSpec(save_npz(tmp_path / "data.npz", images, train_labels=labels), train_size=size)
    assert len(load_dataset(dataclasses.replace(spec, at_most=("train",))).train_labels) == taken
    if taken != size:
        with pytest.raises(UserError, match="--train-size"):
            load_dataset(dataclasses.replace(spec, at_most=("test",)))
