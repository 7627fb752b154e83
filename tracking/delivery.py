"""Hands a record with its files to MLflow, once, and lets go of what has arrived."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tracking.outbox import Outbox, Record, find_files
from tracking.refusals import RecordRefused

if TYPE_CHECKING:
    from tracking.mlflow_log import RunLog

_TOGETHER = 20  # records: other processes that write to the same database wait for them


@dataclass(frozen=True)
class Delivery:
    """What became of a record that was sent.

    Attributes:
        refused: why it keeps waiting; empty where it was taken whole.
        elsewhere: its files are only where they were sent before.
    """

    refused: str = ""
    elsewhere: bool = False


def deliver(run_log: "RunLog", outbox: Outbox, record: Record, position: int, keep: bool = False) -> Delivery:
    """Takes a record in, marks it as sent, and removes its artifacts here unless they are to be kept.

    Artifacts lie below the outbox. A record that names another folder was not written by a study: sending that
    folder would give it away, and then remove it. A record that is refused, or whose files are nowhere, keeps waiting.

    Raises:
        AddressRefused: MLflow takes nothing that is sent there.
        Exception: whatever MLflow raises when it cannot be reached.
    """
    files = find_files(record.artifacts, outbox.path.parent) if record.artifacts else None
    try:
        run_log.take(replace(record, artifacts=str(files or "")))
    except RecordRefused as refusal:
        outbox.refuse(position)
        return Delivery(refused=str(refusal))
    missing = bool(record.artifacts) and files is None
    if missing and Path(record.artifacts).is_absolute() and Path(record.artifacts).is_dir():
        outbox.refuse(position)
        return Delivery(refused=f"it names files outside its study, which are left alone: {record.artifacts}")
    # Of a run whose files are kept here and sent again when they change, files that are there prove nothing.
    elsewhere = missing and (record.keep_artifacts or not run_log.has_files(record.run))
    if elsewhere and not outbox.was_sent(position):
        outbox.refuse(position)
        return Delivery(refused=f"its files are not in the study's folder: put {record.artifacts} back")
    outbox.mark(position)
    if files is not None and not (keep or record.keep_artifacts):
        shutil.rmtree(files, ignore_errors=True)
    return Delivery(elsewhere=elsewhere)


def deliver_pending(run_log: "RunLog", outbox: Outbox, refused: bool, tell: Callable[[Record, str], None]) -> None:
    """Hands over all that waits.

    Args:
        refused: also what was refused before.
        tell: told of each record that is refused, and why.

    Raises:
        AddressRefused: MLflow takes nothing that is sent there.
        Exception: whatever MLflow raises when it cannot be reached.
    """
    sent = outbox.sent
    for record, position in outbox.pending() if refused else ():
        if position > sent:
            break
        _deliver_told(run_log, outbox, record, position, tell)
    while True:
        if _deliver_together(run_log, outbox):
            continue
        waiting = next(outbox.pending(refused=False), None)
        if waiting is None:
            return
        _deliver_told(run_log, outbox, *waiting, tell)


def _deliver_told(
    run_log: "RunLog", outbox: Outbox, record: Record, position: int, tell: Callable[[Record, str], None]
) -> None:
    delivery = deliver(run_log, outbox, record, position)
    if delivery.refused:
        tell(record, delivery.refused)


def _deliver_together(run_log: "RunLog", outbox: Outbox) -> bool:
    """Hands over the first of the records that wait, as many as go together; False where the first goes by itself."""
    batch: list[Record] = []
    finished: list[Path] = []
    last = 0
    for record, position in itertools.islice(outbox.pending(refused=False), _TOGETHER):
        files = find_files(record.artifacts, outbox.path.parent) if record.artifacts else None
        if (record.artifacts and files is None) or not run_log.can_join(record):
            break
        batch.append(replace(record, artifacts=str(files or "")))
        last = position
        if files is not None and not record.keep_artifacts:
            finished.append(files)
    if not batch or not run_log.take_together(batch):
        return False
    outbox.mark(last)
    for files in finished:
        shutil.rmtree(files, ignore_errors=True)
    return True
