"""Every format reads to the same samples, and a part of it, written and read again, is exactly that part."""

import csv
import hashlib
import tarfile
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
from numpy.typing import NDArray
from own_formats import FORMATS, NAMES, NUMBERED, TEST, TRAIN, WITHOUT_TEST, arrays, held, hub_folder, metadata_csv

from defenses.registry import UserError
from defenses.storage.array_file import ArrayFile
from study.attacks import parse_attack
from study.datasets.images import Images
from study.datasets.own.data import OwnData, OwnSpec
from study.datasets.own.reading import IMAGES as STAGE
from study.datasets.own.reading import describe_own, read_own
from study.datasets.own.writing import write_subset
from study.scenarios.poison import poison

KEPT = np.arange(TRAIN) % 5 != 1
IMAGES = arrays("train")[0]


def tree(root: Path) -> dict[str, tuple[str, int]]:
    """sha256 and time of last change of every file below a folder."""
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(params=list(FORMATS))
def read(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, OwnData]:
    (tmp_path / "input").mkdir()
    path = FORMATS[request.param](tmp_path / "input")
    return request.param, read_own(OwnSpec(path), tmp_path / "store")


def check_samples(name: str, data: OwnData) -> None:
    """The images are those of the dataset, each with its own label."""
    for split in ("train", "test"):
        part = data.train if split == "train" else data.test
        if part is None:
            continue
        images, labels = arrays(split)
        numbers = part.images[:, 0, 0, 0].astype(int) - (0 if split == "train" else 100)
        assert sorted(numbers.tolist()) == list(range(len(images)))
        assert np.array_equal(part.images, images[numbers])
        told = [data.classes[label] for label in part.labels]
        assert told == [str(labels[number]) if name in NUMBERED else NAMES[labels[number]] for number in numbers]
        assert len(set(part.ids)) == len(images)


def test_every_format_round_trips(read: tuple[str, OwnData], tmp_path: Path) -> None:
    name, data = read
    before = tree(tmp_path / "input")
    assert data.left_out == ()
    assert data.spec.image_size == 32
    assert data.spec.path.is_absolute()
    assert data.sizes == ((32, 32), (32, 32))
    assert (data.test is None) == (name in WITHOUT_TEST)
    check_samples(name, data)
    manifest = write_subset(data, KEPT, tmp_path / "cleaned", copy=name.startswith("c"))
    assert tree(tmp_path / "input") == before
    assert (manifest.kept, manifest.dropped, manifest.left_out) == (int(KEPT.sum()), int((~KEPT).sum()), 0)
    again = read_own(OwnSpec(manifest.data), tmp_path / "store")
    assert again.left_out == ()
    assert again.format == data.format
    assert again.classes == data.classes
    assert np.array_equal(again.train.images, data.train.images[KEPT])
    assert np.array_equal(again.train.labels, data.train.labels[KEPT])
    if data.test is not None:
        assert again.test is not None
        assert again.test.ids == data.test.ids
        assert np.array_equal(again.test.images, data.test.images)
    told = rows_of(manifest.path)
    assert [row["id"] for row in told if row["split"] == "train"] == list(data.train.ids)
    assert [row["kept"] == "yes" for row in told if row["split"] == "train"] == KEPT.tolist()
    assert all(row["kept"] == "yes" for row in told if row["split"] == "test")
    everything = write_subset(again, np.ones(KEPT.sum(), dtype=np.bool_), tmp_path / "second", copy=False)
    kept = [row["sha256"] for row in told if row["kept"] == "yes"]
    assert [row["sha256"] for row in rows_of(everything.path)] == kept


