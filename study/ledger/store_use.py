"""Which study uses what of a store: what its records name, the data it is on, and what it may still ask for.

A study that has ended uses what its records name; beside that it might ask for what its clean control was computed
from. One that has not ended might ask for whatever was computed on its data, and for whatever does not say on which
data it was computed. What a study might ask for is not unused.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defenses.storage.atomic_files import canonical
from defenses.storage.inventory import Held, Kind, Place, read_stage
from study.config.objectives import CLEAN
from study.ledger.store_studies import StudyUse

POISON, TRIGGER, PICTURES = "poison", "trigger", ("decoded_images", "dataset")
"""Stages that are no defense's: poisoned data, the list of an attack's trained parts, and images of a folder."""


@dataclass(frozen=True)
class _Data:
    """Data of a study that lie in a store.

    Attributes:
        poison: keys of its poisoned data, and what its manifest calls them.
        clean_poison: keys of its clean control's data.
        clean: fingerprints of these.
        images: fingerprints of all data that something may have been computed on for it.
    """

    poison: frozenset[str]
    clean_poison: frozenset[str]
    clean: frozenset[str]
    images: frozenset[str]


class StoreUse:
    """What uses what.

    Args:
        root: of the store.
        held: all that it holds.
        studies: that use it.
    """

    def __init__(self, root: Path, held: Sequence[Held], studies: Sequence[StudyUse]) -> None:
        self._root = root
        self.held, self.studies = tuple(held), tuple(studies)
        self._poison = {one.key: _read_output(root, one, "fingerprint") for one in self._of(POISON)}
        self._data = {study.folder: self._data_of(study) for study in studies}
        self._uses: dict[Place, tuple[StudyUse, ...]] = {}
        for one in sorted(held, key=lambda one: one.kind is Kind.STATES):  # states are used with what was read of them
            if one.kind is Kind.STATES:
                told = [entry for entry in self._of(one.stage) if _read_from(entry, one)]
                read = told if told or one.about else self._of(one.stage)
                users = tuple(study for study in studies if any(study in self._uses.get(e.place, ()) for e in read))
            else:
                users = tuple(study for study in studies if self._names(study, one))
            self._uses[one.place] = users

    def users(self, one: Held) -> tuple[StudyUse, ...]:
        """The studies that use something."""
        return self._uses[one.place]

    def claims(self, one: Held, studies: Iterable[StudyUse] | None = None) -> list[StudyUse]:
        """The studies that use something or might ask for it; of those that are given, or of all."""
        users = self.users(one)
        asked = self.studies if studies is None else studies
        return [study for study in asked if study in users or self._might(study, one)]

    def unused(self, one: Held) -> bool:
        """Whether no study uses it, and none might."""
        return not self.claims(one)

    def _of(self, stage: str) -> list[Held]:
        return [one for one in self.held if one.stage == stage and one.kind is Kind.ENTRY]

    def _names(self, study: StudyUse, one: Held) -> bool:
        """Whether a study's records or its data name an entry."""
        if one.kind is not Kind.ENTRY or study.composite:
            return False
        if one.name in study.records or (one.stage == POISON and one.key in self._data[study.folder].poison):
            return True
        if one.stage == TRIGGER:
            parts = _read_output(self._root, one, "parts")
            return any((part[0], part[1]) in study.records for part in parts or () if isinstance(part, list))
        return one.stage in PICTURES and _is_of_folder(one, study.dataset)

    def _might(self, study: StudyUse, one: Held) -> bool:
        """Whether a study might ask for something that it does not name."""
        if one.kind is Kind.REMAINS:
            return False
        data, fingerprint = self._data[study.folder], str(one.about.get("dataset", ""))
        if study.unknown or fingerprint in data.clean:
            return True  # no record names what the clean control was computed from
        if study.ended or one.stage == POISON:
            return one.stage == POISON and one.key in data.clean_poison
        if one.kind is Kind.PARTIAL or not one.about or fingerprint in data.images:
            return True
        elsewhere = fingerprint in self._poison.values()  # of raw images anyone might train a part of an attack
        return not elsewhere and not study.data <= data.poison  # of data that are gone from the store, perhaps its own

    def _data_of(self, study: StudyUse) -> "_Data":
        """The data of a study, as far as the store has them."""
        entries = self._of(POISON)
        own = [one for one in entries if _identities(one) & study.data or one.name in study.records]
        images = {one.about["dataset"] for one in own if "dataset" in one.about}
        clean = [
            one
            for one in entries
            if (one.about.get("attack"), one.about.get("dataset") in images) == (CLEAN, True)
            and one.about.get("seed") in study.seeds
        ]
        unpoisoned = frozenset(str(self._poison[one.key]) for one in clean)
        poisoned = {str(self._poison[one.key]) for one in own}
        return _Data(
            poison=frozenset(key for one in own for key in (one.key, *(_identities(one) & study.data))),
            clean_poison=frozenset(one.key for one in clean),
            clean=unpoisoned,
            images=frozenset(images | poisoned | unpoisoned) | study.fingerprints,
        )


def poisoned_fingerprints(root: Path, keys: Collection[str]) -> frozenset[str]:
    """Fingerprints of a study's poisoned images, as far as a store has them.

    Args:
        keys: what the study's manifest calls its data.
    """
    own = [one for one in read_stage(root / POISON) if one.kind is Kind.ENTRY and _identities(one) & set(keys)]
    return frozenset(str(_read_output(root, one, "fingerprint")) for one in own)


def _identities(one: Held) -> set[str]:
    """What a manifest may call poisoned data: their key, or a hash of what they are, whatever machine computes them."""
    described = {name: value for name, value in one.about.items() if name != "numerics"}
    return {one.key, hashlib.sha256(canonical(described).encode()).hexdigest()}


def _read_from(entry: Held, states: Held) -> bool:
    """Whether an entry is an epoch of a training whose states these are."""
    if (entry.stage, entry.states) == (states.stage, states.key):
        return True
    shared = {name: value for name, value in states.about.items() if name not in ("params", "trajectory")}
    params, own = states.about.get("params"), entry.about.get("params")
    if entry.stage != states.stage or not isinstance(params, dict) or not isinstance(own, dict):
        return False
    same = all(entry.about.get(name) == value for name, value in shared.items())
    return same and all(name in own and own[name] == value for name, value in params.items())


def _read_output(root: Path, one: Held, output: str) -> Any:
    """A small output of an entry; None where it cannot be read."""
    name = next((name for name in one.files if name.endswith(f"-{output}-payload.json")), None)
    try:
        return json.loads((root / one.stage / one.key / str(name)).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _is_of_folder(one: Held, dataset: str) -> bool:
    """Whether decoded images may be of the folder or file that a study was started with."""
    _, _, path = dataset.partition(":")
    folder = str(one.about.get("folder") or "")
    return bool(path) and (not folder or folder.startswith(str(Path(path).resolve())) or path in folder)
