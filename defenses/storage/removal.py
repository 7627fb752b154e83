"""Removes from a store: a folder at a time, under the lock of whoever would build there, and never half an entry.

``meta.json`` goes first, so that what is left by a process that is killed here is no entry, but a leftover, which the
next builder or the next removal takes away.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from defenses.storage.inventory import ABOUT, LOCK, META, Held, read_folder


def remove(root: Path, held: Held) -> int | None:
    """Removes what a listing told of, unless it was used, or changed, since.

    Args:
        root: of the store.
        held: as `read_store` gave it.

    Returns:
        The bytes that are free now; None where it was left: somebody builds there, or has used it since it was listed.

    Raises:
        OSError: a file cannot be removed.
    """
    folder = root / held.stage / held.key
    if not held.key:  # a store within the store
        shutil.rmtree(folder)
        return held.bytes
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    except FileNotFoundError:  # its folder is gone already
        return 0
    try:
        now = next((known for known in read_folder(folder) if known.kind == held.kind), None)
        if now is None:
            return 0
        if now.used_at > held.used_at:
            return None
        _unlink(folder, now.files)
        if not any(path.name != LOCK for path in folder.iterdir()):
            (folder / LOCK).unlink()
            with suppress(OSError):  # somebody waits there for the lock, and has made it anew
                folder.rmdir()
        return now.bytes
    finally:
        lock.release()


def _unlink(folder: Path, names: Sequence[str]) -> None:
    """Removes files, those first that make the others count; an interruption ends it once all are gone."""
    ordered = sorted(names, key=lambda name: (name != META, not name.endswith(".json") or name == ABOUT))
    try:
        for name in ordered:
            (folder / name).unlink(missing_ok=True)
    except KeyboardInterrupt:
        for name in ordered:
            (folder / name).unlink(missing_ok=True)
        raise
