"""Commands that are printed to be copied: they name the Python that prints them, and work as they stand."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

_PYTHON = "python"
_COMMAND = re.compile(rf"((?:\w+=\S* )*)({_PYTHON}(?= ))?(.*)", re.DOTALL)  # variables may stand before it


def runnable(command: str) -> str:
    """A command that begins with ``python``, as it works in this terminal.

    It is left as it is where ``python`` is the one that runs now, as in an environment that is activated. Otherwise it
    begins with the path of that one, as short as it can be written from the current folder.
    """
    variables, begins, rest = _COMMAND.fullmatch(command).groups()  # type: ignore[union-attr]
    return f"{variables}{_interpreter()}{rest}" if begins else command


def shown_path(path: Path) -> str:
    """A path as it is shortest from the current folder: relative where it lies below."""
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def _interpreter() -> str:
    own = Path(sys.executable)
    known = shutil.which(_PYTHON)
    if not sys.executable or (known is not None and Path(known) == own):
        return _PYTHON
    return shlex.quote(shown_path(own))
