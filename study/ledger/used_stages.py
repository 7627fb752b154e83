"""Which entries of the store a study's records name, and a summary of them for whoever asks often.

A driver leaves the summary when it closes. It counts the records that it was made of, and is passed over where there
are others by now; then the records themselves are read.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defenses.storage.atomic_files import write_atomic
from study.ledger.records import early_paths, is_trial_path
from study.ledger.study_folder import POINTS, STAGES

Name = tuple[str, str]
"""Stage and key of an entry."""


@dataclass(frozen=True)
class UsedStages:
    """What records name.

    Attributes:
        names: of entries.
        fingerprints: of poisoned data.
        damaged: whether a record cannot be read.
        read: how many records were read for it; none where there was a summary.
    """

    names: frozenset[Name] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    damaged: bool = False
    read: int = 0


def read_used_stages(folder: Path, most: int | None = None) -> UsedStages | None:
    """What the records of a study name.

    Args:
        folder: the study's.
        most: how many records may be read for that, where there is no summary; None for all.

    Returns:
        None where they are more.
    """
    records = _records(folder)
    summary = _read_summary(folder, len(records))
    if summary is not None:
        return summary
    return None if most is not None and len(records) > most else _read(records)


def keep_used_stages(folder: Path) -> None:
    """Leaves the summary of what the records of a study name now."""
    records = _records(folder)
    used = _read(records)
    stages: dict[str, list[str]] = {}
    for stage, key in sorted(used.names):
        stages.setdefault(stage, []).append(key)
    content = {"records": len(records), "fingerprints": sorted(used.fingerprints), "stages": stages}
    if used.damaged:  # it is read again, and may be mended by then
        (folder / STAGES).unlink(missing_ok=True)
    else:
        write_atomic(folder / STAGES, json.dumps(content, indent=1) + "\n")


def _read_summary(folder: Path, records: int) -> UsedStages | None:
    try:
        content = json.loads((folder / STAGES).read_bytes())
        if content["records"] != records:
            return None
        names = {(str(stage), str(key)) for stage, keys in content["stages"].items() for key in keys}
        return UsedStages(frozenset(names), frozenset(map(str, content["fingerprints"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _records(folder: Path) -> list[Path]:
    try:
        points = [Path(point.path) for point in os.scandir(folder / POINTS) if point.is_dir(follow_symlinks=False)]
        paths = [point / name for point in points for name in os.listdir(point) if name.endswith(".json")]
        paths += [path for point in points for path in early_paths(point)]  # all that a trial has which was stopped
    except OSError:  # nothing is done yet
        return []
    return [path for path in paths if not path.name.startswith(".") and not is_trial_path(path)]


def _read(records: Sequence[Path]) -> UsedStages:
    names: set[Name] = set()
    fingerprints: set[str] = set()
    damaged = False
    for path in records:
        try:
            record = json.loads(path.read_bytes())["record"]
            names.update((str(run["stage"]), str(run["key"])) for run in record["stages"])
            fingerprints.add(str(record["meta"].get("fingerprint", "")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged = True
    return UsedStages(frozenset(names), frozenset(fingerprints - {""}), damaged, len(records))
