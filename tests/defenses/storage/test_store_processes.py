"""The store with several processes, dead ones among them, and on a disk that refuses."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import PYTHONPATH
from filelock import FileLock, Timeout

from defenses.registry import UserError
from defenses.storage.atomic_files import disk_errors, write_atomic
from defenses.storage.store import Store
from study.cli.terminal import option_hint

KEY = "0123abcd" * 8


def ones() -> dict[str, Any]:
    return {"x": np.ones(3)}


WORKER = """
import sys, time
from pathlib import Path
import numpy as np
from defenses.storage import store as module
from defenses.storage.store import Store

root, key, counter, mode = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
counter.with_suffix(f".ready{sys.argv[5]}").touch()
while not counter.with_suffix(".go").exists():
    time.sleep(0.01)

def build():
    with counter.open("a") as file:
        file.write(sys.argv[5] + "\\n")
    time.sleep(0.3)
    return {"who": sys.argv[5], "x": np.full(1000, int(sys.argv[5]))}

def hang(path, text):
    counter.with_suffix(".hangs").touch()
    time.sleep(600)

if mode == "hang":
    module.write_atomic = hang
artifact, hit = Store(root).get_or_build("stage", key, build)
print(artifact.load("who"), int(artifact.load("x").sum()), hit)
"""


def start(store: Store, counter: Path, mode: str, name: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", WORKER, str(store.root), KEY, str(counter), mode, name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


def test_of_several_processes_one_builds_and_all_get_it(store: Store, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    workers = [start(store, counter, "build", str(number)) for number in range(3)]
    for number in range(3):
        wait_for(counter.with_suffix(f".ready{number}"))
    counter.with_suffix(".go").touch()
    told = [worker.communicate(timeout=60)[0].split() for worker in workers]
    built_by = counter.read_text().split()
    assert len(built_by) == 1
    winner = int(built_by[0])
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert {(who, total) for who, total, _ in told} == {(str(winner), str(1000 * winner))}
    assert [hit for _, _, hit in told] == ["False" if number == winner else "True" for number in range(3)]


def test_a_killed_builder_lets_the_next_one_build_at_once(store: Store, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.with_suffix(".go").touch()
    worker = start(store, counter, "hang", "7")
    wait_for(counter.with_suffix(".hangs"))  # its payload is written and its meta.json is not
    folder = store.folder("stage", KEY)
    assert len(list(folder.glob("*payload*"))) == 2
    assert store.find("stage", KEY) is None
    with pytest.raises(Timeout), FileLock(folder / "lock", timeout=0.05):
        pass  # while it lives, nobody else builds
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=10)
    with FileLock(folder / "lock", timeout=0):
        pass  # nothing has to run out first
    artifact, hit = store.get_or_build("stage", KEY, ones)
    assert not hit
    assert len(list(folder.glob("*payload*"))) == 1  # what the dead builder wrote is gone
    assert artifact.load("x").tolist() == [1, 1, 1]


# The disk


def test_write_atomic_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_atomic(path, "old and long")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def refuse(code: int) -> Callable[..., Any]:
    def raises(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return raises


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "f.json"
    write_atomic(path, "old")
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"


def test_a_write_that_fails_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "f.json", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EACCES, "cannot write to"),
        (errno.EROFS, "cannot write to"),
        (errno.ENOSPC, "no room left"),
        (errno.EDQUOT, "no room left"),
    ],
)
@pytest.mark.parametrize("where", ["mkdir", "save", "fsync"])
def test_a_disk_that_refuses_is_a_user_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, message: str, where: str
) -> None:
    owner = {"mkdir": Path, "save": np, "fsync": os}[where]
    monkeypatch.setattr(owner, where, refuse(code))
    with pytest.raises(UserError, match=message) as error:
        store.get_or_build("stage", KEY, ones)
    assert str(store.root) in str(error.value)
    assert option_hint(error.value) == " (--store, --out)", "a command names its options"
    monkeypatch.undo()
    assert store.find("stage", KEY) is None


def test_a_file_in_the_stores_place_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write to"), disk_errors(tmp_path / "taken"):
        (tmp_path / "taken" / "stage").mkdir()


def test_other_errors_of_the_system_pass_through(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), disk_errors(tmp_path):
        raise OSError(errno.ETIMEDOUT, "slow")
