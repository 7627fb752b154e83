"""Where a study stands, gathered from its folder alone. A driver may be writing it, and any file may be damaged."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from study.ledger import selection
from study.ledger.activity import Activity, read_activity
from study.ledger.clean_control import read_clean_control
from study.ledger.lock import holder
from study.ledger.manifest import Manifest, read_manifest
from study.ledger.records import ScenarioRecord, is_trial_path, read_scenario, read_trial
from study.ledger.snapshot import LedgerSnapshot, SnapshotTrial, read_ledger
from study.ledger.study_folder import LEDGER, MANIFEST, OUTBOX, POINTS
from tracking.outbox import Waiting, look


@dataclass(frozen=True)
class Progress:
    """How far one scenario is.

    Attributes:
        judged: trials that are done with it.
        undefended, best: metrics of the undefended model, and of the best trial (of several objectives the
            knee of their front); empty where there is no result.
    """

    name: str
    judged: int
    attack_failed: bool
    undefended: dict[str, float | None]
    best: dict[str, float | None]


@dataclass(frozen=True)
class StudyStatus:
    """What can be told of a study.

    Attributes:
        driver: the process that runs it now; None when nobody does.
        manifest: what it was started with; None where that cannot be read.
        ledger: None where it cannot be read.
        activity: what its last driver said that it does; None where none said anything.
        judged: scenarios with a result on disk, by point key; empty unless records were asked for.
        damage: what could not be read, a line each.
        clean_fpr: number of a trial -> seed -> the FPR when nothing is poisoned; empty unless records were asked for.
        go_on: the command; empty where there is none.
        parts: the studies that it is made of, as far as they were begun; their ledgers are its own.
    """

    folder: Path
    driver: str | None
    manifest: Manifest | None
    ledger: LedgerSnapshot | None
    outbox: Waiting
    activity: Activity | None = None
    judged: dict[str, list[str]] = field(default_factory=dict)
    scenarios: tuple[Progress, ...] = ()
    damage: tuple[str, ...] = ()
    clean_fpr: dict[int, dict[int, float]] = field(default_factory=dict)
    resume_command: str = ""
    extend_command: str = ""
    parts: tuple["StudyStatus", ...] = ()

    @property
    def trials(self) -> tuple[SnapshotTrial, ...]:
        """All trials of the ledger."""
        return self.ledger.trials if self.ledger else ()

    @property
    def has_ledger(self) -> bool:
        """Whether its trials are known."""
        return self.ledger is not None or bool(self.parts)

    @property
    def planned(self) -> int | None:
        """How many trials the last command asked for."""
        if self.parts:
            return None if any(part.planned is None for part in self.parts) else sum(p.planned or 0 for p in self.parts)
        return self.manifest.planned if self.manifest else None

    @property
    def _children(self) -> list[Path]:
        """The studies that it is made of, begun or not."""
        return self.manifest.child_studies(self.folder) if self.manifest else []

    @property
    def counts(self) -> Counter[str]:
        """Trials by state; what was stopped in the middle and is tried again is ``lost``."""
        if self.parts:
            return sum((part.counts for part in self.parts), Counter())
        return Counter("lost" if t.state == "fail" and not t.finished else t.state for t in self.trials)

    @property
    def left(self) -> int | None:
        """Trials that are still to finish, running ones included; None where nobody knows."""
        if self.parts:
            begun = len(self.parts) == len(self._children)
            return sum(part.left or 0 for part in self.parts) if begun else None
        if self.planned is None or self.ledger is None:
            return None
        return max(0, self.planned - sum(trial.finished for trial in self.trials))

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``stopped`` or ``damaged``."""
        if self.driver is not None:
            return "running"
        if self.left is None and (self.parts or self._children):
            return "stopped"
        return {None: "damaged", 0: "finished"}.get(self.left, "stopped")

    @property
    def running_part(self) -> "StudyStatus":
        """The study that is being run: itself, or one of those that it is made of."""
        return next((part for part in self.parts if part.driver is not None), self)

    @property
    def elapsed_seconds(self) -> float | None:
        """That its driver has been at it; None where nobody runs it, or nobody knows."""
        if self.driver is None:
            return None
        activity = self.running_part.activity
        return activity.elapsed(alive=True) if activity else None

    @property
    def spent_seconds(self) -> float | None:
        """That all its drivers were at it together; None where nobody knows."""
        states = self.parts or (self,)
        known = [state.activity for state in states if state.activity is not None]
        spent = [state.activity.spent(state.driver is not None) for state in states if state.activity is not None]
        return sum(spent) if known and all(activity.whole for activity in known) else None

    @property
    def left_seconds(self) -> float | None:
        """That what its driver does now will still take; None where nobody runs it, or nobody knows."""
        activity = self.running_part.activity
        return activity.left(alive=True) if activity and self.driver is not None else None

    @property
    def left_is_least(self) -> bool:
        """Whether `left_seconds` leaves something out: what was never measured, or studies that are still to come."""
        part = self.running_part
        others = bool(self.parts) and (self.left is None or self.left > (part.left or 0))
        return others or (part.activity is not None and part.activity.at_least)

    @property
    def front(self) -> list[SnapshotTrial]:
        """The best trial; several that none beats where there are several objectives."""
        return selection.front(self._comparable, self.ledger.directions) if self.ledger else []

    @property
    def best(self) -> SnapshotTrial | None:
        """The best trial; where there are several objectives, the knee of their front."""
        return selection.best_or_knee(self._comparable, self.ledger.directions) if self.ledger else None

    @property
    def _comparable(self) -> list[SnapshotTrial]:
        """The trials, less those whose results cannot be read whole: they count nowhere else either."""
        planned = set(self.manifest.scenarios) if self.manifest else set()
        return [t for t in self.trials if not self.judged or planned <= set(self.judged.get(t.key, ()))]

    @property
    def has_knee(self) -> bool:
        """Whether there are several objectives, so that `best` is the knee of their front."""
        return self.ledger is not None and len(self.ledger.directions) > 1

    @property
    def failures(self) -> list[SnapshotTrial]:
        """Trials that failed for good."""
        return [trial for trial in self.trials if trial.state == "fail" and trial.finished]


