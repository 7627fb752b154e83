"""Figures of a report as files of the study: PNG copies in its folder, and in MLflow as files of its run."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from defenses.registry import UserError
from study.ledger.lock import study_lock
from study.ledger.manifest import Manifest, read_manifest
from study.ledger.study_folder import OUTBOX, check_no_links
from tracking import names
from tracking.destination import Target, tracking_target
from tracking.mlflow_log import now_ms
from tracking.outbox import Outbox, Record

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
        UserError: another process holds the study, or what it was started with cannot be read.
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
                artifacts=str((folder / REPORT).resolve()),
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
    from tracking.mlflow_log import RunLog, deliver

    run_log = RunLog(target.uri, target.experiment, target.artifacts)
    for record, position in outbox.pending():
        deliver(run_log, outbox, record, position)
