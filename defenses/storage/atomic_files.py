"""Text on disk: equal values give equal text, and a file is whole or not there. Loads nothing heavy."""

import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from defenses.registry import UserError


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_atomic(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash at any moment, finds the old content or the new, never a part.

    The file is UTF-8. What that cannot say, as parts of a file's name may be under another locale, is escaped.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class DiskFull(UserError):
    """There is no room left on a disk. What was being done is not wrong: it can be done again once there is."""


SHOW_STORE = "python -m study.store shows what the store can do without"
"""Where there is no room: how to see what may go."""
_NO_ROOM = ("No space left on device", "Disk quota exceeded", "database or disk is full")


def _no_room(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that a disk is full, whichever library noticed it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        text = str(error)
        if any(told in text for told in _NO_ROOM) or re.fullmatch(r"\d+ requested and \d+ written", text):  # numpy's
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def full_disk_errors(root: Path) -> Iterator[None]:
    """Turns a full disk into an error that names the folder.

    Raises:
        DiskFull: there is no room left.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if _no_room(error):
            raise DiskFull(
                f"no room left on disk below {root}: free some ({SHOW_STORE}), or choose another place", about="place"
            ) from error
        raise


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turns a full or unwritable disk into an error that names the folder.

    Raises:
        UserError: there is no room left (a `DiskFull`), or the folder cannot be written to.
    """
    try:
        with full_disk_errors(root):
            yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UserError(f"cannot write to {root}: {error.strerror}; choose another place", about="place") from error
        raise
