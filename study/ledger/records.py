"""Results on disk: one file a scenario and one a trial, whole or not there at all."""

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from defenses.registry import UserError
from defenses.storage.atomic_files import canonical, disk_errors, write_atomic

if TYPE_CHECKING:
    from study.scenarios.evaluation import EvaluationResult  # loads torch, which only those who judge need

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScenarioRecord:
    """What is kept of one scenario of a trial.

    Attributes:
        artifacts: folder with the files for tracking, until they are taken, as a path within the study's own folder;
            whole in records of earlier versions; empty for none.

    Raises:
        UserError: a metric is no finite number; nothing that is kept, compared or shown may hold one.
    """

    scenario: str
    metrics: dict[str, float | None]
    series: dict[str, list[float]]
    stages: list[dict[str, Any]]
    meta: dict[str, Any]
    attack_failed: bool
    wall_seconds: float
    artifacts: str = ""

    def __post_init__(self) -> None:
        numbers = [*self.metrics.items(), *((name, value) for name, values in self.series.items() for value in values)]
        for name, value in numbers:
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise UserError(f"{name} must be a finite number, got {value!r}")

    @property
    def stored_stages(self) -> int:
        """Stages that were in the store already."""
        return sum(stage["hit"] for stage in self.stages)

    @property
    def built_seconds(self) -> float:
        """What its stages took when they were built, by whoever built them."""
        return float(sum(stage["built_seconds"] for stage in self.stages))


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial: its point and all its scenarios in the order in which they were judged, or why it failed.

    Attributes:
        stopped: it was stopped early, after the scenarios that stand here.
        read: or after its training was read at this epoch on every scenario; 0 where no epochs are compared.
    """

    key: str
    point: dict[str, Any]
    scenarios: list[str] = field(default_factory=list)
    failure: str = ""
    stopped: bool = False
    read: int = 0


R = TypeVar("R", ScenarioRecord, TrialRecord)
_TRIAL = "result.json"


def scenario_path(point: Path, scenario: str) -> Path:
    """Where the record of a scenario lies in the folder of a point."""
    return point / f"{scenario}.json"


def read_path(point: Path, scenario: str, epoch: int) -> Path:
    """Where the record of a scenario lies whose training was read after an epoch that is not a trial's own."""
    return scenario_path(point / f"read-{epoch}", scenario)


def early_paths(point: Path) -> list[Path]:
    """The records of scenarios whose training was read after an epoch that is not a trial's own."""
    return sorted(point.glob("read-*/*.json"))


def trial_path(point: Path) -> Path:
    """Where the record of a trial lies in the folder of its point."""
    return point / _TRIAL


def is_trial_path(path: Path) -> bool:
    """Whether a file in the folder of a point is the record of its trial."""
    return path.name == _TRIAL


def scenario_paths(point: Path) -> list[Path]:
    """The records of scenarios that lie in the folder of a point, by name; none where there is no such folder."""
    records = (path for path in point.glob("*.json") if not is_trial_path(path))
    return sorted(records, key=lambda path: path.stem)  # a scenario before its repeats, whose names go on after its own


def build_record(result: "EvaluationResult", artifacts: Path) -> ScenarioRecord:
    """The part of a cell's result that is kept."""
    return ScenarioRecord(
        scenario=result.scenario.name,
        metrics=result.metrics,
        series=result.series,
        stages=[asdict(stage) for stage in result.stages],
        meta=result.meta,
        attack_failed=result.attack_failed,
        wall_seconds=result.wall_seconds,
        artifacts=str(artifacts),
    )


def write_record(path: Path, record: ScenarioRecord | TrialRecord) -> None:
    """Writes a record with its checksum; atomic."""
    content = asdict(record)
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"sha256": _checksum(content), "record": content}, indent=1))


# Made once: making one takes longer than checking a record with it.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (ScenarioRecord, TrialRecord)}


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["sha256"] == _checksum(content["record"]):
            record = kind(**content["record"])  # a TypeError when another version wrote other fields
            checked: R = _ADAPTERS[kind].validate_python(vars(record))
            return checked  # a checksum is no proof of the fields' types
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a UserError is a ValueError
        pass
    log.warning("%s is damaged, or of another version: it counts as missing", path)
    return None


def read_scenario(path: Path) -> ScenarioRecord | None:
    """The record of a scenario; None when it is missing, damaged or of another version."""
    return _read(path, ScenarioRecord)


def read_trial(path: Path) -> TrialRecord | None:
    """The record of a trial; None when it is missing, damaged or of another version."""
    return _read(path, TrialRecord)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()
