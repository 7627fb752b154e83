"""One driver a study: a lock that the kernel lets go of when its holder dies, however it dies."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from defenses.registry import UserError
from study.ledger.study_folder import LOCK

_TRIES, _PAUSE_SECONDS = 4, 0.05


@contextmanager
def study_lock(folder: Path, name: str) -> Iterator[None]:
    """Holds a study for as long as the block lasts; `UserError` at once when another driver holds it.

    Raises:
        UserError: another driver holds it.
    """
    with _open(folder / LOCK) as file:
        if not _taken(file):
            file.seek(0)
            raise _taken_by(file.read().strip() or "?", name)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _open(path: Path) -> IO[str]:
    """The lock's file. A link is refused: whatever it names would be emptied."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        return os.fdopen(handle, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"a study's lock must be a plain file that can be written, got {path}: {error.strerror}"
        ) from error


def _taken(file: IO[str]) -> bool:
    """Takes the lock. A few tries: who looks whether a study is being run holds it for an instant."""
    import fcntl  # none on Windows, where `study.cli.command` refuses in a line

    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
    return False


def refuse_if_held(folder: Path, name: str) -> None:
    """Refuses a study that another driver holds, before anything is loaded for it; takes and changes nothing.

    Raises:
        UserError: another driver holds it.
    """
    if (process := holder(folder)) is not None:
        raise _taken_by(process, name)


def _taken_by(process: str, name: str) -> UserError:
    return UserError(
        f"study {name!r} is being run by process {process}: wait for it, stop it, or choose another --name"
    )


def holder(folder: Path) -> str | None:
    """The process that holds a study now, ``?`` where it does not say; None when nobody does."""
    import fcntl

    try:
        with (folder / LOCK).open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "?"
    except OSError:  # never started, or of another user
        return None
    return None
