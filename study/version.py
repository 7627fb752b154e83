"""Which code made a result."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path

PACKAGES = ("defenses", "search_spaces", "study", "tracking")


@functools.cache
def code_version() -> str:
    """The package's version and a hash over its sources: ``0.1.0+3f2a9c41d07e``."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return f"{importlib.metadata.version('backdoor-defense-study')}+{digest.hexdigest()[:12]}"