def test_a_look_tells_what_reading_gives(read: tuple[str, OwnData]) -> None:
    name, data = read
    look = describe_own(OwnSpec(data.spec.path))
    assert (look.format, look.classes, look.spec, look.sizes) == (data.format, data.classes, data.spec, data.sizes)
    assert look.train_counts == tuple(np.bincount(data.train.labels).tolist())
    assert look.test_counts == (None if name in WITHOUT_TEST else (TEST // 4,) * 4)


def test_what_is_beside_the_samples_is_kept(tmp_path: Path) -> None:
    for name in ("medmnist", "safetensors_file", "webdataset", "saved_to_disk", "hub_folder"):
        (tmp_path / name).mkdir()
        data = read_own(OwnSpec(FORMATS[name](tmp_path / name)), tmp_path / "store")
        written = write_subset(data, KEPT, tmp_path / f"{name} cleaned", copy=False).data
        if name == "medmnist":
            arrays_read = np.load(written)
            assert arrays_read["train_id"].tolist() == np.arange(TRAIN)[KEPT].tolist()
            assert arrays_read["val_images"].shape[0] == TEST
            assert arrays_read["train_labels"].dtype == np.uint8
        elif name == "safetensors_file":
            with safetensors.safe_open(written, framework="np") as file:
                assert file.metadata() == {"of": "somebody"}
                assert file.get_tensor("other").tolist() == [0, 1, 2]
        elif name == "webdataset":
            with tarfile.open(written) as archive:
                assert len(archive.getnames()) == 3 * KEPT.sum()
                assert archive.getmember("0000.png").mtime == 1_000_000
        elif name == "saved_to_disk":
            assert "f00" not in (written / "train" / "state.json").read_text()
            assert (written / "dataset_dict.json").is_file()
        else:
            shard = "data/train-00000-of-00002.parquet"
            before, after = pq.read_table(data.spec.path / shard), pq.read_table(written / shard)
            assert after.schema.equals(before.schema, check_metadata=True)
            assert after["note"].to_pylist() == [
                note for note, keep in zip(before["note"].to_pylist(), KEPT, strict=False) if keep
            ]


def test_a_table_of_file_names_keeps_its_columns(tmp_path: Path) -> None:
    data = read_own(OwnSpec(metadata_csv(tmp_path)), tmp_path / "store")
    written = write_subset(data, KEPT, tmp_path / "cleaned", copy=False).data
    rows = rows_of(written / "train" / "metadata.csv")
    assert [row["file_name"] for row in rows] == [f"{number}.png" for number in np.flatnonzero(KEPT)]
    assert {row["caption"] for row in rows} == {'says "a,b"\nand more'}
    assert data.format == "image folder with metadata.csv"


def test_a_second_read_opens_what_the_first_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub_folder(tmp_path)
    first = read_own(OwnSpec(path), tmp_path / "store")
    monkeypatch.setattr("study.datasets.own.reading.decode", None)
    second = read_own(OwnSpec(path), tmp_path / "store")
    assert second.fingerprint == first.fingerprint
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable


def write_table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "asked", "told"),
    [
        ({"a": [b"x"], "b": [b"x"], "label": [1]}, {}, "it may be a, b: name it with --image-column"),
        ({"image": [b"x"], "p": [1], "q": [1]}, {}, "it may be p, q: name it with --label-column"),
        ({"image": [1.5], "label": [1]}, {}, "none of image, label looks like it: name it with --image-column"),
        ({"image": [b"x"], "label": [1.5]}, {}, "none of image, label looks like it: name it with --label-column"),
        ({"image": [b"x"], "label": [1]}, {"image_column": "imag"}, "got 'imag': did you mean 'image'"),
        ({"image": [b"x"], "label": [1]}, {"image_column": "label"}, "must name a column of encoded images"),
        ({"image": [b"x"], "label": [1]}, {"label_column": "image"}, "must name a column of whole numbers or text"),
        ({"image": [b"x"], "label": [None]}, {"label_column": "label"}, "must name a column of whole numbers or text"),
    ],
)
def test_a_column_is_found_or_asked_for(
    columns: dict[str, object], asked: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        describe_own(OwnSpec(write_table(tmp_path / "data.parquet", **columns), **asked))


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"a": IMAGES}, "must hold images and labels, such as train_images and train_labels"),
        ({"x": IMAGES, "y": np.arange(23)}, "must be equally many, got 24 and 23"),
        ({"x": IMAGES, "y": np.eye(24)}, "save its argmax"),
        ({"x": IMAGES.reshape(24, -1), "y": np.arange(24)}, "x must be images"),
        ({"x": IMAGES - 128.0, "y": np.arange(24)}, "undo the normalisation"),
        ({"x": IMAGES / 170.0, "y": np.arange(24)}, "undo the normalisation"),
        ({"x": np.where(IMAGES[5, 0, 0, 0] == IMAGES, np.nan, IMAGES), "y": np.arange(24)}, "must hold finite levels"),
        ({"x": IMAGES, "y": np.arange(24), "classes": np.array(["a", "b"])}, "must be numbers of the 2 classes"),
    ],
)
def test_arrays_that_are_no_dataset_are_refused(named: dict[str, NDArray[Any]], told: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **named)
    with pytest.raises(UserError, match=told):
        read_own(OwnSpec(tmp_path / "data.npz"), tmp_path / "store")


