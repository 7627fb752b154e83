"""Damaged and hostile files load, or are refused by one line of a `UserError`; nothing in them is executed."""

import io
import json
import pickle
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_formats import FORMATS, add_member, png, samples

from defenses.registry import UserError
from study.datasets.own.data import OwnData, OwnSpec
from study.datasets.own.reading import describe_own, read_own
from study.datasets.own.writing import write_subset

FUZZED = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
WAY_OUT = "numpy.savez"


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.mark), "w")


def read(path: Path, store: Path, **columns: str) -> OwnData | None:
    """What is read, or None where it is refused in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            describe_own(OwnSpec(path, **columns))
            data = read_own(OwnSpec(path, **columns), store, progress=False)
    except UserError as error:
        assert str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return None
    assert len(data.train.images) == len(data.train.labels) == len(data.train.ids)
    assert 0 <= data.train.labels.min() <= data.train.labels.max() < len(data.classes)
    return data


def refused(path: Path, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        read_own(OwnSpec(path), path.parent / "store")
    assert "\n" not in str(caught.value)
    assert WAY_OUT in str(caught.value)


def pickled_cifar(root: Path, trap: bytes) -> Path:
    (root / "data").mkdir()
    (root / "data" / "data_batch_1").write_bytes(trap)
    return root / "data"


def archive_of_pickles(root: Path, trap: bytes) -> Path:
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        add_member(archive, "cifar-10-batches-py/data_batch_1", trap)
    return root / "cifar-10-python.tar.gz"


def pickle_file(root: Path, trap: bytes) -> Path:
    (root / "data.pkl").write_bytes(trap)
    return root / "data.pkl"


def nameless_pickle(root: Path, trap: bytes) -> Path:
    (root / "train").write_bytes(trap)
    return root / "train"


def torch_pickle(root: Path, trap: bytes) -> Path:
    (root / "data.pt").write_bytes(trap)
    return root / "data.pt"


def object_npz(root: Path, trap: bytes) -> Path:
    objects = io.BytesIO()
    np.lib.format.write_array_header_1_0(objects, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile(root / "data.npz", "w") as archive:
        archive.writestr("x.npy", objects.getvalue() + trap)
        archive.writestr("y.npy", objects.getvalue() + trap)
    return root / "data.npz"


def object_npy(root: Path, trap: bytes) -> Path:
    with (root / "images.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        stream.write(trap)
    return root / "images.npy"


PICKLES = (pickled_cifar, archive_of_pickles, pickle_file, nameless_pickle, torch_pickle, object_npz, object_npy)


@pytest.mark.parametrize("make", PICKLES, ids=lambda make: make.__name__)
def test_pickles_are_refused_with_the_way_out(make: Callable[[Path, bytes], Path], tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    refused(make(tmp_path, pickle.dumps(Trap(mark))), "pickle")
    assert not mark.exists()


def test_a_torch_file_of_more_than_tensors_is_refused(tmp_path: Path) -> None:
    for number, held in enumerate(({"images": Trap(tmp_path / "executed")}, {"images": "x"}, [torch.zeros(2)], 3)):
        torch.save(held, tmp_path / f"{number}.pt")
        refused(tmp_path / f"{number}.pt", "must (hold plain|be a dict of) tensors")
    assert not (tmp_path / "executed").exists()


def test_names_in_archives_and_tables_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(next(samples("test"))[1])
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for number, content, label in samples("train"):
            add_member(archive, f"../../{number}.png", content)
            add_member(archive, f"../../{number}.cls", str(label).encode())
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(link)
    data = read(tmp_path / "data.tar", tmp_path / "store")
    assert data is not None
    assert [one.reason for one in data.left_out] == ["no plain file, but a link or a device"]
    write_subset(data, np.ones(24, dtype=np.bool_), tmp_path / "deep" / "er" / "cleaned", copy=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.tar", "deep", "secret.png", "store"]
    (tmp_path / "table").mkdir()
    lines = [json.dumps({"file_name": name, "label": 1}) for name in ("../secret.png", str(tmp_path / "secret.png"))]
    for number, content, label in samples("test"):
        (tmp_path / "table" / f"{number}.png").write_bytes(content)
        lines.append(json.dumps({"file_name": f"{number}.png", "label": label}))
    (tmp_path / "table" / "metadata.jsonl").write_text("\n".join(lines))
    data = read(tmp_path / "table", tmp_path / "store")
    assert data is not None
    assert len(data.train.ids) == 8
    assert all("is no path below the folder" in one.reason for one in data.left_out)
    assert len(data.left_out) == 2


def test_a_table_opens_no_file_that_a_row_names(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(next(samples("test"))[1])
    rows: list[dict[str, Any]] = [{"image": {"bytes": None, "path": str(secret)}, "label": 0}]
    rows += [{"image": {"bytes": content, "path": None}, "label": label} for _, content, label in samples("train")]
    rows.append({"image": None, "label": 1})
    rows.append({"image": {"bytes": b"", "path": None}, "label": None})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    data = read(tmp_path / "data.parquet", tmp_path / "store")
    assert data is not None
    assert {one.id: one.reason for one in data.left_out} == {
        "data.parquet:0": "its row holds no bytes, but the name of a file",
        "data.parquet:25": "its row holds no image",
        "data.parquet:26": "it has no label",
    }


def damaged(content: bytes, cuts: list[tuple[float, int]], length: float) -> bytes:
    """Some bytes changed, and the rest cut off."""
    changed = bytearray(content)
    for place, value in cuts:
        changed[min(len(changed) - 1, int(place * len(changed)))] = value
    return bytes(changed[: int(length * len(changed))])


DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)
LENGTH = st.one_of(st.just(1.0), st.floats(0, 1))
SINGLE = ("parquet_file", "plain_npz", "medmnist", "safetensors_file", "tensors", "webdataset", "packed_folder")
SINGLE += ("cifar_archive", "saved_to_disk", "npy_files", "cifar100")


@cache
def whole(name: str) -> dict[str, bytes]:
    """The files of a format."""
    with tempfile.TemporaryDirectory() as folder:
        path = FORMATS[name](Path(folder))
        root = path if path.is_dir() else path.parent
        files = sorted(root.rglob("*")) if path.is_dir() else [path]
        return {file.relative_to(root).as_posix(): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("name", SINGLE)
def test_a_damaged_file_is_no_traceback(name: str) -> None:
    @FUZZED
    @given(DAMAGE, LENGTH, st.integers(0, 100), st.booleans())
    def check(cuts: list[tuple[float, int]], length: float, which: int, headers: bool) -> None:
        files = whole(name)
        chosen = sorted(files)[which % len(files)]
        if headers:  # where all that matters lies
            cuts = [(place * 200 / len(files[chosen]), value) for place, value in cuts]
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            for file, content in files.items():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_bytes(damaged(content, cuts, length) if file == chosen else content)
            data = read(root / chosen if len(files) == 1 else root, Path(folder) / "store")
            if data is not None:
                with suppress(UserError):  # as of an array that is written and was not read
                    write_subset(data, data.train.labels >= 0, Path(folder) / "cleaned", copy=False)

    check()


@FUZZED
@given(DAMAGE, LENGTH, st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damaged_images_are_used_or_listed(cuts: list[tuple[float, int]], length: float, kind: str) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(stream, kind)
    with tempfile.TemporaryDirectory() as folder:
        for label in ("a", "b"):
            (Path(folder) / "data" / label).mkdir(parents=True)
            (Path(folder) / "data" / label / "1.png").write_bytes(png(np.zeros((16, 16, 3), dtype=np.uint8)))
        (Path(folder) / "data" / "a" / "2.png").write_bytes(damaged(stream.getvalue(), cuts, length))
        data = read(Path(folder) / "data", Path(folder) / "store")
        assert data is not None
        assert len(data.train.ids) + len(data.left_out) == 3


@FUZZED
@given(st.binary(max_size=400), st.sampled_from([".npz", ".npy", ".parquet", ".arrow", ".tar", ".safetensors", ".pt"]))
def test_any_bytes_are_refused(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"images{suffix}"
        path.write_bytes(content)
        assert read(path, Path(folder) / "store") is None
