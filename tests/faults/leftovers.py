"""Processes that a test started and that are still there: Ray's and MLflow's outlive a driver that is killed."""

import os
from collections.abc import Collection
from pathlib import Path

MARK = "STUDY_FAULT_TEST"
"""A variable in the environment of whatever a test starts; it holds a word of that test's own."""

HELPERS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
"""Of the test process itself, which end with it."""


def owned(word: str, sessions: Collection[int]) -> dict[int, str]:
    """The living processes that a test started: pid -> command line.

    Some of Ray's processes write their title over their environment. These are known by the session of the driver that
    started them, or by a parent that is known.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or (state := _state(entry)) is None:
            continue
        pid, (parent, session) = int(entry.name), state
        parents[pid] = parent
        if session in sessions or f"{MARK}={word}".encode() in _read(entry / "environ").split(b"\0"):
            found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    found.discard(os.getpid())
    names = {
        pid: _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode(errors="replace").strip() for pid in found
    }
    return {pid: name for pid, name in names.items() if not any(helper in name for helper in HELPERS)}


def _state(process: Path) -> tuple[int, int] | None:
    """Parent and session of a process; None when it is gone, or dead and only its parent has not looked yet."""
    fields = _read(process / "stat").rpartition(b")")[2].split()
    return (int(fields[1]), int(fields[3])) if fields and fields[0] not in (b"Z", b"X") else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile, or another user's
        return b""
