"""A training that is read at several epochs, in the store: what it says of its cost and of its last use."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from defenses.registry import UserError
from defenses.storage.store import Store
from defenses.storage.trajectory import KeptStates

EPOCH = 0.05


def reader(
    store: Store, key: str, stop: int, seconds: float = EPOCH, started: threading.Event | None = None
) -> Callable[[], dict[str, Any]]:
    """What builds the entry of one read: epochs of so many seconds up to it."""

    def build() -> dict[str, Any]:
        with store.trajectory("pre", key, "shared", stop) as checkpoint:
            for _ in checkpoint.epochs(8, {"weights": torch.zeros(3)}):
                if started is not None:
                    started.set()
                time.sleep(seconds)
        return {"read": stop}

    return build


def test_what_a_read_took_is_its_epochs_and_no_wait_for_another_process(tmp_path: Path) -> None:
    """Two read one training at once: the earlier read waits until the later has trained, and takes its state."""
    started = threading.Event()
    later, earlier = Store(tmp_path), Store(tmp_path)
    whole = threading.Thread(
        target=later.get_or_build, args=("pre", "whole", reader(later, "whole", 8, started=started))
    )
    whole.start()
    assert started.wait(timeout=30)
    asked = time.perf_counter()
    part, _ = earlier.get_or_build("pre", "part", reader(earlier, "part", 4))
    waited = time.perf_counter() - asked
    whole.join()
    found = later.find("pre", "whole")
    assert found is not None
    assert found.built_seconds >= 8 * EPOCH
    assert waited > part.built_seconds, "most of it was a wait"
    assert part.built_seconds < found.built_seconds, "half of the epochs"


def test_a_kill_before_the_entry_is_written_loses_no_epoch_where_no_state_stays(tmp_path: Path) -> None:
    """As where the disk is full: what it costs to keep none is one state, until the entry is there."""
    store, ran, full = Store(tmp_path, checkpoint_seconds=0), [], [True]

    def build() -> dict[str, Any]:
        with store.trajectory("pre", "whole", "shared", 6, kept=KeptStates("none")) as checkpoint:
            ran.append([*checkpoint.epochs(8, {"weights": torch.zeros(3)})])
        if full.pop():
            raise OSError(28, "No space left on device")
        return {"read": 6}

    with pytest.raises(UserError):
        store.get_or_build("pre", "whole", build)
    full.append(False)
    store.get_or_build("pre", "whole", build)
    assert ran == [[0, 1, 2, 3, 4, 5], []]


def test_reading_a_state_is_a_use_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get_or_build("pre", "whole", reader(store, "whole", 8, seconds=0))
    states = {file: file.stat().st_mtime - 40 * 86_400 for file in (tmp_path / "pre" / "shared").iterdir()}
    for file, long_ago in states.items():
        os.utime(file, (long_ago, long_ago))
    store.get_or_build("pre", "part", reader(store, "part", 4, seconds=0))
    used = {file.name for file, long_ago in states.items() if file.stat().st_mtime > long_ago + 1}
    assert used == {"epoch-4.json"}
