"""The score histogram and the ROC curve of a trial's scenarios, for their runs in MLflow.

Drawing them takes far longer than a trial that only isolates. A worker draws the paper's default; here are drawn the
best trial, when a study ends, and any other, when somebody asks for it.
"""

from collections.abc import Callable
from pathlib import Path

from defenses.storage.atomic_files import full_disk_errors
from study.ledger.study_folder import POINTS
from tracking import artifacts
from tracking.artifacts import Flags
from tracking.mlflow_log import now_ms
from tracking.outbox import Outbox, Record

_DRAWN = "drawn"  # in the folder of a point, until they are sent


def draw_plots(folder: Path, outbox: Outbox, key: str, flags_of: Callable[[str], Flags | None]) -> int:
    """Draws what a trial flagged and puts it into the outbox, for each scenario of which that was not done before.

    Args:
        folder: of the study.
        outbox: of the study.
        key: of the trial.
        flags_of: the name of a scenario -> who was flagged there; None where that is not known.

    Returns:
        On how many scenarios there are plots now that were not there before.

    Raises:
        DiskFull: there is no room for them.
    """
    told = [record for record in outbox.records() if record.run.startswith("scenario/") and f"/{key}/" in record.run]
    before = {record.artifacts for record in told}
    drawn = 0
    for run, record in {record.run: record for record in told}.items():
        scenario = run.rpartition("/")[2]
        place = Path(POINTS, key, _DRAWN, scenario)
        if place.as_posix() in before or (folder / place).resolve() != folder.resolve() / place:  # a link leads away
            continue
        flags = flags_of(scenario)
        if flags is None or flags.scores is None:
            continue
        with full_disk_errors(folder):
            artifacts.write_plots(folder / place, flags.scores, flags.flagged, flags.is_poison, scenario)
            outbox.append(Record(run, record.parent, record.name, now_ms(), artifacts=place.as_posix()))
        drawn += 1
    return drawn
