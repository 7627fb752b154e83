"""The command as a user types it, for tests: started, watched, stopped; and what it left on disk."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from checkout import ROOT
from small_images import make_images
from small_study import save_npz

TINY = [
    "--set",
    "pre_isolation_epochs=3",
    "selective_epochs=1",
    "--attacks",
    "badnets,trojan_square",
    "--width",
    "8",
    "--asr-floor",
    "0",  # three epochs plant no backdoor, and these tests are about the books, not the defense
]


ONE_AT_A_TIME = ("--cpus-per-trial", str(min(2, os.cpu_count() or 1)))
"""For studies that are not about what runs side by side: each process more costs six seconds of a processor."""


def make_workplace(folder: Path, train: int = 320, test: int = 80) -> Path:
    """A folder with a small npz dataset; the studies in it share a store."""
    save_npz(folder / "data.npz", make_images(train=train, test=test))
    return folder


def command(folder: Path, *options: str) -> list[str]:
    """A study of a workplace, without the clean control unless it is asked for."""
    data = ["--dataset", f"npz:{folder / 'data.npz'}", "--out", str(folder / "runs")]
    control = [] if "--clean-control" in options else ["--clean-control", "none"]
    return [sys.executable, "-m", "study.run", "--space", "pipd", *data, *TINY, *control, *options]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The same, run to its end."""
    return subprocess.run(command(folder, *options), capture_output=True, text=True, timeout=600, cwd=ROOT)


def states(study: Path) -> Counter[str]:
    """How many trials of a study's ledger are in each state."""
    with sqlite3.connect(study / "study.db") as database:
        return Counter(state for (state,) in database.execute("select state from trials"))


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Waits, but not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Driver:
    """A study's driver in a session of its own, so that all it starts can be told from anybody else's processes.

    Args:
        command: to start.
        environment: what its environment has besides.
        log: a file for what it prints.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        # Tests that run in the background (`&`) ignore Ctrl-C, and so would the driver that they start and stop.
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                preexec_fn=_heed_interrupts if ignored else None,
            )
        STARTED.append(self.process.pid)

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        """A test that failed leaves nothing behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self.process.poll() is None

    def wait(self, seconds: float = 300) -> int:
        """Waits for the end; the exit code."""
        return self.process.wait(seconds)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Waits for something that has to come while the driver is alive."""
        wait_for(lambda: condition() or not self.alive)
        assert self.alive, self.printed


STARTED: list[int] = []
"""Sessions of drivers that were started: `faults/conftest.py` looks whether anything of them is left."""
