"""Which code made a result, and whether a worker runs the same."""

import functools
import hashlib
import shutil
from pathlib import Path

from defenses.registry import UserError

PACKAGES = ("defenses", "search_spaces", "study", "tracking")
_VERSION = "0.1.0"
_ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def code_hash() -> str:
    """A hash over the sources that this process imports."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(_ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def code_version() -> str:
    """The version of these sources and their hash: ``0.1.0+3f2a9c41d07e``.

    Packaging reads the version here (``pyproject.toml``) and not the other way round: a checkout that was never
    installed, and a worker that was shipped the code, have no package to ask, or one of other sources.
    """
    return f"{_VERSION}+{code_hash()}"


class OtherCode(UserError):
    """A process runs other code than the driver; nothing that it was asked for has failed by that."""


def check_code(expected: str) -> None:
    """Refuses to work with other code than the driver's, whose hash is `expected`.

    Raises:
        OtherCode: this is other code.
    """
    if code_hash() != expected:
        raise OtherCode(
            f"this worker's code in {_ROOT} has the hash {code_hash()} and the driver's has {expected}: "
            "install the driver's version there, or remove it and let the driver ship its own"
        )


def copy_code(folder: Path) -> None:
    """Copies the packages' sources, and nothing that happens to lie beside them, into a folder."""
    for package in PACKAGES:
        shutil.copytree(_ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
