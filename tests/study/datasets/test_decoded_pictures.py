"""A folder's pictures in the store: decoded once, only those that are taken, and never in memory as a whole."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from checkout import PYTHONPATH
from PIL import Image

from defenses.registry import UserError
from defenses.storage.atomic_files import DiskFull
from defenses.storage.store import Store
from study.attacks import parse_attack
from study.datasets import DatasetSpec, load_dataset, pictures
from study.datasets.images import Images
from study.scenarios.poison import poison
from study.scenarios.scenario import Scenario
from study.scenarios.stored_poison import stored_poison

EACH = 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of six training and six test pictures, no two alike."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("ape", "bee", "cow"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(EACH):
                Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def spec(root: Path, store: str | None = "store", **options: Any) -> DatasetSpec:
    place = None if store is None else root / store
    return DatasetSpec(f"folder:{root / 'set'}", image_size=16, store=place, **options)


def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each later call decodes."""
    counts: list[int] = []
    plain = pictures.decode

    def counted(name: str, files: Any, size: int, write: Any) -> list[str]:
        counts.append(len(files))
        return plain(name, files, size, write)

    monkeypatch.setattr(pictures, "decode", counted)
    return counts


def same(left: Images, right: Images) -> None:
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert (left.fingerprint, left.classes) == (right.fingerprint, right.classes)
    assert (left.reserve is None) == (right.reserve is None)
    if left.reserve is not None and right.reserve is not None:
        assert left.reserve.fingerprint == right.reserve.fingerprint


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"train_size": 9},
    {"train_size": 9, "test_size": 6, "reserve": 6},
    {"reserve": 3},
)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_store_changes_no_byte(options: dict[str, Any], root: Path) -> None:
    stored = load_dataset(spec(root, **options))
    same(stored, load_dataset(spec(root, None, **options)))
    same(stored, load_dataset(spec(root, **options)))
    for images in (stored.train_images, stored.test_images):
        assert isinstance(images, np.memmap)
        assert not images.flags.writeable


def test_pictures_are_decoded_once_and_those_that_are_taken_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = decodes(monkeypatch)
    load_dataset(spec(root, train_size=9, reserve=3))
    assert counts == [9, 15, 3]
    load_dataset(spec(root, train_size=9, reserve=3))
    assert counts == [9, 15, 3]
    load_dataset(spec(root, train_size=9))
    assert counts == [9, 15, 3, 18]  # the training images are those from before


def test_what_changed_is_decoded_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_dataset(spec(root))
    counts = decodes(monkeypatch)
    changed = root / "set" / "test" / "bee" / "3.png"
    Image.new("RGB", (12, 10), "red").save(changed)
    after = load_dataset(spec(root))
    assert counts == [18]
    assert after.fingerprint != before.fingerprint
    assert after.test_images[9].tolist() == [[[255, 0, 0]] * 16] * 16
    (root / "set" / "train" / "ape" / "0.png").rename(root / "set" / "train" / "ape" / "9.png")
    load_dataset(spec(root))
    assert counts == [18, 18]
    os.utime(changed, (0, 0))
    assert load_dataset(spec(root)).test_fingerprint == after.test_fingerprint
    assert counts == [18, 18, 18]


def test_remarks_are_made_on_later_runs_too(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(root / "set" / "train" / "ape" / "0.tif", save_all=True, append_images=frames[1:])
    for _ in range(2):
        load_dataset(spec(root))
    messages = [message for message in caplog.messages if "several frames" in message]
    assert len(messages) == 2
    assert "train: 1 pictures hold" in messages[0]


def test_other_processes_are_handed_keys_and_no_images(root: Path) -> None:
    images = load_dataset(spec(root, reserve=3))
    handed = pickle.dumps(images)
    assert len(handed) < 1000
    got = pickle.loads(handed)
    same(got, images)
    assert isinstance(got.train_images, np.memmap)
    assert pickle.dumps(got) == handed
    shutil.rmtree(root / "store")
    with pytest.raises(UserError, match="must hold the decoded images, and they are gone: start the command again"):
        pickle.loads(handed)


def test_images_in_memory_are_handed_on_whole(root: Path) -> None:
    images = load_dataset(spec(root, None))
    same(pickle.loads(pickle.dumps(images)), images)


@pytest.mark.parametrize("attack", ["badnets", "sig", "clean", "adaptive_blend:tiles=4:dropped=2"])
def test_poisoned_images_are_the_same_in_memory_and_mapped(attack: str, root: Path) -> None:
    mapped, plain = load_dataset(spec(root)), load_dataset(spec(root, None))
    scenario = Scenario(attack, 0.3 if attack != "clean" else 0.0, 0, 0)
    stored, _ = stored_poison(scenario, mapped, Store(root / "store"))
    fresh = poison(plain, parse_attack(attack), scenario.poison_rate, 0, 0)
    np.testing.assert_array_equal(stored.suspect.images, fresh.suspect.images)
    np.testing.assert_array_equal(stored.triggered_images, fresh.triggered_images)
    assert stored.suspect.fingerprint == fresh.suspect.fingerprint
    np.testing.assert_array_equal(mapped.train_images, plain.train_images)  # the file is as it was


def test_a_picture_that_cannot_be_read_leaves_nothing_behind(root: Path) -> None:
    (root / "set" / "train" / "cow" / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cow/2.png must be a readable image: .*; remove or mend it"):
        load_dataset(spec(root))
    assert not list((root / "store").rglob("*payload*"))


def test_what_a_killed_decoder_left_is_removed(root: Path) -> None:
    first = load_dataset(spec(root))
    for meta in (root / "store" / pictures.DECODED).glob("*/meta.json"):
        meta.unlink()  # as if it had been killed before the end
    same(load_dataset(spec(root)), first)
    assert len(list((root / "store" / pictures.DECODED).rglob("*images-payload.npy"))) == 2


def test_a_disk_without_room_is_told_of_before_anything_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    counts = decodes(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(400_000_000))
    with pytest.raises(UserError, match=r"18 images of 16 px take 0.0 GB of disk, and .* has 0.4 GB free: free"):
        load_dataset(spec(root))
    assert counts == []


def test_a_disk_that_fills_up_meanwhile_is_no_verdict_on_the_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull, match="no room left on disk below"):
        load_dataset(spec(root))
    assert not list((root / "store").rglob("*payload*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_a_folder_larger_than_the_memory_it_may_take(tmp_path: Path) -> None:
    """The images take 72 MiB. In memory they lie twice; of the other way, half is batches, threads and a model."""
    support = Path(__file__).parents[2] / "support" / "large_folder.py"
    command = [sys.executable, str(support), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
    told = json.loads(done.stdout)
    assert told["mapped"] < 0.75 * told["images"]
    assert told["cleaned"] < 0.75 * told["images"]
    assert told["in_memory"] > 1.5 * told["images"]


def test_decoding_that_takes_a_while_is_shown(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_dataset(spec(root, None))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("study.datasets.decoding._QUIET_SECONDS", -1.0)
    load_dataset(spec(root))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # two blocks of each split
    assert lines[1].startswith(f"decoding {root / 'set' / 'train'} 18/18")
    load_dataset(spec(root))
    assert capsys.readouterr().err == ""