def read_status(folder: Path, out: Path, records: bool = True) -> StudyStatus:
    """Looks at a study, and changes nothing.

    Args:
        out: the folder of all studies, as the user names it.
        records: read every result on disk too.
    """
    damage: list[str] = []
    driver = holder(folder)  # first: what it had written by then is in the files read below
    manifest = ledger = None
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        damage.append(str(error))
    children = manifest.child_studies(folder) if manifest else []
    try:
        ledger = None if children else read_ledger(folder / LEDGER)
    except ValueError as error:
        damage.append(str(error))
    outbox = _outbox(folder / OUTBOX, damage)
    activity = read_activity(folder)
    judged = _records(folder / POINTS, damage) if records else {}
    status = StudyStatus(
        folder=folder,
        driver=driver,
        manifest=manifest,
        ledger=ledger,
        outbox=outbox,
        activity=activity,
        judged={key: sorted(of_point) for key, of_point in judged.items()},
        damage=tuple(damage),
        resume_command=manifest.resume_command(out) if manifest else "",
        extend_command=_extend_command(manifest, out),
        parts=tuple(read_status(part, out, records=False) for part in children if (part / MANIFEST).is_file()),
    )
    if records and ledger:
        controls = read_clean_control(folder)
        status = dataclasses.replace(
            status, clean_fpr={trial.number: controls[trial.key] for trial in ledger.trials if trial.key in controls}
        )
    best = status.best
    planned = manifest.scenarios if manifest else ()
    return dataclasses.replace(status, scenarios=_progress(judged, planned, best.key if best else ""))


def _extend_command(manifest: Manifest | None, out: Path) -> str:
    """The command with twice the trials; empty for a grid, or for points that were given, which has no more."""
    if manifest is None or manifest.given_points or manifest.config.sampler == "grid":
        return ""
    return manifest.extend_command(out, 2 * int(manifest.planned or manifest.config.trials))


def _outbox(path: Path, damage: list[str]) -> Waiting:
    try:
        waiting = look(path)
    except OSError as error:
        damage.append(f"{path} cannot be read ({error.strerror})")
        return Waiting(0, 0)
    if waiting.damaged:
        damage.append(f"{path}: {waiting.damaged} lines cannot be read; what they said is sent anew by the next run")
    return waiting


def _records(points: Path, damage: list[str]) -> dict[str, dict[str, ScenarioRecord]]:
    """The readable scenarios of every point, by key and name."""
    records: dict[str, dict[str, ScenarioRecord]] = {}
    for path in sorted(points.glob("*/*.json")):
        try:
            record = read_trial(path) if is_trial_path(path) else read_scenario(path)
        except OSError:
            record = None
        if record is None and path.exists():
            damage.append(f"{path} is damaged, or of another version: it counts as missing")
        if isinstance(record, ScenarioRecord):
            records.setdefault(path.parent.name, {})[record.scenario] = record
    return records


def _progress(judged: dict[str, dict[str, ScenarioRecord]], planned: Sequence[str], best: str) -> tuple[Progress, ...]:
    """One line a scenario, in the plan's order; a study of an older version knows only those with a result."""
    names = planned or sorted({name for of_point in judged.values() for name in of_point})
    progress = []
    for name in names:
        records = [of_point[name] for of_point in judged.values() if name in of_point]
        progress.append(
            Progress(
                name=name,
                judged=len(records),
                attack_failed=any(record.attack_failed for record in records),
                undefended=records[0].metrics if records else {},
                best=judged[best][name].metrics if name in judged.get(best, {}) else {},
            )
        )
    return tuple(progress)
