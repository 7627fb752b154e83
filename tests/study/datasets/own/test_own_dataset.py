"""``own:`` as a dataset of studies: row k is sample k, a file chooses parts, and workers open what was decoded."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_formats import NAMES, TRAIN, class_folders, hub_folder, split_folders

from defenses.registry import UserError
from study.datasets import DatasetSpec, load_dataset
from study.datasets.own.data import OwnSpec
from study.datasets.own.dataset import StudySpec, load_spec, study_rows, write_spec
from study.datasets.own.reading import read_own


def of_study(spec: StudySpec, root: Path, **options: Any) -> Any:
    name = write_spec(spec, root / "spec.json")
    return load_dataset(DatasetSpec(name, store=root / "store", **options))


def test_a_path_alone_is_a_dataset(tmp_path: Path) -> None:
    path = split_folders(tmp_path)
    images = load_dataset(DatasetSpec(f"own:{path}", store=tmp_path / "store", image_size=16))
    data = read_own(OwnSpec(path, 16), tmp_path / "store")
    assert data.test is not None
    assert np.array_equal(images.train_images, data.train.images)
    assert np.array_equal(images.train_labels, data.train.labels)
    assert np.array_equal(images.test_images, data.test.images)
    assert images.classes == NAMES
    assert images.fingerprint == data.fingerprint


def test_rows_are_left_out_and_the_others_keep_their_order(tmp_path: Path) -> None:
    path = split_folders(tmp_path)
    without = np.array([0, 5, 23])
    np.save(tmp_path / "without.npy", without)
    spec = StudySpec(OwnSpec(path), tmp_path / "without.npy")
    images = of_study(spec, tmp_path)
    data = read_own(OwnSpec(path), tmp_path / "store")
    left = np.setdiff1d(np.arange(TRAIN), without)
    assert np.array_equal(images.train_images, data.train.images[left])
    assert np.array_equal(study_rows(spec, data)[0], left)
    assert load_spec(tmp_path / "spec.json") == spec


def test_another_process_opens_the_same_memory_maps(tmp_path: Path) -> None:
    images = of_study(StudySpec(OwnSpec(hub_folder(tmp_path))), tmp_path)
    sent = pickle.dumps(images)
    assert len(sent) < 2000
    opened = pickle.loads(sent)
    assert isinstance(opened.train_images, np.memmap)
    assert opened.fingerprint == images.fingerprint
    assert np.array_equal(opened.train_labels, images.train_labels)
    assert np.array_equal(opened.test_images, images.test_images)


def test_training_images_stand_in_for_a_test_set(tmp_path: Path) -> None:
    spec = StudySpec(OwnSpec(class_folders(tmp_path)))
    images = of_study(spec, tmp_path)
    assert len(images.train_labels) == TRAIN
    assert np.bincount(images.test_labels).tolist() == [6] * 4
    train = {image.tobytes() for image in images.train_images}
    assert {image.tobytes() for image in images.test_images} <= train


def test_stand_ins_are_no_clean_images(tmp_path: Path) -> None:
    """They are training images: poison, or the clean originals of what a study poisons."""
    with pytest.raises(UserError, match="has no test images to take 4 clean ones of"):
        of_study(StudySpec(OwnSpec(class_folders(tmp_path))), tmp_path, reserve=4)


def test_a_path_without_a_test_set_is_tested_on_images_that_it_is_not_trained_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"own:{class_folders(tmp_path)}"
    images = load_dataset(DatasetSpec(name, store=tmp_path / "store"))
    train = {image.tobytes() for image in images.train_images}
    assert train.isdisjoint(image.tobytes() for image in images.test_images)
    assert len(images.test_labels) == TRAIN - len(images.train_labels) == 4
    assert "has no test set: a fifth of each class is held out" in caplog.text


def test_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    spec = StudySpec(OwnSpec(class_folders(tmp_path)), held_out=0.3, seed=1)
    images = of_study(spec, tmp_path)
    assert np.bincount(images.test_labels).tolist() == [2] * 4
    assert np.bincount(images.train_labels).tolist() == [4] * 4
    train = {image.tobytes() for image in images.train_images}
    assert train.isdisjoint(image.tobytes() for image in images.test_images)
    other = of_study(StudySpec(spec.data, held_out=0.3, seed=2), tmp_path)
    assert not np.array_equal(other.test_images, images.test_images)
    data = read_own(spec.data, tmp_path / "store")
    assert np.array_equal(data.train.images[study_rows(spec, data)[1]], images.test_images)


def test_what_is_held_out_is_none_where_there_is_a_test_set(tmp_path: Path) -> None:
    images = of_study(StudySpec(OwnSpec(split_folders(tmp_path)), held_out=0.5), tmp_path)
    assert len(images.train_labels) == TRAIN


def test_a_subset_and_a_reserve_are_taken_as_of_any_dataset(tmp_path: Path) -> None:
    path = hub_folder(tmp_path)
    images = load_dataset(DatasetSpec(f"own:{path}", train_size=8, reserve=4, store=tmp_path / "store"))
    assert len(images.train_labels) == 8
    assert images.reserve is not None
    assert (len(images.reserve.labels), len(images.test_labels)) == (4, 4)
    assert pickle.loads(pickle.dumps(images)).reserve.labels.tolist() == images.reserve.labels.tolist()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"held_out": 1.5}, "a share held_out"),
        ({"seed": -1}, "a seed from 0 on"),
        ({"image_size": "32"}, "image_size must be another value"),
        ({"path": None}, "path must be another value"),
        ({"without": "nowhere.npy"}, "must hold the rows that are left out"),
    ],
)
def test_a_spec_is_checked(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    write_spec(StudySpec(OwnSpec(class_folders(tmp_path))), tmp_path / "spec.json")
    written = json.loads((tmp_path / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps(written | changed))
    with pytest.raises(UserError, match=told):
        load_dataset(DatasetSpec(f"own:{tmp_path / 'spec.json'}", store=tmp_path / "store"))


def test_rows_beyond_the_data_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "without.npy", np.array([TRAIN]))
    with pytest.raises(UserError, match="must hold rows below 24, got 24 to 24"):
        of_study(StudySpec(OwnSpec(class_folders(tmp_path)), tmp_path / "without.npy"), tmp_path)


def test_without_a_store_there_is_no_place_to_decode_into(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is decoded into files of a store"):
        load_dataset(DatasetSpec(f"own:{class_folders(tmp_path)}"))
    with pytest.raises(UserError, match="write --dataset own:PATH"):
        load_dataset(DatasetSpec("own"))
