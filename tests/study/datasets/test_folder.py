"""Folders of image files: what is taken, what is left out and told of, and in which order."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from defenses.registry import UserError
from study.datasets import DatasetSpec, load_dataset
from study.datasets.folder import sort_classes
from study.datasets.images import Images


def write(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 9), level).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with one picture each."""
    for split in ("train", "test"):
        for level, name in enumerate(("cat", "dog")):
            write(tmp_path / split / name / "1.png", 100 * (1 + level))
    return tmp_path


def load(root: Path) -> Images:
    return load_dataset(DatasetSpec(f"folder:{root}", image_size=8))


def test_hidden_entries_are_passed_over_at_every_depth(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = load(root).fingerprint
    for name in (".ipynb_checkpoints/1.png", "cat/.ipynb_checkpoints/1-checkpoint.png", "cat/._1.png", ".DS_Store.png"):
        write(root / "train" / name)
    assert load(root).fingerprint == before
    assert not caplog.messages


def test_what_is_left_out_is_counted_aloud(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = load(root).fingerprint
    for name in ("2.gif", "3.gif", "4.jfif", "5"):
        write(root / "train" / "cat" / "more.png")
        (root / "train" / "cat" / "more.png").rename(root / "train" / "cat" / name)
    (root / "train" / "notes.txt").write_text("")
    assert load(root).fingerprint == before
    (message,) = caplog.messages
    assert "train: 5 of 7 entries are left out: 2 .gif, 1 .txt, 1 .jfif, 1 without a suffix; pictures" in message


def test_a_class_with_other_files_alone_is_refused_with_their_number(root: Path) -> None:
    (root / "train" / "cat" / "1.png").rename(root / "train" / "cat" / "1.gif")
    with pytest.raises(UserError, match=r"cat has no file that ends in \.jpg, .*, but 1 \.gif; remove the folder, or"):
        load(root)


def test_a_link_back_is_told_of_and_not_followed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "train" / "cat" / "deeper").mkdir()
    (root / "train" / "cat" / "deeper" / "back").symlink_to(root / "train" / "cat")
    (root / "train" / "cat" / "deeper" / "aside").symlink_to(root / "train" / "dog")
    assert load(root).train_labels.tolist() == [0, 0, 1]  # a link to elsewhere is followed, as ever
    assert "train: 1 of 4 entries are left out" in caplog.text


def test_a_pipe_is_no_picture_and_a_broken_link_is_refused(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(root / "train" / "cat" / "2.png")
    assert len(load(root).train_labels) == 2
    assert "1 of 3 entries are left out" in caplog.text
    (root / "train" / "cat" / "3.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"cat/3\.png must be a readable image"):
        load(root)


def test_several_frames_are_told_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    pages = [Image.new("L", (9, 9), level) for level in (7, 8)]
    pages[0].save(root / "train" / "cat" / "1.tiff", save_all=True, append_images=pages[1:])
    images = load(root)
    assert images.train_images[:, 0, 0, 0].tolist() == [100, 7, 200]
    assert "1 pictures hold several frames or pages: the first of each is taken" in caplog.text


def test_12_bits_in_16_are_told_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.full((9, 9), 4095, np.uint16)).save(root / "train" / "cat" / "2.png")
    load(root)
    assert "no picture of 16 bits is brighter than 1/16 of white" in caplog.text


def test_classes_that_are_numbers_sort_as_numbers() -> None:
    assert sort_classes(map(str, range(12))) == tuple(map(str, range(12)))
    assert sort_classes(["10", "9", "1", "01"]) == ("01", "1", "9", "10")
    assert sort_classes(["10", "9", "b"]) == ("10", "9", "b")  # as text, as ever
    assert sort_classes(["²", "10", "9"]) == ("10", "9", "²")


def test_a_folder_of_numbers_has_them_as_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(12):
            write(tmp_path / split / str(number) / "1.png", number)
    images = load(tmp_path)
    assert images.train_images[:, 0, 0, 0].tolist() == images.train_labels.tolist() == list(range(12))
    assert images.classes == tuple(map(str, range(12)))
