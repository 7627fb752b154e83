"""Datasets: read as they are written, checked, and cut to class-balanced sizes."""

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from defenses.registry import UserError
from study.datasets import DatasetSpec, balanced_subset, load_dataset
from study.datasets.images import Images

# --- digits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_dataset(DatasetSpec("digits"))


def test_digits_have_the_documented_shapes(digits: Images) -> None:
    assert digits.train_images.shape == (1437, 32, 32, 3)
    assert digits.test_images.shape == (360, 32, 32, 3)
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int64
    assert digits.classes == tuple("0123456789")
    assert (digits.num_classes, digits.image_size) == (10, 32)
    counts = np.array(
        [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )  # a class, of both splits; a fifth is for test
    assert np.abs(np.bincount(digits.test_labels) - counts / 5).max() <= 1


def test_digits_are_grey_squares_of_four_pixels_over_the_whole_range(digits: Images) -> None:
    blocks = digits.train_images.reshape(-1, 8, 4, 8, 4, 3)
    assert (blocks == blocks[:, :, :1, :, :1, :1]).all()
    levels = np.unique(digits.train_images).tolist()
    assert levels == [int(255 * level / 16 + 0.5) for level in range(17)]  # 16 grey levels; no product ends in .5


def test_digits_of_both_splits_are_all_digits_once(digits: Images) -> None:
    from sklearn.datasets import load_digits

    small = np.concatenate([digits.train_images, digits.test_images])[:, ::4, ::4, 0].reshape(-1, 64)
    labels, theirs = np.concatenate([digits.train_labels, digits.test_labels]), load_digits()
    ours = np.column_stack([np.rint(small / 255 * 16).astype(int), labels])
    expected = np.column_stack([theirs.data.astype(int), theirs.target])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], expected[np.lexsort(expected.T)])


def test_digits_are_the_same_every_time(digits: Images) -> None:
    assert load_dataset(DatasetSpec("digits")).fingerprint == digits.fingerprint


# --- npz --------------------------------------------------------------------------------------------------------------

Arrays = dict[str, Any]


def arrays_of(images: Images) -> Arrays:
    return {name: getattr(images, name) for name in ("train_images", "train_labels", "test_images", "test_labels")}


def load_npz(folder: Path, arrays: Arrays) -> Images:
    np.savez(folder / "data.npz", **arrays)
    return load_dataset(DatasetSpec(f"npz:{folder / 'data.npz'}"))


