"""The only file that speaks to MLflow: replays an outbox, creates runs, and never lets an outage stop a study."""

import getpass
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from filelock import FileLock

from tracking import names
from tracking.destination import Target
from tracking.outbox import Outbox, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_RETRY_SECONDS = (1, 2, 5, 15, 60)
_IDLE_SECONDS = 0.25
_PARAM_LENGTH = 6000  # what MLflow's stores accept
_BATCH = 1000  # metrics a request


def quiet_mlflow() -> None:
    """Settings that must be made before MLflow is imported: no telemetry, no unpickling, short waits for a server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # whatever is set: nothing here loads a model
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


class RunLog:
    """Takes records into MLflow; each run is found again by its key, so nothing is created twice.

    Args:
        uri: of the tracking server or ``sqlite:///`` file.
        experiment: its name; made when it is missing.
        artifact_location: where a new experiment keeps artifacts; None leaves it to a server.
    """

    def __init__(self, uri: str, experiment: str, artifact_location: str | None) -> None:
        quiet_mlflow()
        from mlflow import MlflowClient

        if not logging.getLogger().isEnabledFor(logging.INFO):
            for name in ("mlflow", "alembic", "urllib3"):  # an outage is told once, in our words
                logging.getLogger(name).setLevel(logging.ERROR)
            logging.getLogger("mlflow.store.db.utils").setLevel(
                logging.CRITICAL
            )  # with a traceback, where we tell it too
        with _alone(uri):
            self.client: MlflowClient = MlflowClient(tracking_uri=uri)
            self.experiment_id: str = self._experiment(experiment, artifact_location)
        self._runs: dict[str, str] = {}

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        from mlflow import MlflowException

        if experiment := self.client.get_experiment_by_name(name):
            return str(experiment.experiment_id)
        tags = {names.TAG_EXPERIMENT_KIND: names.MODEL_TRAINING}
        try:
            return str(self.client.create_experiment(name, artifact_location, tags))
        except MlflowException:  # another driver was quicker
            if experiment := self.client.get_experiment_by_name(name):
                return str(experiment.experiment_id)
            raise

    def take(self, record: Record) -> str:
        """Logs one record and gives the run's id. Taking a record twice changes nothing."""
        from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

        run_id = self._run_id(record)
        metrics = [Metric(name, value, record.time_ms, 0) for name, value in record.metrics.items()]
        for name, values in record.series.items():
            metrics += [Metric(name, value, record.time_ms, step) for step, value in enumerate(values)]
        # MLflow refuses a whole batch for a param that changed: the first value stands.
        held = self.client.get_run(run_id).data.params if record.params else {}
        params = [Param(name, value[:_PARAM_LENGTH]) for name, value in record.params.items() if name not in held]
        tags = [RunTag(name, value) for name, value in record.tags.items()]
        self.client.log_batch(run_id, metrics=metrics[:_BATCH], params=params, tags=tags)
        for start in range(_BATCH, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        if record.dataset is not None:
            name, digest = record.dataset
            # MLflow's digests are short; the whole fingerprint is a tag.
            self.client.log_inputs(run_id, [DatasetInput(Dataset(name, digest[:32], "local", "{}"))])
        if record.artifacts and Path(record.artifacts).is_dir():
            self.client.log_artifacts(run_id, record.artifacts)
        if record.status != "RUNNING":
            self.client.set_terminated(run_id, record.status, record.time_ms)
        return run_id

    def _run_id(self, record: Record) -> str:
        known = self._runs.get(record.run) or self._find(record.run)
        if known is None:
            tags = {names.TAG_RUN_KEY: record.run, names.TAG_RUN_HASH: _hash(record.run), names.TAG_NAME: record.name}
            if record.parent is not None:
                tags[names.TAG_PARENT] = self._runs.get(record.parent) or self._find(record.parent) or ""
            tags |= {names.TAG_SOURCE: "study.run", names.TAG_SOURCE_TYPE: "LOCAL", names.TAG_USER: _user()}
            start = record.start_ms or record.time_ms
            created = self.client.create_run(self.experiment_id, start, tags, record.name)
            known = created.info.run_id
        self._runs[record.run] = known
        return known

    def _find(self, run_key: str) -> str | None:
        run_id = _find_run(self.client, self.experiment_id, run_key)
        if run_id is not None:
            self._runs[run_key] = run_id
        return run_id


def _find_run(client: "MlflowClient", experiment_id: str, run_key: str) -> str | None:
    query = f"tags.`{names.TAG_RUN_HASH}` = '{_hash(run_key)}'"
    runs = client.search_runs([experiment_id], query, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def fetch_artifact(target: Target, run_key: str, artifact: str, folder: Path) -> Path | None:
    """Copies one file of a run into a folder. No database, experiment or run is created.

    Args:
        run_key: as `tracking.names.run_key` gives it.
        artifact: its path within the run.

    Returns:
        Where the copy lies; None when there is no such database, experiment, run or file.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    if target.uri.startswith("sqlite:///") and not _database_file(target.uri).is_file():
        return None  # MLflow would make one
    quiet_mlflow()
    from mlflow import MlflowClient

    with _alone(target.uri):
        client = MlflowClient(tracking_uri=target.uri)
        experiment = client.get_experiment_by_name(target.experiment)
    run_id = _find_run(client, experiment.experiment_id, run_key) if experiment else None
    if run_id is None:
        return None
    siblings = client.list_artifacts(run_id, str(PurePosixPath(artifact).parent))
    if artifact not in {item.path for item in siblings}:
        return None
    return Path(client.download_artifacts(run_id, artifact, str(folder)))


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Lets one process at a time open a database file: of several that make its tables at once, all but one die."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = _database_file(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f"{database.name}.lock")):
        yield


def _database_file(uri: str) -> Path:
    from sqlalchemy import make_url

    return Path(str(make_url(uri).database))


def deliver(run_log: RunLog, outbox: Outbox, record: Record, position: int, keep: bool = False) -> None:
    """Takes a record in, marks it as sent, and removes its artifacts here unless they are to be kept.

    Artifacts lie below the outbox. A record that names another folder was not written by a study: sending that
    folder would give it away, and then remove it.
    """
    if record.artifacts and not _below(Path(record.artifacts), outbox.path.parent):
        log.warning("%s names files outside its study, which are left alone: %s", outbox.path, record.artifacts)
        record = replace(record, artifacts="")
    run_log.take(record)
    outbox.mark(position)
    if record.artifacts and not (keep or record.keep_artifacts):
        shutil.rmtree(record.artifacts, ignore_errors=True)


def _below(path: Path, folder: Path) -> bool:
    return path.resolve() != folder.resolve() and path.resolve().is_relative_to(folder.resolve())


class Sender:
    """A thread that sends an outbox to MLflow as it grows.

    An unreachable server costs one warning; what could not be sent stays in the outbox for the next start.

    Args:
        outbox: what to send.
        uri, experiment, artifact_location: see `RunLog`.
    """

    def __init__(self, outbox: Outbox, uri: str, experiment: str, artifact_location: str | None) -> None:
        self._outbox = outbox
        self._target = (uri, experiment, artifact_location)
        self._run_log: RunLog | None = None
        self._closing = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._send_all, name="mlflow-sender", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Waits until everything is sent, at most `timeout` seconds; False when something is left."""
        self._closing.set()
        self._thread.join(timeout)
        return next(self._outbox.pending(), None) is None

    def _send_all(self) -> None:
        failures = 0
        while True:
            closing = self._closing.is_set()  # read before sending: what came before closing is always sent
            try:
                self._send_pending()
                failures = 0
            except Exception as error:  # whatever MLflow raises, the study must go on
                if not self._warned:
                    log.warning(
                        "MLflow at %s cannot be reached (%s); results wait in %s and are sent when it is back",
                        self._target[0],
                        str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
                        self._outbox.path,
                    )
                    self._warned = True
                if closing:
                    return
                self._closing.wait(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1
                continue
            if closing:
                return
            self._closing.wait(_IDLE_SECONDS)

    def _send_pending(self) -> None:
        for record, position in self._outbox.pending():
            if self._run_log is None:
                self._run_log = RunLog(*self._target)
            deliver(self._run_log, self._outbox, record, position)


def _hash(run_key: str) -> str:
    """A key as MLflow's filters can take it: they have no way to write every character."""
    return hashlib.sha256(run_key.encode()).hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in a container
        return ""


def now_ms() -> int:
    """The time for a record."""
    return int(time.time() * 1000)
