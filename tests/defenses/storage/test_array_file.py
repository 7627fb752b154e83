"""Arrays that are written to their file piece by piece, and copies of maps that hold what was changed alone."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from defenses.storage import store as store_module
from defenses.storage.array_file import ArrayFile, with_rows
from defenses.storage.store import Store


@pytest.mark.parametrize("shape", [(7, 3, 2), (0, 3), (5,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_it_is_the_file_that_numpy_writes(shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    file = ArrayFile(tmp_path / "a.npy", shape, dtype)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda row: file.write(row, array[row : row + 2]), range(0, shape[0], 2)))
    file.close()
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    np.testing.assert_array_equal(file.read(), array)
    assert not file.read().flags.writeable


def test_rows_that_do_not_belong_there_are_refused(tmp_path: Path) -> None:
    file = ArrayFile(tmp_path / "a.npy", (4, 2), np.uint8)
    for row, values in ((3, np.zeros((2, 2), np.uint8)), (0, np.zeros((1, 3), np.uint8)), (0, np.zeros((1, 2)))):
        with pytest.raises(ValueError, match=r"rows of uint8 \(4, 2\) were given"):
            file.write(row, values)
    file.remove()
    assert not (tmp_path / "a.npy").exists()


def test_a_file_without_room_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        ArrayFile(tmp_path / "a.npy", (4, 2), np.uint8)
    assert not list(tmp_path.iterdir())


def test_a_changed_copy_of_a_map_leaves_the_file_alone(tmp_path: Path) -> None:
    array = np.arange(60_000, dtype=np.uint8).reshape(20, 3000)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    rows = np.array([3, 17])
    changed = with_rows(mapped, rows)
    changed[rows] = 0
    expected = array.copy()
    expected[rows] = 0
    np.testing.assert_array_equal(changed, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    assert with_rows(mapped, rows[:0]) is mapped


def test_a_changed_copy_of_other_arrays_is_a_copy(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(6, 4)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for plain in (array, mapped[2:], mapped[::2], np.asarray(mapped)):
        before = np.array(plain)
        changed = with_rows(plain, np.array([0]))
        changed[0] = 9
        np.testing.assert_array_equal(changed[1:], before[1:])
        np.testing.assert_array_equal(plain, before)


def build(store: Store) -> dict[str, object]:
    file = store.array_file("stage", "k", "rows", (3, 2), np.uint8)
    file.write(0, np.ones((3, 2), np.uint8))
    return {"rows": file, "other": [1]}


def test_a_store_takes_a_file_as_it_takes_the_array(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    by_file, _ = first.get_or_build("stage", "k", lambda: build(first))
    by_array, _ = second.get_or_build("stage", "k", lambda: {"rows": np.ones((3, 2), np.uint8), "other": [1]})
    assert by_file.digests == by_array.digests
    np.testing.assert_array_equal(by_file.load("rows"), 1)


def test_a_build_that_fails_leaves_no_file(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail() -> dict[str, object]:
        build(store)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_build("stage", "k", fail)
    assert not list(tmp_path.rglob("*payload*"))


def test_a_large_file_is_read_again_only_where_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = store_module._sha256
    monkeypatch.setattr(store_module, "LARGE_BYTES", 100)
    monkeypatch.setattr(store_module, "_sha256", lambda path: read.append(path.name) or plain(path))
    store = Store(tmp_path)
    store.get_or_build("stage", "k", lambda: build(store))
    read.clear()
    assert Store(tmp_path).find("stage", "k") is not None
    assert [name.split("-")[1] for name in read] == ["other"]
    (file,) = tmp_path.rglob("*rows-payload.npy")
    os.utime(file, (1, 1))
    assert Store(tmp_path).find("stage", "k") is not None  # it was read, and is whole
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert Store(tmp_path).find("stage", "k") is None
