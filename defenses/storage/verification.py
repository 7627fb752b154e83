"""Compares what a store holds with the hashes that it was written with. Only reads; loads nothing heavy."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from defenses.storage.atomic_files import canonical
from defenses.storage.inventory import META, Held, Kind, read_folder

FORMAT = 2
"""Of ``meta.json``."""


def meta_checksum(meta: dict[str, Any]) -> str:
    """What the checksum of a ``meta.json`` must be; `meta` without it."""
    return hashlib.sha256(canonical(meta).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damages(root: Path, held: Sequence[Held], tell: Callable[[Held], None]) -> Iterator[tuple[Held, str]]:
    """What is damaged, and what is wrong with it.

    Args:
        tell: told of each part before it is read.
    """
    for one in held:
        tell(one)
        folder = root / one.stage / one.key
        what = _damage(folder, one)
        if what:  # or somebody has removed it, or built it again, since it was listed
            now = next((known for known in read_folder(folder) if known.kind is one.kind), None)
            what = _damage(folder, now) if now is not None and now.files != one.files else what if now else ""
        if what:
            yield one, what


def _damage(folder: Path, one: Held) -> str:
    """What is wrong with a part of the store; empty where nothing is."""
    try:
        if one.kind is Kind.ENTRY:
            return _entry(folder)
        return _states(folder, one) if one.kind in (Kind.STATES, Kind.PARTIAL) else ""
    except OSError as error:
        return f"{Path(str(error.filename)).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "a JSON file of it cannot be understood"


def _entry(folder: Path) -> str:
    meta = json.loads((folder / META).read_bytes())
    checksum = meta.pop("checksum")
    if meta["format"] != FORMAT:
        return f"{META} is of another version"
    if checksum != meta_checksum(meta):
        return f"{META} was changed"
    wrong = [name for name, expected in meta["sha256"].items() if file_sha256(folder / name) != expected]
    return f"{', '.join(wrong)} was changed" if wrong else ""


def _states(folder: Path, one: Held) -> str:
    """Of the states of a training: each is a JSON file, with its own checksum, that names its payload."""
    for name in one.files:
        if name.endswith(".json") and name.startswith(("epoch-", "checkpoint-")):
            text = (folder / name).read_bytes()
            meta = json.loads(text)
            checksum = meta.pop("checksum")
            if hashlib.sha256(json.dumps(meta).encode()).hexdigest() != checksum:
                return f"{name} was changed"
            if file_sha256(folder / meta["payload"]) != meta["sha256"]:
                return f"{meta['payload']} was changed"
    return ""
