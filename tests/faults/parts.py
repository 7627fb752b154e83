"""What several fault tests share: the command as a user types it, on data that trains in a second."""

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from checkout import PYTHONPATH
from small_images import make_images
from small_study import save_npz

TINY = ("--set", "pre_isolation_epochs=3", "selective_epochs=1", "--attacks", "badnets", "--width", "8")
FLOOR = ("--asr-floor", "0")  # three epochs plant no backdoor, and these tests are about faults, not the defense


def environment(**changes: str) -> dict[str, str]:
    """For a child: this checkout's code, whatever folder it runs in."""
    return {**os.environ, "PYTHONPATH": PYTHONPATH, **changes}


def dataset(folder: Path) -> str:
    """320 images as the name of a dataset."""
    return save_npz(folder / "data.npz", make_images(320, 80))


def command(images: str, *options: str, module: str = "study.run") -> list[str]:
    """A study of one attack."""
    return [sys.executable, "-m", module, "--space", "pipd", "--dataset", images, *TINY, *FLOOR, *options]


def run(arguments: list[str], cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        arguments, cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=300, check=False
    )


def states(study: Path) -> Counter[str]:
    """How many trials the ledger has in each state."""
    with closing(sqlite3.connect(study / "study.db")) as database:
        return Counter(state for (state,) in database.execute("select state from trials"))


def one_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The complaint of a command that refused, which is one line and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own, such as ``size=64m`` or ``ro``."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here, it needs root: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
