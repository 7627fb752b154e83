"""Who is in a store: locks by which one process removes what no other reads or builds. The kernel lets go of them.

Each process that uses a store holds its folder shared. Whoever removes something takes the folder for itself; where
others are in, it takes an entry at a time, and between two it lets in a study that starts.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from defenses.storage.inventory import LOCK

GATE = ".removal"  # held while one entry is removed
_TRIES = 100


@contextmanager
def entry_lock(folder: Path) -> Iterator[None]:
    """Waits for the lock of an entry, and makes its folder, also while another process removes the folder.

    Raises:
        OSError: the folder cannot be made or locked.
    """
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire()
        except FileNotFoundError:  # it was removed after it was made
            continue
        if lock.is_locked and (folder / LOCK).exists():
            break
        lock.release()  # of a file that was removed while this process waited for it
    else:
        raise FileNotFoundError(errno.ENOENT, "it is removed as often as it is made", str(folder))
    try:
        yield
    finally:
        lock.release()


def enter(root: Path) -> int | None:
    """Says that this process uses a store, once nobody removes from it; it does so until the descriptor is closed.

    Returns:
        None where there is no such folder yet, or where folders cannot be locked.
    """
    descriptor = _open(root)
    if descriptor is None:
        return None
    import fcntl  # none on Windows, where nothing is opened

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def alone(root: Path) -> Iterator[bool]:
    """Takes a store for this process alone. Gives whether that was possible: nobody else has it open then.

    Others who want to use it wait until the block is left.
    """
    descriptor = _open(root)
    try:
        yield descriptor is not None and _taken(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def gate(root: Path) -> Iterator[None]:
    """Held while something is removed, and what decides that it may be is looked up."""
    with FileLock(root / GATE):
        yield


def pass_gate(root: Path) -> None:
    """For a study that starts, once its own lock says so: what is being removed is gone when this returns.

    Whatever is removed afterwards, its remover has seen that the study runs.
    """
    if (root / GATE).exists():
        with suppress(OSError), FileLock(root / GATE):
            pass


def _open(root: Path) -> int | None:
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, AttributeError):  # there is none yet, or this is Windows, where folders cannot be opened
        return None


def _taken(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has it, or folders cannot be locked here
        return False
    return True
