"""Files of judged scenarios: in the study's folder until they are sent, and in MLflow afterwards."""

import tempfile
from pathlib import Path

from defenses.registry import UserError
from study.analysis.results import Results
from study.ledger.study_folder import OUTBOX, POINTS
from tracking import names
from tracking.artifact_root import find_run_file
from tracking.artifacts import Flags, read_flags
from tracking.destination import Target, tracking_target
from tracking.outbox import finished_runs


class RunFiles:
    """What the runs of a study left beside their metrics. A server that cannot be reached is asked once.

    Args:
        results: the study.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._runs = [run for run in finished_runs(results.folder / OUTBOX) if run.startswith("scenario/")]
        self._away = False

    def flags(self, trial: int, scenario: str) -> Flags | None:
        """Who was flagged; None for a defense that flags nothing, and where the file is not here or is damaged."""
        content = self._content(trial, scenario, names.SCORES_NPZ)
        if content is None:
            return None
        with tempfile.TemporaryDirectory(prefix="flags-") as folder:
            path = Path(folder) / "scores.npz"
            path.write_bytes(content)
            try:
                return read_flags(path)
            except ValueError:
                return None

    def preview(self, trial: int, scenario: str) -> bytes | None:
        """The attack's picture, a PNG file; None where it is not here."""
        return self._content(trial, scenario, names.PREVIEW_PNG)

    def _content(self, trial: int, scenario: str, artifact: str) -> bytes | None:
        key = str(self._results.trials.at[trial, "key"])
        local = self._results.folder / POINTS / key / scenario / artifact
        try:
            return local.read_bytes()
        except OSError:  # sent, and removed here
            pass
        run = next((run for run in self._runs if run.endswith(f"/{key}/{scenario}")), None)
        return None if run is None else self._sent(run, artifact)

    def _sent(self, run: str, artifact: str) -> bytes | None:
        config = self._results.config
        try:
            target = tracking_target(config.tracking_uri, config.space, self._results.folder.resolve().parent)
            if target.database is None or target.artifacts is None:
                return self._fetched(target, run, artifact)
            path = find_run_file(target.database, target.artifacts, run, artifact)
            return None if path is None else path.read_bytes()
        except (UserError, OSError):  # no address of MLflow's, or a file that went meanwhile
            return None

    def _fetched(self, target: Target, run: str, artifact: str) -> bytes | None:
        """From a server."""
        from tracking.mlflow_log import fetch_artifact

        if self._away:
            return None
        with tempfile.TemporaryDirectory(prefix="artifact-") as folder:
            try:
                copy = fetch_artifact(target, run, artifact, Path(folder))
                return None if copy is None else copy.read_bytes()
            except Exception:  # whatever MLflow raises, a report is written without it
                self._away = True
                return None
