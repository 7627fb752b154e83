"""What the store gives back, what it refuses, and entries that are damaged or half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from defenses.storage import store as store_module
from defenses.storage.atomic_files import canonical
from defenses.storage.store import Store, build_digest

KEY = "0123abcd" * 8


def outputs() -> dict[str, Any]:
    return {
        "floats": np.arange(6, dtype=np.float64).reshape(2, 3),
        "mask": np.array([True, False, True]),
        "weights": {"a": torch.arange(4.0).view(2, 2), "n": torch.tensor(3)},
        "series": {"loss": [1.5, 0.1]},
        "sizes": [4, 8],
    }


def build_of(values: dict[str, Any], calls: list[int] | None = None) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        if calls is not None:
            calls.append(1)
        return values

    return build


def forbidden() -> dict[str, Any]:
    raise AssertionError("this entry must not be built")


# Round trips


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10, dtype=np.int64)[::-2],
        np.array([[True], [False]]),
        np.zeros((0, 3), dtype=np.uint8),
        np.array(2.5),
        np.array([0.0, -0.0, np.inf, -np.inf, np.nan]),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_arrays_come_back_as_they_were_and_read_only(store: Store, array: np.ndarray) -> None:
    artifact, hit = store.get_or_build("stage", KEY, build_of({"x": array}))
    back = artifact.load("x")
    assert not hit
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == np.ascontiguousarray(array).tobytes()
    assert not back.flags.writeable
    assert artifact.digests == {"x": build_digest(array)} == {"x": build_digest(back)}


def test_weights_and_json_come_back_as_they_were(store: Store) -> None:
    values = outputs()
    artifact, _ = store.get_or_build("stage", KEY, build_of(values), {"why": "a test"})
    weights = artifact.load("weights")
    assert set(weights) == {"a", "n"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in values["weights"].items())
    assert all(weights[name].dtype == tensor.dtype for name, tensor in values["weights"].items())
    assert artifact.load("series") == {"loss": [1.5, 0.1]}
    assert artifact.load("sizes") == [4, 8]
    assert json.loads((artifact.folder / "meta.json").read_text())["describe"] == {"why": "a test"}


def test_channels_last_weights_come_back(store: Store) -> None:
    tensor = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4).to(memory_format=torch.channels_last)
    artifact, _ = store.get_or_build("stage", KEY, build_of({"w": {"conv": tensor}}))
    assert torch.equal(artifact.load("w")["conv"], tensor)
    assert build_digest(artifact.load("w")) == build_digest({"conv": tensor.contiguous()})


def test_the_second_time_it_is_a_hit_in_this_process_and_in_the_next(store: Store) -> None:
    calls: list[int] = []
    first, hit = store.get_or_build("stage", KEY, build_of(outputs(), calls))
    assert not hit
    assert store.get_or_build("stage", KEY, forbidden) == (first, True)
    assert Store(store.root).get_or_build("stage", KEY, forbidden) == (first, True)
    assert calls == [1]
    assert 0 <= first.built_seconds < 5


def test_digests_tell_content_apart() -> None:
    a = np.arange(4, dtype=np.int64)
    variants = [a, a.astype(np.int32), a.reshape(2, 2), a[::-1], a.tolist(), {"a": torch.arange(4)}]
    variants += [{"b": torch.arange(4)}, {"a": torch.arange(4), "b": torch.arange(4)}, {"a": 1}, {"a": 1.5}, [], {}]
    digests = [build_digest(value) for value in variants]
    assert len(set(digests)) == len(digests)
    assert build_digest(a[::-1]) == build_digest(a[::-1].copy())  # layout in memory is not content
    assert build_digest({"x": 1, "y": 2}) == build_digest({"y": 2, "x": 1})
    assert canonical({"b": (1, 2), "a": None}) == '{"a":null,"b":[1,2]}'


# What is refused


@pytest.mark.parametrize("bad", ["..", "a/b", "../x", "", "A", "a.b", "a b", "a\n", "ä"])
def test_names_cannot_leave_the_store(store: Store, bad: str) -> None:
    for stage, key in ((bad, KEY), ("stage", bad)):
        with pytest.raises(ValueError, match="a-z, 0-9 and _ alone"):
            store.find(stage, key)
        with pytest.raises(ValueError, match="a-z, 0-9 and _ alone"):
            store.get_or_build(stage, key, forbidden)
    assert not store.root.exists()


@pytest.mark.parametrize(
    "value", [np.array([{"a": 1}], dtype=object), {"a": object()}, [float("nan")]], ids=["object", "json", "nan"]
)
def test_what_cannot_be_stored_safely_is_refused_and_not_found(store: Store, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        store.get_or_build("stage", KEY, build_of({"good": np.ones(3), "bad": value}))
    assert store.find("stage", KEY) is None
    artifact, hit = store.get_or_build("stage", KEY, build_of({"good": np.ones(2)}))
    assert not hit
    assert len(list(artifact.folder.glob("*payload*"))) == 1  # what the refused attempt left is gone


def test_a_pickled_array_in_a_payloads_place_is_not_loaded(store: Store) -> None:
    artifact, _ = store.get_or_build("stage", KEY, build_of({"x": np.ones(3)}))
    np.save(artifact.folder / artifact.files["x"], np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"[Oo]bject|pickle"):
        artifact.load("x")


def test_an_error_of_the_builder_is_passed_on_and_leaves_nothing(store: Store) -> None:
    def fails() -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.get_or_build("stage", KEY, fails)
    assert store.get_or_build("stage", KEY, build_of({"x": 1}))[1] is False  # and the lock is free again


# Entries that are not whole


def test_meta_is_written_last_and_without_it_nothing_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def dies(path: Path, text: str) -> None:
        names.extend(sorted(p.name for p in path.parent.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        store.get_or_build("stage", KEY, build_of(outputs()))
    assert sum("payload" in name for name in names) == 5  # all of the payload was there before
    monkeypatch.undo()
    assert store.find("stage", KEY) is None
    artifact, hit = store.get_or_build("stage", KEY, build_of(outputs()))
    assert not hit
    assert len(list(artifact.folder.glob("*payload*"))) == 5
    (artifact.folder / "meta.json").unlink()
    assert store.find("stage", KEY) is None
    assert Store(store.root).find("stage", KEY) is None


def spots(size: int) -> list[int]:
    return sorted({round(k * (size - 1) / 24) for k in range(25)})


def rebuilt(root: Path, path: Path, damaged: bytes, intact: bytes) -> None:
    """Damages a file; a new process's store must notice, build again, and find the new entry whole."""
    path.write_bytes(damaged)
    calls: list[int] = []
    fresh = Store(root)
    artifact, hit = fresh.get_or_build("stage", KEY, build_of(outputs(), calls))
    assert (hit, calls) == (False, [1]), f"{path.name} {len(damaged)} of {len(intact)} bytes"
    assert artifact.load("floats").tolist() == outputs()["floats"].tolist()
    assert artifact.load("series") == outputs()["series"]
    assert torch.equal(artifact.load("weights")["a"], outputs()["weights"]["a"])


