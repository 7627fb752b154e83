"""What lies in a store, read from its folders without opening an entry: sizes, times, and what each was made of.

For whoever lists, verifies or removes. Loads nothing heavy. What is not understood is left out, and so never removed.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

META, LOCK = "meta.json", "lock"
ABOUT = "about.json"
"""Beside the states of a training: what all its epochs have in common."""
STATES_KEY = "states"
"""In what an entry says of how it was built: the key of the training's states that it was read from."""
MEASURING_PREFIX = "measure_"  # name of a store inside another that sees the other's stages through links
NAME = re.compile(r"[a-z0-9_]+")
"""What the names of stages and keys look like."""


class Kind(StrEnum):
    """What a folder of a store holds."""

    ENTRY = "entry"
    STATES = "states of a training"
    PARTIAL = "unfinished stage"
    REMAINS = "leftover"


Place = tuple[str, str, Kind]
"""Stage, key and what of it: nothing else that a store holds has the same."""


@dataclass(frozen=True)
class Held:
    """What a folder of a store holds of one kind.

    Attributes:
        stage, key: the folder's place.
        bytes: of its files.
        built_seconds: what it took to compute; 0 where nobody knows.
        used_at: when it was last found by a process, or written; seconds since 1970.
        about: what it was made of, as the one who built it said; empty where that is not known.
        files: their names.
        states: key of the training's states that an entry was read from; empty where there are none.
    """

    stage: str
    key: str
    kind: Kind
    bytes: int
    built_seconds: float
    used_at: float
    about: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    states: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """The folder's place."""
        return self.stage, self.key

    @property
    def place(self) -> Place:
        """What tells it from all else in the store."""
        return self.stage, self.key, self.kind


def read_store(root: Path) -> list[Held]:
    """All that a store holds, by stage and key.

    Raises:
        OSError: the folder cannot be read.
    """
    held: list[Held] = []
    for stage in sorted(root.iterdir()):
        if stage.is_symlink() or not stage.is_dir():
            continue
        if stage.name.startswith(MEASURING_PREFIX):
            held.append(_measuring(stage))
        elif NAME.fullmatch(stage.name):
            held += read_stage(stage)
    return held


def read_stage(stage: Path) -> list[Held]:
    """All that a store holds of one stage, by key; nothing where it has no folder.

    Raises:
        OSError: the folder cannot be read.
    """
    held: list[Held] = []
    for folder in sorted(stage.iterdir()) if stage.is_dir() else ():
        if NAME.fullmatch(folder.name) and not folder.is_symlink() and folder.is_dir():
            held += read_folder(folder)
    return held


def read_folder(folder: Path) -> list[Held]:
    """What one folder of a store holds: at most one thing of use, and what processes that died have left beside it."""
    files = dict(_files(folder))
    files.pop(LOCK, None)
    if not files:
        return []
    held = [known for known in (_entry(folder, files), _states(folder, files), _partial(folder, files)) if known][:1]
    of_use = {name for known in held for name in known.files}
    rest = {name: status for name, status in files.items() if name not in of_use}
    return held + ([_held(folder, Kind.REMAINS, rest, 0.0, {})] if rest else [])


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where it cannot be read or holds no mapping."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The plain files of a folder; one that goes while they are read is left out."""
    with suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            with suppress(FileNotFoundError):
                if file.is_file(follow_symlinks=False):
                    yield file.name, file.stat(follow_symlinks=False)


def _held(folder: Path, kind: Kind, files: Mapping[str, os.stat_result], seconds: object, about: object) -> Held:
    number = float(seconds) if isinstance(seconds, int | float) and seconds >= 0 else 0.0
    return Held(
        stage=folder.parent.name,
        key=folder.name,
        kind=kind,
        bytes=sum(status.st_size for status in files.values()),
        built_seconds=number,
        used_at=max(status.st_mtime for status in files.values()),
        about=about if isinstance(about, dict) else {},
        files=tuple(sorted(files)),
    )


def _entry(folder: Path, files: Mapping[str, os.stat_result]) -> Held | None:
    if META not in files:
        return None
    meta = read_json(folder / META)
    payload = meta.get("sha256")
    named = set(payload) if isinstance(payload, dict) else set()
    own = {name: status for name, status in files.items() if name == META or name in named}
    built_by = meta.get("built_by")
    states = str(built_by.get(STATES_KEY, "")) if isinstance(built_by, dict) else ""
    return replace(_held(folder, Kind.ENTRY, own, meta.get("built_seconds"), meta.get("describe")), states=states)


def _states(folder: Path, files: Mapping[str, os.stat_result]) -> Held | None:
    states = {name: status for name, status in files.items() if re.fullmatch(r"epoch-\d+\.json", name)}
    if not states:
        return None
    last = max(states, key=lambda name: int(re.findall(r"\d+", name)[0]))
    own = {name: status for name, status in files.items() if re.match(r"epoch-\d+[.-]", name) or name == ABOUT}
    seconds = read_json(folder / last).get("seconds")
    return _held(folder, Kind.STATES, own, seconds, read_json(folder / ABOUT))


def _partial(folder: Path, files: Mapping[str, os.stat_result]) -> Held | None:
    own = {name: status for name, status in files.items() if name.startswith("checkpoint-") or name == ABOUT}
    if not own:
        return None
    spent = [read_json(folder / name).get("seconds") for name in own if name.endswith(".json")]
    seconds = max((s for s in spent if isinstance(s, int | float)), default=0)
    return _held(folder, Kind.PARTIAL, own, seconds, read_json(folder / ABOUT))


def _measuring(stage: Path) -> Held:
    """A store within the store, that a process which measured a trial's memory has left."""
    files = [path.lstat() for path in stage.rglob("*") if path.is_file() and not path.is_symlink()]
    return Held(
        stage=stage.name,
        key="",
        kind=Kind.REMAINS,
        bytes=sum(status.st_size for status in files),
        built_seconds=0.0,
        used_at=max([stage.lstat().st_mtime, *(status.st_mtime for status in files)]),
    )