def test_npz_is_read_as_it_was_written(tmp_path: Path, images: Images) -> None:
    found = load_npz(tmp_path, arrays_of(images))
    for name, array in arrays_of(images).items():
        np.testing.assert_array_equal(getattr(found, name), array)
    assert found.classes == ("0", "1", "2", "3")
    assert found.fingerprint == images.fingerprint
    names = np.array(["cat", "dog", "cow", "pig", "yak"])  # one more than the labels use
    assert load_npz(tmp_path, arrays_of(images) | {"classes": names}).classes == tuple(names.tolist())


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1)])
def test_npz_may_be_gray(tmp_path: Path, images: Images, shape: tuple[int, ...]) -> None:
    gray = {name: getattr(images, name)[..., 0].reshape(-1, *shape) for name in ("train_images", "test_images")}
    found = load_npz(tmp_path, arrays_of(images) | gray)
    assert found.train_images.shape == (128, 16, 16, 3)
    for channel in range(3):
        np.testing.assert_array_equal(found.train_images[..., channel], images.train_images[..., 0])
        np.testing.assert_array_equal(found.test_images[..., channel], images.test_images[..., 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_npz_labels_may_be_columns_of_any_integer(tmp_path: Path, images: Images, dtype: type) -> None:
    columns = {name: getattr(images, name).astype(dtype)[:, None] for name in ("train_labels", "test_labels")}
    found = load_npz(tmp_path, arrays_of(images) | columns)
    assert found.train_labels.dtype == np.int64
    assert found.fingerprint == images.fingerprint


BAD_ARRAYS: list[tuple[Callable[[Arrays], Arrays], str]] = [
    (lambda a: {"train_images": a["train_images"] / 255}, r"train_images must be uint8 in \[0, 255\], got float64"),
    (lambda a: {"train_images": a["train_images"].astype(object)}, r"plain arrays, no Python objects"),
    (lambda a: {"train_labels": a["train_labels"].astype(float)}, r"train_labels must be integers, got float64"),
    (lambda a: {"test_labels": a["test_labels"].astype(str)}, r"test_labels must be integers, got <U21"),
    (lambda a: {"train_labels": a["train_labels"][:5]}, r"train images and labels must be equally many, got 128 and 5"),
    (lambda a: {"test_images": a["test_images"][:5]}, r"test images and labels must be equally many, got 5 and 64"),
    (lambda a: {"train_labels": np.eye(128, dtype=int)}, r"train_labels must have the shape .* got \[128, 128\]"),
    (lambda a: {"train_images": a["train_images"][:, :10]}, r"train images must be square .* got \(10, 16\)"),
    (lambda a: {"train_images": a["train_images"][:, :4, :4]}, r"at least 8 px, got \(4, 4\)"),
    (lambda a: {"train_images": a["train_images"][:, :8, :8]}, r"one size, got \(8, 8\) and \(16, 16\)"),
    (lambda a: {"train_images": a["train_images"][..., :2]}, r"uint8 \[N, H, W, 3\], got uint8 \[128, 16, 16, 2\]"),
    (lambda a: {"train_images": a["train_images"][0, 0]}, r"uint8 \[N, H, W, 3\], got uint8 \[16, 3\]"),
    (lambda a: {"train_labels": a["train_labels"] - 1}, r"train labels must lie in \[0, 4\) .* got -1 to 2"),
    (lambda a: {"classes": np.array(["a", "b", "c"])}, r"train labels must lie in \[0, 3\) .* got 0 to 3"),
    (lambda a: {"train_labels": a["train_labels"] * 0, "test_labels": a["test_labels"] * 0}, r"at least 2 classes"),
    (lambda a: {name: array[:0] for name, array in a.items()}, r"there must be train images, got none"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ARRAYS, ids=[message for _, message in BAD_ARRAYS])
def test_npz_with_bad_arrays_is_refused(
    tmp_path: Path, images: Images, change: Callable[[Arrays], Arrays], message: str
) -> None:
    arrays = arrays_of(images)
    with pytest.raises(UserError, match=message):
        load_npz(tmp_path, arrays | change(arrays))


def test_npz_without_a_key_says_what_it_has(tmp_path: Path, images: Images) -> None:
    arrays = arrays_of(images)
    del arrays["test_labels"]
    with pytest.raises(UserError, match=r"test_labels is missing \(it holds train_images, train_labels, test_images\)"):
        load_npz(tmp_path, arrays)


# numpy.load leaves a file open that begins as a zip and is none; Python says so when the file is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("content", [b"", b"not an npz", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.npz must (be an npz file|hold plain arrays)"):
        load_dataset(DatasetSpec(f"npz:{tmp_path / 'data.npz'}"))


def test_a_damaged_npz_is_refused(tmp_path: Path, images: Images) -> None:
    load_npz(tmp_path, arrays_of(images))
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[5000] ^= 255  # a pixel of the training images
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"must be an npz file .* Bad CRC"):
        load_dataset(DatasetSpec(f"npz:{tmp_path / 'data.npz'}"))


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(UserError, match="must be an npz file"):
        load_dataset(DatasetSpec(f"npz:{tmp_path / 'data.npz'}"))


@pytest.mark.parametrize("path", ["none.npz", "."])
def test_a_missing_npz_is_refused_by_its_full_path(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match="there must be a file at") as error:
        load_dataset(DatasetSpec(f"npz:{tmp_path / path}"))
    assert str((tmp_path / path).resolve()) in str(error.value)


# --- folders ----------------------------------------------------------------------------------------------------------

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def write_folder(root: Path) -> str:
    """Three training images and one test image a class, each of one colour and of its own size and mode."""
    for split, sizes in (("train", [(40, 50), (8, 8), (33, 16)]), ("test", [(20, 20)])):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number, size in enumerate(sizes):
                mode = "RGBA" if number == 1 else "RGB"
                Image.new("RGB", size, colour).convert(mode).save(root / split / name / f"{number}.png")
    return f"folder:{root}"


def test_folder_images_are_resized_in_the_order_of_classes_and_names(tmp_path: Path) -> None:
    name = write_folder(tmp_path)
    Image.new("L", (12, 12), 7).save(tmp_path / "train" / "red" / "3.png")  # grey, and unequal classes
    (tmp_path / "train" / "red" / "notes.txt").write_text("not an image, and not taken for one")
    found = load_dataset(DatasetSpec(name, image_size=24))
    assert found.classes == ("blue", "red")
    assert found.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert found.test_labels.tolist() == [0, 1]
    assert (found.train_images.shape, found.train_images.dtype) == ((7, 24, 24, 3), np.uint8)
    assert found.test_images.shape == (2, 24, 24, 3)
    for image, colour in zip(found.train_images, [(0, 0, 255)] * 3 + [(255, 0, 0)] * 3 + [(7, 7, 7)], strict=True):
        assert (image == colour).all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_without_a_split_is_refused(tmp_path: Path, split: str) -> None:
    name = write_folder(tmp_path)
    (tmp_path / split).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"there must be a folder .*{split} with one folder a class"):
        load_dataset(DatasetSpec(name))


def test_a_split_with_other_classes_is_refused(tmp_path: Path) -> None:
    name = write_folder(tmp_path)
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "green")
    with pytest.raises(UserError, match=r"must have the same classes; only one of them has \['green', 'red'\]"):
        load_dataset(DatasetSpec(name))


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    name = write_folder(tmp_path)
    (tmp_path / "train" / "yellow").mkdir()
    with pytest.raises(UserError, match=r"must hold one folder of images a class: .*yellow"):
        load_dataset(DatasetSpec(name))


