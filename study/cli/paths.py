"""Paths as people type them."""

import argparse
from pathlib import Path

from defenses.registry import UserError

EMPTY_PATH = "must be a path (is it a variable that is not set? Leave the option out, or name one)"


def parse_path(text: str) -> Path:
    """A path from a command line; an empty one would stand for the working folder.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{EMPTY_PATH}, got {text!r}")
    return Path(text)


def expand_home(path: Path) -> Path:
    """A path with the home folder that its ``~`` or ``~name`` stands for.

    Raises:
        UserError: there is no such home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(
            f"{path.parts[0]} must stand for a home folder, and there is none, in {str(path)!r}: write the whole path"
        ) from None


def is_stdout(path: Path | None) -> bool:
    """Whether a file that was asked for is standard output."""
    return path is not None and str(path) == "-"


def check_two_files(first: Path | None, second: Path | None, options: str) -> None:
    """Refuses two answers in one file, of which only the later would be left.

    Args:
        first, second: None where there is no such file.
        options: that name them, such as ``--json and --flags``.

    Raises:
        UserError: both are one file.
    """
    if first is not None and second is not None and first.resolve() == second.resolve():
        raise UserError(f"{options} must name two files, got {second} for both: rename one")
