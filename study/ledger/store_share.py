"""How much of the store the trials of a study use, and how much of that no other study's do: quickly, or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from defenses.storage.inventory import NAME, Held, Kind, read_folder
from study.ledger.manifest import Manifest
from study.ledger.store_studies import store_folder
from study.ledger.used_stages import Name, read_used_stages

_MOST_RECORDS, _MOST_ENTRIES = 1000, 3000
"""What may be read for it: more would take as long as the rest of a command that shows it."""


@dataclass(frozen=True)
class Share:
    """What a study's trials use.

    Attributes:
        bytes: of entries that their records name, and of the states of trainings that these were read from.
        alone: of them, what no other study's trials in the same folder of results use.
    """

    bytes: int
    alone: int


def read_shares(studies: Mapping[Path, Manifest | None]) -> dict[Path, Share]:
    """The shares of studies, where they can be told quickly; empty where not, for "alone" needs all of them.

    Args:
        studies: folders of all studies in a folder of results, with what they were started with.
    """
    used: dict[Path, dict[Path, int]] = {}
    sizes: dict[tuple[Path, Name], dict[Path, int]] = {}
    left = _MOST_RECORDS
    for folder, manifest in studies.items():
        if manifest is None:
            continue
        root = store_folder(manifest.settings, folder)
        stages = read_used_stages(folder, left)
        if stages is None or len(sizes) > _MOST_ENTRIES:
            return {}
        left -= stages.read
        for name in stages.names - {name for place, name in sizes if place == root}:
            sizes[root, name] = _sizes(root, name)
        used[folder] = {path: size for name in stages.names for path, size in sizes[root, name].items()}
    users: dict[Path, set[Path]] = {}
    for folder, own in used.items():
        for path in own:
            users.setdefault(path, set()).add(folder)
    return {
        folder: _share(used, users, {folder, *(manifest.child_studies(folder) if manifest else ())})
        for folder, manifest in studies.items()
    }


def _share(used: Mapping[Path, Mapping[Path, int]], users: Mapping[Path, set[Path]], members: set[Path]) -> Share:
    """Of a study, or of one with the studies that it is made of."""
    own = {path: size for member in members for path, size in used.get(member, {}).items()}
    return Share(sum(own.values()), sum(size for path, size in own.items() if users[path] <= members))


def _sizes(root: Path, name: Name) -> dict[Path, int]:
    """Bytes of an entry, and of the states that it was read from, by folder."""
    if not all(map(NAME.fullmatch, name)):
        return {}
    folder = root / name[0] / name[1]
    entry = _only(read_folder(folder), Kind.ENTRY)
    if not entry:
        return {}
    sizes = {folder: entry[0].bytes}
    if NAME.fullmatch(entry[0].states):
        states = folder.with_name(entry[0].states)
        sizes[states] = sum(one.bytes for one in _only(read_folder(states), Kind.STATES))
    return sizes


def _only(held: Sequence[Held], kind: Kind) -> list[Held]:
    return [one for one in held if one.kind is kind]
