"""Figures of a report as files of the study: PNG copies in its folder, and in MLflow as files of its run."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from defenses.registry import UserError
from study.ledger.lock import study_lock
from study.ledger.manifest import Manifest, read_manifest
from study.ledger.study_folder import OUTBOX, check_no_links
from tracking import names
from tracking.delivery import deliver
from tracking.destination import Target, check_database, tracking_target
from tracking.mlflow_log import now_ms
from tracking.outbox import Outbox, Record
from tracking.refusals import RecordRefused

REPORT = "report"


def write_pictures(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    """Writes PNG files into ``report/figures`` of a study's folder, in place of those of an earlier report.

    Args:
        pictures: by the figure's name.

    Returns:
        The folder ``report``.

    Raises:
        UserError: there is a link in the study's folder.
        OSError: the folder cannot be written.
    """
    check_no_links(folder)
    report = folder / REPORT
    shutil.rmtree(report / names.FIGURES, ignore_errors=True)
    (report / names.FIGURES).mkdir(parents=True)
    for name, picture in pictures.items():
        (report / names.FIGURES / f"{name}.png").write_bytes(picture)
    return report


def log_pictures(folder: Path) -> None:
    """Sends what `write_pictures` wrote to the study's run in MLflow, and whatever else waits in its outbox.

    Raises:
        UserError: another process holds the study, what it was started with cannot be read, or its MLflow is no place
            to write to.
        Exception: whatever MLflow raises; the record then waits in the outbox for `study.sync`.
    """
    with study_lock(folder, folder.name):
        manifest = _readable(folder)
        outbox = Outbox(folder / OUTBOX)
        outbox.append(
            Record(
                run=names.run_key("study", folder.name, manifest.identity),
                parent=None,
                name=folder.name,
                time_ms=now_ms(),
                artifacts=REPORT,
                keep_artifacts=True,
            )
        )
        target = tracking_target(manifest.config.tracking_uri, manifest.config.space, folder.resolve().parent)
        _send(outbox, target)


def _readable(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except ValueError as error:
        raise UserError(str(error)) from error


def _send(outbox: Outbox, target: Target) -> None:
    from tracking.mlflow_log import open_log

    check_database(target, make=False)
    run_log = open_log(target, outbox)
    refused = [deliver(run_log, outbox, *waiting).refused for waiting in outbox.pending()]
    if any(refused):
        raise RecordRefused(next(filter(None, refused)))
