"""A store behind a URL: nodes take from it what they lack, trust nothing that they find, and need it for nothing."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from defenses.registry import UserError
from defenses.storage.remote import META, Remote, cache_folder, is_url
from defenses.storage.store import Store, open_store

URL = "memory://bucket/store"
KEY = "ab" * 32


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty object storage in memory."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


def node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store as a node with a cache of its own sees it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return open_store(URL)


def outputs() -> dict[str, Any]:
    return {"values": np.arange(6.0), "facts": {"a": [1, 2]}}


def never() -> dict[str, Any]:
    raise AssertionError("it was built again")


def test_what_one_node_built_another_takes(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, hit = node(tmp_path / "a", monkeypatch).get_or_build("stage", KEY, outputs)
    assert not hit
    other = node(tmp_path / "b", monkeypatch)
    assert tmp_path / "b" in other.root.parents
    found, hit = other.get_or_build("stage", KEY, never)
    assert hit
    assert np.array_equal(found.load("values"), np.arange(6.0))
    assert found.load("facts") == {"a": [1, 2]}
    assert found.digests == first.digests
    bucket.store.clear()  # from now on its own copy is enough
    assert node(tmp_path / "b", monkeypatch).get_or_build("stage", KEY, never)[1]


@pytest.mark.parametrize("part", ["values", "facts", META])
def test_damage_in_the_bucket_is_found_and_built_over(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    node(tmp_path / "a", monkeypatch).get_or_build("stage", KEY, outputs)
    (path,) = [path for path in bucket.find("/bucket/store") if part in path]
    text = bytearray(bucket.cat_file(path))
    text[len(text) // 2] ^= 1
    bucket.pipe_file(path, bytes(text))
    with caplog.at_level(logging.WARNING):
        found, hit = node(tmp_path / "b", monkeypatch).get_or_build("stage", KEY, outputs)
    assert not hit
    assert "damaged in the remote store" in caplog.text
    assert np.array_equal(found.load("values"), np.arange(6.0))
    assert node(tmp_path / "c", monkeypatch).get_or_build("stage", KEY, never)[1]


def test_an_upload_that_was_cut_short_is_no_entry(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node(tmp_path / "a", monkeypatch).get_or_build("stage", KEY, outputs)
    bucket.rm_file(f"/bucket/store/stage/{KEY}/{META}")  # it is written last
    assert node(tmp_path / "b", monkeypatch).find("stage", KEY) is None


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", ".hidden", "a/b"])
def test_no_entry_reaches_outside_of_its_folder(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = node(tmp_path / "a", monkeypatch)
    bucket.pipe_file(f"/bucket/store/stage/{KEY}/{META}", json.dumps({"files": {"x": name}}).encode())
    bucket.pipe_file(f"/bucket/store/stage/{KEY}/{name}", b"evil")
    assert store.find("stage", KEY) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Broken(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A server that answers nothing."""

    protocol = "broken"

    def __getattribute__(self, name: str) -> Any:
        if name in ("exists", "cat_file", "put_file", "pipe_file", "makedirs", "get_file"):
            raise ConnectionError("no route to host\nand a long story")
        return super().__getattribute__(name)


def test_an_outage_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsspec.register_implementation("broken", Broken, clobber=True)
    store = Store(tmp_path, remote=Remote("broken://bucket"))
    with caplog.at_level(logging.WARNING):
        _, hit = store.get_or_build("stage", KEY, outputs)
    assert not hit
    assert store.get_or_build("stage", KEY, never)[1]
    assert "cannot be read from broken://bucket (no route to host)" in caplog.text
    assert "cannot be written to broken://bucket (no route to host)" in caplog.text
    with pytest.raises(UserError, match=r"must be writable: ConnectionError: no route to host$"):
        Remote("broken://bucket").check()


def test_a_place_is_tried_before_it_is_used(bucket: Any) -> None:
    Remote(URL).check()
    assert bucket.find("/bucket") == []  # and nothing is left there
    with pytest.raises(UserError, match="a store must be a folder or a URL that fsspec can open, got nothing://x"):
        Remote("nothing://x")


def test_urls_and_folders_are_told_apart() -> None:
    assert is_url("s3://bucket/store")
    assert not any(map(is_url, ["runs/store", "/runs/store", "C:/runs", "s3:/bucket", Path("runs"), None]))
    assert cache_folder("s3://a") != cache_folder("s3://b")
