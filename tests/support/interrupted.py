"""Interrupts what reports its progress after every step that it reaches, as a kill would, until it ends."""

from collections.abc import Callable, Mapping
from pathlib import Path

from defenses.api import Progress
from defenses.storage.store import Store


class Killed(BaseException):
    """As a kill: nothing in the product may catch it."""


class Killer:
    """A `Progress` that interrupts every step of every stage the first time that it is told of it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def __call__(self, stage: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        first = (stage, step) not in self.told
        self.told.append((stage, step))
        if first:
            raise Killed


def run_through_kills(run: Callable[[Progress], object]) -> list[tuple[str, int]]:
    """Runs something again and again until no step is left at which it was not interrupted; all steps told.

    A step is told before it is kept, so each is to be run twice: interrupted, and from where the one before had ended.
    """
    killer = Killer()
    while True:
        try:
            run(killer)
        except Killed:
            assert len(killer.told) < 1000, "it never gets on"
        else:
            return killer.told


def digests(store: Store) -> dict[str, dict[str, str]]:
    """The content digests of all entries of a store, by stage and key."""
    found = {}
    for meta in sorted(store.root.glob("*/*/meta.json")):
        stage, key = meta.parent.parent.name, meta.parent.name
        artifact = store.find(stage, key)
        assert artifact is not None
        found[f"{stage}/{key}"] = artifact.digests
    return found


def checkpoint_files(root: Path) -> list[str]:
    """Names of all files of checkpoints below a folder, temporary ones included."""
    return sorted(path.name for path in root.rglob("*checkpoint*"))
