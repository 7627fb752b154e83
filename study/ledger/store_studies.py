"""The studies that use a store: which there are, whether they have ended, and which stages their records name."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defenses.storage.atomic_files import write_atomic
from defenses.storage.occupancy import pass_gate
from defenses.storage.remote import cache_folder, is_url
from study.cli.paths import expand_home
from study.ledger.lock import holder
from study.ledger.status import read_status
from study.ledger.study_folder import LOCK, MANIFEST, is_study
from study.ledger.used_stages import Name, UsedStages, read_used_stages

_OUTS = ".results"  # in a store that lies elsewhere than beside its studies: a file for each folder of results


@dataclass(frozen=True)
class StudyUse:
    """What a study says of what it uses.

    Attributes:
        process: that runs it now; None when nobody does.
        ended: all its trials are done and their records whole, so that it uses what these name and nothing else.
        unknown: why nobody knows what it uses; empty where that is known.
        records: entries that its records name.
        data: keys of its scenarios' poisoned data, as its manifest has them.
        fingerprints: of poisoned data, as its records have them.
        seeds: of its scenarios.
        dataset: where its images come from, as it was asked for.
        composite: it is made of other studies, which use what there is to use.
    """

    folder: Path
    process: str | None = None
    ended: bool = False
    unknown: str = ""
    records: frozenset[Name] = frozenset()
    data: frozenset[str] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    seeds: frozenset[int] = field(default_factory=frozenset)
    dataset: str = ""
    composite: bool = False

    @property
    def name(self) -> str:
        """The study's."""
        return self.folder.name

    @property
    def state(self) -> str:
        """``running``, ``ended``, ``not ended`` or ``cannot be read``."""
        if self.process is not None:
            return "running"
        return "cannot be read" if self.unknown else "ended" if self.ended else "not ended"


def note_results_folder(store: Path, out: Path) -> None:
    """Leaves in a store that studies in a folder of results use it; not where it lies beside them.

    What cannot be written is left out.
    """
    out, store = out.resolve(), store.resolve()
    if out / "store" == store:
        return
    note = store / _OUTS / hashlib.sha256(str(out).encode()).hexdigest()[:16]
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            write_atomic(note, str(out))


def wait_for_removal(place: Path | str) -> None:
    """For a study that has just been started and holds its lock: whoever removes from its store has seen that by then.

    Args:
        place: of the store; behind a URL nobody removes.
    """
    if isinstance(place, Path):
        pass_gate(place)


def results_folders(store: Path, out: Path) -> list[Path]:
    """The folders of results whose studies use a store: the one that is asked about, and those that are noted in it."""
    noted = []
    with suppress(OSError):
        for note in sorted((store / _OUTS).iterdir()):
            if not note.name.startswith("."):
                noted.append(Path(note.read_text(encoding="utf-8")))
    beside = [store.parent] if store.name == "store" else []
    return list(dict.fromkeys(path.resolve() for path in (out, *beside, *noted)))


def running(outs: Sequence[Path]) -> dict[Path, str]:
    """Folder of each study, or of what is about to be one, that a process holds now -> the process."""
    held = {}
    for out in outs:
        for folder in _folders(out):
            if (folder / LOCK).is_file() and (process := holder(folder)) is not None:
                held[folder] = process
    return held


def read_uses(store: Path, outs: Sequence[Path]) -> list[StudyUse]:
    """What the studies in folders of results say of what they use; only those that may use this store."""
    uses = []
    for out in outs:
        if not out.is_dir():
            uses.append(StudyUse(out, unknown="this folder of results is not there now"))
            continue
        for folder in _folders(out):
            process = holder(folder) if (folder / LOCK).is_file() else None
            if not is_study(folder):
                uses += [StudyUse(folder, process, unknown="it has just been started")] if process else []
                continue
            use = read_use(folder)
            uses += [] if use is None or _uses_another(use[1], folder, store) else [use[0]]
    return uses


def read_use(folder: Path) -> tuple[StudyUse, Mapping[str, Any]] | None:
    """What one study says of what it uses, and its settings; None where the studies that it is made of say it all."""
    status = read_status(folder, folder.parent, records=False)
    children = status.manifest.child_studies(folder) if status.manifest else []
    if children and status.driver is None and all(child.is_dir() for child in children):
        return None
    if status.manifest is None:
        return StudyUse(folder, status.driver, unknown=status.damage[0]), {}
    used = read_used_stages(folder) or UsedStages()
    manifest = status.manifest
    use = StudyUse(
        folder,
        status.driver,
        ended=not used.damaged and status.driver is None and status.left == 0,
        unknown="" if manifest.data else f"{folder / MANIFEST} does not say on which data",
        records=used.names,
        data=frozenset(manifest.data),
        fingerprints=used.fingerprints,
        seeds=frozenset(part.seed for part in manifest.parts),
        dataset=str(manifest.settings.get("dataset") or ""),
        composite=bool(children),
    )
    return use, manifest.settings


def _folders(out: Path) -> list[Path]:
    try:
        return sorted(path for path in out.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def store_folder(settings: Mapping[str, Any], folder: Path) -> Path:
    """The folder of the store that a study was started with; of one behind a URL this machine's own.

    Args:
        settings: of its manifest.
        folder: the study's: a store that no option named lies beside it, wherever both are now.
    """
    place = settings.get("store")
    if is_url(place):
        return cache_folder(str(place))
    return folder.resolve().parent / "store" if place is None else expand_home(Path(str(place)))


def _uses_another(settings: Mapping[str, Any], folder: Path, store: Path) -> bool:
    """Whether a study was surely started with another store: one that is there, and is not this one."""
    own = store_folder(settings, folder)
    return own.is_absolute() and own.is_dir() and own.resolve() != store.resolve()