@pytest.mark.parametrize("name", ["floats", "mask", "weights", "series", "sizes"])
def test_a_damaged_payload_is_built_again(store: Store, name: str) -> None:
    artifact, _ = store.get_or_build("stage", KEY, build_of(outputs()))
    size = (artifact.folder / artifact.files[name]).stat().st_size
    for position in spots(size):
        for truncate in (False, True):
            artifact = Store(store.root).find("stage", KEY)  # type: ignore[assignment]
            path = artifact.folder / artifact.files[name]
            whole = path.read_bytes()
            flipped = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
            rebuilt(store.root, path, whole[:position] if truncate else flipped, whole)


def test_a_missing_payload_is_built_again(store: Store) -> None:
    artifact, _ = store.get_or_build("stage", KEY, build_of(outputs()))
    (artifact.folder / artifact.files["mask"]).unlink()
    _, hit = Store(store.root).get_or_build("stage", KEY, build_of(outputs()))
    assert not hit


def test_a_truncated_meta_is_built_again(store: Store) -> None:
    artifact, _ = store.get_or_build("stage", KEY, build_of(outputs()))
    meta = artifact.folder / "meta.json"
    for step in range(25):
        whole = meta.read_bytes()
        position = spots(len(whole))[step]  # of this one: a rebuilt meta may be shorter, by the digits of its seconds
        rebuilt(store.root, meta, whole[:position], whole)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "7", '{"format": 1}', '{"format": 9}', '{"format": 1, "sha256": 3}']
)
def test_a_meta_of_another_shape_is_built_again(store: Store, text: str) -> None:
    artifact, _ = store.get_or_build("stage", KEY, build_of(outputs()))
    rebuilt(store.root, artifact.folder / "meta.json", text.encode(), b"")


def test_a_flipped_bit_among_the_checksums_is_built_again(store: Store) -> None:
    artifact, _ = store.get_or_build("stage", KEY, build_of(outputs()))
    meta = artifact.folder / "meta.json"
    for sha in list(json.loads(meta.read_text())["sha256"].values()):
        whole = meta.read_text()
        shas = json.loads(whole)["sha256"].values()
        sha = sha if sha in shas else next(iter(shas))  # a rebuilt payload may have other bytes
        rebuilt(store.root, meta, whole.replace(sha, sha[:10] + chr(ord(sha[10]) ^ 1) + sha[11:]).encode(), b"")


@pytest.mark.parametrize("field", ["digests", "files", "built_seconds"])
@pytest.mark.parametrize("part", ["name", "value"])
def test_a_flipped_bit_anywhere_in_meta_is_built_again(store: Store, field: str, part: str) -> None:
    # A flip in a value goes unnoticed, and with it a wrong digest into the keys of later stages. A flip in a name is
    # a KeyError, here or when an output is loaded, and stays one on every later run.
    artifact, _ = store.get_or_build("stage", KEY, build_of(outputs()), {"seed": 0})
    meta = artifact.folder / "meta.json"
    whole = meta.read_bytes()
    position = whole.index(f'"{field}"'.encode()) + 1
    if part == "value":
        position = next(i for i in range(position + len(field), len(whole)) if whole[i : i + 1].isdigit())
    rebuilt(store.root, meta, whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :], whole)


def test_two_stages_may_have_one_key(store: Store) -> None:
    store.get_or_build("first", KEY, build_of({"x": 1}))
    store.get_or_build("second", KEY, build_of({"x": 2}))
    assert [store.find(stage, KEY).load("x") for stage in ("first", "second")] == [1, 2]  # type: ignore[union-attr]


def test_a_reader_that_found_damage_leaves_the_entry_built_since(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, _ = store.get_or_build("stage", KEY, build_of(outputs()))
    rotten = artifact.folder / artifact.files["mask"]
    rotten.write_bytes(b"rotten")
    checksum = store_module._sha256

    def slow(path: Path) -> str:
        found = checksum(path)
        if path == rotten:  # right after this reader saw the damage, another process builds the entry again
            monkeypatch.undo()
            assert Store(store.root).get_or_build("stage", KEY, build_of(outputs()))[1] is False
        return found

    monkeypatch.setattr(store_module, "_sha256", slow)
    assert Store(store.root).find("stage", KEY) is None
    assert Store(store.root).find("stage", KEY) is not None