@pytest.mark.parametrize(
    ("levels", "exact"),
    [
        (IMAGES.astype(np.int64), True),
        (IMAGES.astype(np.uint16) * 256, True),
        (IMAGES.astype(np.float64) / 255, True),
        (IMAGES.astype(np.float32), True),
        (np.asfortranarray(IMAGES), True),
        (IMAGES.transpose(0, 3, 1, 2), True),
        (np.concatenate([IMAGES, IMAGES[..., :1]], axis=3), True),
        (IMAGES > 128, False),
        (np.where(IMAGES.max() == IMAGES, 1.0005, IMAGES / 255), True),
        (np.where(IMAGES.min() == IMAGES, -0.1, IMAGES + 0.2).astype(np.float32), True),
    ],
    ids=[
        *[
            "int64",
            "uint16",
            "float64",
            "float32",
            "fortran",
            "channels_first",
            "alpha",
            "bool",
            "overshoot",
            "interpolated",
        ]
    ],
)
def test_levels_become_those_of_8_bits(levels: NDArray[Any], exact: bool, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=levels, labels=np.arange(24) % 2)
    data = read_own(OwnSpec(tmp_path / "data.npz"), tmp_path / "store")
    assert np.array_equal(data.train.images, IMAGES if exact else (IMAGES > 128) * 255)
    written = write_subset(data, KEPT, tmp_path / "cleaned", copy=False).data
    with np.load(written) as kept:
        assert kept["images"].dtype == levels.dtype
        assert np.array_equal(kept["images"], levels[KEPT])


def test_a_named_column_of_an_array_is_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", pictures=IMAGES, coarse=np.arange(24) % 2, fine=np.arange(24) % 3)
    data = read_own(OwnSpec(tmp_path / "data.npz", image_column="pictures", label_column="fine"), tmp_path / "store")
    assert data.classes == ("0", "1", "2")


def test_a_read_that_was_cut_short_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = hub_folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ArrayFile, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            read_own(OwnSpec(path), tmp_path / "store")
    (begun,) = (tmp_path / "store" / STAGE).iterdir()
    (begun / "dead-images-payload.npy").write_bytes(b"what a killed process leaves")
    check_samples("hub_folder", read_own(OwnSpec(path), tmp_path / "store"))
    assert sorted(file.suffix for file in begun.iterdir() if file.name != "lock") == [".json", ".json", ".npy", ".npy"]


@pytest.mark.parametrize(
    ("name", "attack"), list(zip(FORMATS, cycle(["badnets", "blended_random", "sig", "wanet"]), strict=False))
)
def test_a_poisoned_set_arrives_as_it_is(name: str, attack: str, tmp_path: Path) -> None:
    clean = Images.of(*arrays("train"), *arrays("test"), NAMES)
    suspect = poison(clean, parse_attack(attack), 0.25, 0, 0).suspect
    images, labels = np.asarray(suspect.images), np.asarray(suspect.labels)
    assert not np.array_equal(images, clean.train_images)
    with held(images, labels):
        path = FORMATS[name](tmp_path)
    data = read_own(OwnSpec(path), tmp_path / "store")
    assert len(data.train.ids) == len(images)
    told = {image.tobytes(): data.classes[label] for image, label in zip(*samples_of(data), strict=True)}
    assert told == {
        image.tobytes(): str(label) if name in NUMBERED else NAMES[label]
        for image, label in zip(images, labels.tolist(), strict=True)
    }


def samples_of(data: OwnData) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return data.train.images, data.train.labels


def test_labels_may_be_any_text(tmp_path: Path) -> None:
    labels = np.array(["\ud800", "a\nb", "7" * 5000, ""] * 6)
    np.savez(tmp_path / "data.npz", x=IMAGES, y=labels)
    data = read_own(OwnSpec(tmp_path / "data.npz"), tmp_path / "store")
    assert data.classes == ("\\ud800", "a\nb")
    assert {one.reason for one in data.left_out} == {"its label is a text of 5,000 characters", "it has no label"}
    assert len(data.left_out) == 12
    written = write_subset(data, np.ones(12, dtype=np.bool_), tmp_path / "cleaned", copy=False)
    assert read_own(OwnSpec(written.data), tmp_path / "store").fingerprint == data.fingerprint


def test_numbers_of_images_are_no_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((1200, 8, 8), dtype=np.uint8), y=np.arange(1200))
    with pytest.raises(UserError, match="1,200 different ones of 1,200 images in y: name another with --label-column"):
        describe_own(OwnSpec(tmp_path / "data.npz"))