@pytest.mark.parametrize("kept", [0, 40])
def test_an_unreadable_image_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    name, path = write_folder(tmp_path), tmp_path / "train" / "red" / "1.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"red/1\.png must be a readable image"):
        load_dataset(DatasetSpec(name))


# --- CIFAR ------------------------------------------------------------------------------------------------------------


def record(header: list[int], image: NDArray[np.uint8]) -> bytes:
    """One record of the binary version: the labels, then the red, the green and the blue plane, row by row."""
    return bytes(header) + b"".join(image[:, :, channel].tobytes() for channel in range(3))


def write_cifar10(folder: Path) -> NDArray[np.uint8]:
    """Five training files of two images and a test file of two; image i has the label i % 10."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    where = folder / "cifar-10-batches-bin"
    where.mkdir(parents=True)
    for number in range(6):
        file = where / (f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin")
        file.write_bytes(b"".join(record([i % 10], pixels[i]) for i in (2 * number, 2 * number + 1)))
    (where / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")  # ends as the real one
    return pixels


def test_cifar10_is_read_from_its_records(tmp_path: Path) -> None:
    pixels = write_cifar10(tmp_path)
    found = load_dataset(DatasetSpec("cifar10", data_dir=tmp_path))
    np.testing.assert_array_equal(found.train_images, pixels[:10])
    np.testing.assert_array_equal(found.test_images, pixels[10:])
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == (list(range(10)), [0, 1])
    assert found.train_labels.dtype == np.int64
    assert found.classes == tuple(f"class{i}" for i in range(10))


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    where = tmp_path / "cifar-100-binary"
    where.mkdir()
    (where / "train.bin").write_bytes(record([19, 99], pixels[0]) + record([3, 0], pixels[1]))  # coarse, then fine
    (where / "test.bin").write_bytes(record([7, 42], pixels[2]))
    (where / "fine_label_names.txt").write_text("\n".join(f"fine_{i}" for i in range(100)))
    found = load_dataset(DatasetSpec("cifar100", data_dir=tmp_path))
    np.testing.assert_array_equal(found.train_images, pixels[:2])
    np.testing.assert_array_equal(found.test_images, pixels[2:])
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([99, 0], [42])
    assert found.num_classes == 100


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_not_downloaded_unasked(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="add --download") as error:
        load_dataset(DatasetSpec(name, data_dir=tmp_path))
    assert str(tmp_path.resolve() / name.replace("cifar", "cifar-")) in str(error.value)


@pytest.mark.parametrize("kept", [0, 3072])  # one byte less than a record
def test_a_truncated_cifar_file_is_refused(tmp_path: Path, kept: int) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-bin/data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"data_batch_3\.bin must hold records of 3073 bytes, got {kept} bytes"):
        load_dataset(DatasetSpec("cifar10", data_dir=tmp_path))


def test_a_missing_cifar_file_is_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin"):
        load_dataset(DatasetSpec("cifar10", data_dir=tmp_path))


DOWNLOAD = "torchvision.datasets.utils.download_and_extract_archive"


def test_cifar_is_downloaded_when_asked_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(DOWNLOAD, lambda url, root, md5: (calls.append((url, md5)), write_cifar10(Path(root))))
    spec = DatasetSpec("cifar10", data_dir=tmp_path / "new", download=True)
    assert load_dataset(spec).fingerprint == load_dataset(spec).fingerprint  # the second finds it there
    # as published at https://www.cs.toronto.edu/~kriz/cifar.html
    assert calls == [("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")]


@pytest.mark.parametrize("failure", [urllib.error.URLError("no network"), RuntimeError("File not found or corrupted.")])
def test_a_failed_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: str, **__: str) -> None:
        raise failure

    monkeypatch.setattr(DOWNLOAD, fail)
    with pytest.raises(UserError, match="cifar-10-binary"):
        load_dataset(DatasetSpec("cifar10", data_dir=tmp_path, download=True))


# --- names and subsets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "near"), [("cifar_10", "cifar10"), ("digit", "digits"), ("foldr:/tmp", "folder")])
def test_an_unknown_dataset_suggests_a_near_name(name: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"^unknown dataset '{name.partition(':')[0]}': did you mean '{near}'\?"):
        load_dataset(DatasetSpec(name))


@pytest.mark.parametrize("name", ["npz", "npz:", "folder", "folder:"])
def test_a_dataset_of_files_needs_a_path(name: str) -> None:
    with pytest.raises(UserError, match=rf"needs a path: write --dataset {name.rstrip(':')}:PATH"):
        load_dataset(DatasetSpec(name))


@pytest.mark.parametrize("name", ["digits:x.npz", "digits:", "cifar10:/data"])
def test_a_path_after_a_dataset_that_has_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"takes nothing after its name, got '{name}': write --dataset \w+$"):
        load_dataset(DatasetSpec(name))


def subset(labels: NDArray[np.int64], size: int | None, split: str = "train") -> NDArray[np.int64]:
    return np.arange(len(labels))[balanced_subset(labels, size, int(labels.max()) + 1, split)]


def test_subset_gives_the_first_classes_one_more_and_keeps_the_order() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 20))
    found = subset(labels, 11)
    assert np.bincount(labels[found]).tolist() == [4, 4, 3]
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, subset(labels, 11))
    everything = subset(labels[:50], 50)  # of unequal classes
    assert everything.tolist() == subset(labels[:50], None).tolist() == list(range(50))
    assert found.tolist() != subset(labels, 11, "test").tolist()  # each split is drawn on its own


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=2, max_size=6), data=st.data())
def test_subset_is_balanced(counts: list[int], data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)[::-1]
    size = data.draw(st.integers(len(counts), len(counts) * min(counts)))
    of_class = np.bincount(labels[subset(labels, size)], minlength=len(counts))
    assert of_class.sum() == size
    assert of_class.max() - of_class.min() <= 1


@pytest.mark.parametrize("size", [0, 2, 61, -5])
def test_subset_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=rf"--test-size must lie between .* 3, and .* 60, got {size}$"):
        subset(np.arange(60) % 3, size, "test")


def test_subset_that_a_class_is_too_small_for_is_refused() -> None:
    labels = np.repeat([0, 1], [10, 3])
    with pytest.raises(UserError, match=r"of 8 needs 4 images of class 1, which has 3: choose at most 6"):
        subset(labels, 8)
    assert len(subset(labels, 6)) == 6


def test_the_size_that_is_advised_works() -> None:
    labels = np.repeat([0, 1, 2], [3, 1, 10])
    with pytest.raises(UserError) as error:
        subset(labels, 12)
    assert len(subset(labels, int(str(error.value).split()[-1]))) >= 3


def test_a_class_without_images_has_no_balanced_subset() -> None:
    with pytest.raises(UserError, match=r"class 1, which has 0: leave --train-size out$"):
        subset(np.repeat([0, 2], [5, 5]), 4)


def test_a_dataset_is_cut_to_size(digits: Images) -> None:
    found = load_dataset(DatasetSpec("digits", train_size=105, test_size=50))
    assert np.bincount(found.train_labels).tolist() == [11] * 5 + [10] * 5
    assert np.bincount(found.test_labels).tolist() == [5] * 10
    assert found.fingerprint != digits.fingerprint
    where = subset(digits.train_labels, 105)
    np.testing.assert_array_equal(found.train_images, digits.train_images[where])
    np.testing.assert_array_equal(found.train_labels, digits.train_labels[where])


def test_the_fingerprint_depends_on_every_array(images: Images) -> None:
    prints = {images.fingerprint}
    for name, array in arrays_of(images).items():
        changed = array.copy()
        changed.flat[0] ^= 1
        prints.add(Images.of(**(arrays_of(images) | {name: changed}), classes=images.classes).fingerprint)
    assert len(prints) == 5
