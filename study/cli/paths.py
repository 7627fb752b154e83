"""Paths as people type them."""

from pathlib import Path

from defenses.registry import UserError


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
