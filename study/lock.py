"""One driver a study: a lock that the kernel lets go of when its holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from defenses.registry import UserError


@contextmanager
def study_lock(folder: Path, name: str) -> Iterator[None]:
    """Holds a study for as long as the block lasts; `UserError` at once when another driver holds it."""
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"study {name!r} is being run by process {file.read().strip() or '?'}: wait for it, stop it, "
                "or choose another --name"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
