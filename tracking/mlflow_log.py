"""The only file that speaks to MLflow: replays an outbox, creates runs, and never lets an outage stop a study."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from defenses.registry import UserError
from tracking import names
from tracking.artifact_root import local_folder, renew_artifact_root
from tracking.database import prepare_database
from tracking.delivery import deliver_pending
from tracking.destination import Target, database_file
from tracking.environment import quiet_mlflow
from tracking.experiment_tags import mark_experiment, set_tags
from tracking.mlflow_rows import DatabaseRows, is_plain
from tracking.outbox import Outbox, Record
from tracking.refusals import (
    AddressRefused,
    RecordRefused,
    Refused,
    deleted_experiment,
    passes,
    refused_address,
    refused_login,
    short_reason,
    unknown_folder,
)
from tracking.run_tags import (
    DATASET_LENGTH,
    DIGEST_LENGTH,
    NAME_LENGTH,
    PARAM_LENGTH,
    TAG_LENGTH,
    hash_key,
    new_run_tags,
    storable,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_RETRY_SECONDS = (1, 2, 5, 15, 60)
_AGAIN_SECONDS = (1, 2)  # between tries of a record that fails though MLflow answers
_IDLE_SECONDS = 0.25
_BATCH = 1000  # metrics a request


class RunLog:
    """Takes records into MLflow; each run is found again by its key, so nothing is created twice.

    Args:
        uri: of the tracking server or ``sqlite:///`` file.
        experiment: its name; made when it is missing.
        artifact_location: where a new experiment keeps artifacts; None leaves it to a server.

    Raises:
        AddressRefused: MLflow answers, and will take nothing that is sent there.
        UserError: the database was moved without its artifacts.
        Exception: whatever MLflow raises when it cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, artifact_location: str | None) -> None:
        quiet_mlflow()
        if not logging.getLogger().isEnabledFor(logging.INFO):
            for name in ("mlflow", "alembic", "urllib3"):  # an outage is told once, in our words
                logging.getLogger(name).setLevel(logging.ERROR)
            logging.getLogger("mlflow.store.db.utils").setLevel(
                logging.CRITICAL
            )  # with a traceback, where we tell it too
        self._uri, self._name = uri, experiment
        self._runs: dict[str, str] = {}
        try:
            with _alone(uri):
                follow_database(Target(uri, experiment, artifact_location))
                self.client: MlflowClient = _client(uri)
                self.experiment_id: str = self._open_experiment(artifact_location)
                mark_experiment(self.client, self.experiment_id)
        except (Refused, UserError):
            raise
        except Exception as error:
            refusal = refused_address(error)
            if refusal is None and passes(error):
                raise
            raise refusal or AddressRefused(short_reason(error)) from error
        database = database_file(uri)
        self._rows = None if database is None else DatabaseRows(database, self.experiment_id)

    def _open_experiment(self, artifact_location: str | None) -> str:
        from mlflow import MlflowException

        experiment = self.client.get_experiment_by_name(self._name)
        if experiment is None:
            tags = {names.TAG_EXPERIMENT_KIND: names.MODEL_TRAINING}
            try:
                return str(self.client.create_experiment(self._name, artifact_location, tags))
            except MlflowException:  # another driver was quicker
                experiment = self.client.get_experiment_by_name(self._name)
                if experiment is None:
                    raise
        self._check(experiment)
        if str(experiment.artifact_location) != artifact_location:
            self._check_folder(experiment)
        return str(experiment.experiment_id)

    def _check_folder(self, experiment: Any) -> None:
        """Refuses a folder that MLflow would make, and in which nobody would look: another machine's, or one gone."""
        folder = local_folder(str(experiment.artifact_location))
        if folder is None:
            return
        near = (
            (folder,) if database_file(self._uri) is None else (folder, *folder.parents[:2])
        )  # made when it is needed
        if not (folder.is_absolute() and any(place.is_dir() for place in near)):
            raise unknown_folder(str(experiment.artifact_location))

    def _check(self, experiment: Any) -> None:
        if experiment.lifecycle_stage == "deleted":
            raise deleted_experiment(self._name, str(experiment.experiment_id), self._uri)

    def take(self, record: Record) -> str:
        """Logs one record and gives the run's id. Taking a record twice changes nothing.

        Raises:
            AddressRefused: MLflow answers, and will take nothing that is sent there.
            RecordRefused: it does not take this one.
            Exception: whatever MLflow raises when it cannot be reached.
        """
        written = self._rows.write([record]) if self._rows is not None else []
        if written:
            return written[0]
        pauses = iter(_AGAIN_SECONDS)
        while True:
            try:
                return self._take(record)
            except Exception as error:
                refusal = self._refusal(error)
                if refusal is None:
                    raise
                self._runs.clear()  # a run may have been deleted meanwhile
                pause = next(pauses, None) if passes(error) else None
                if pause is None:
                    raise refusal from error
                time.sleep(pause)

    def can_join(self, record: Record) -> bool:
        """Whether a record may be among those of `take_together`."""
        return self._rows is not None and is_plain(record)

    def take_together(self, records: Sequence[Record]) -> bool:
        """Logs records at once, which is quicker; False where nothing of any was logged, and each is to be taken."""
        return self._rows is not None and bool(self._rows.write(records))

    def _refusal(self, error: Exception) -> Refused | None:
        """What an error means: None for an outage, in which MLflow does not even tell of the experiment."""
        if (without_login := refused_login(error)) is not None:
            return without_login
        try:
            self._check(self.client.get_experiment(self.experiment_id))
        except Refused as deleted:
            return deleted
        except Exception as unanswered:
            elsewhere = refused_address(unanswered)
            return elsewhere or (None if passes(unanswered) else AddressRefused(short_reason(unanswered)))
        return RecordRefused(short_reason(error))

    def _take(self, record: Record) -> str:
        from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

        run_id = self._run_id(record)
        set_tags(self.client, self.experiment_id, record.views)
        metrics = [Metric(name, value, record.time_ms, 0) for name, value in record.metrics.items()]
        for name, values in record.series.items():
            metrics += [Metric(name, value, record.time_ms, step) for step, value in enumerate(values)]
        # MLflow refuses a whole batch for a param that changed: the first value stands.
        held = self.client.get_run(run_id).data.params if record.params else {}
        told = {name: value for name, value in record.params.items() if name not in held}
        params = [Param(name, storable(value, PARAM_LENGTH)) for name, value in told.items()]
        tags = [RunTag(name, storable(value, TAG_LENGTH)) for name, value in record.tags.items()]
        self.client.log_batch(run_id, metrics=metrics[:_BATCH], params=params, tags=tags)
        for start in range(_BATCH, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        if record.dataset is not None:
            name, digest = record.dataset
            # MLflow's digests are short; the whole fingerprint is a tag. A long name is told by its end.
            known_as, short = storable(name[-DATASET_LENGTH:], DATASET_LENGTH), digest[:DIGEST_LENGTH]
            dataset = Dataset(known_as, short, "local", "{}")
            self.client.log_inputs(run_id, [DatasetInput(dataset)])
        if record.artifacts and Path(record.artifacts).is_dir():
            self.client.log_artifacts(run_id, record.artifacts)
        if record.status != "RUNNING":
            self.client.set_terminated(run_id, record.status, record.time_ms)
        return run_id

    def _run_id(self, record: Record) -> str:
        known = self._runs.get(record.run) or self._find(record.run)
        if known is None:
            name = storable(record.name, NAME_LENGTH)
            tags = new_run_tags(record.run)
            if record.parent is not None:
                tags[names.TAG_PARENT] = self._parent_id(record.parent, record.time_ms)
            start = record.start_ms or record.time_ms
            created = self.client.create_run(self.experiment_id, start, tags | {names.TAG_NAME: name}, name)
            known = created.info.run_id
        self._runs[record.run] = known
        return known

    def _parent_id(self, run_key: str, time_ms: int) -> str:
        """The run that another is nested in; made where what told of it was refused, or is damaged."""
        bare = Record(run_key, None, run_key.split("/")[0], time_ms)
        return self._runs.get(run_key) or self._run_id(bare)

    def _find(self, run_key: str) -> str | None:
        run_id = _find_run(self.client, self.experiment_id, run_key)
        if run_id is not None:
            self._runs[run_key] = run_id
        return run_id

    def knows(self, run_key: str) -> bool:
        """Whether a run was ever created here, even if somebody deleted it since."""
        return _find_run(self.client, self.experiment_id, run_key, deleted=True) is not None

    def has_files(self, run_key: str) -> bool:
        """Whether a run has artifacts."""
        run_id = self._runs.get(run_key) or self._find(run_key)
        return run_id is not None and bool(self.client.list_artifacts(run_id))


def _find_run(client: "MlflowClient", experiment_id: str, run_key: str, deleted: bool = False) -> str | None:
    from mlflow.entities import ViewType

    query = f"tags.`{names.TAG_RUN_HASH}` = '{hash_key(run_key)}'"
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    runs = client.search_runs([experiment_id], query, view, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def open_log(target: Target, outbox: Outbox) -> RunLog:
    """MLflow, for an outbox. One that has none of what it took before, as another or a new one, is sent all of it.

    Raises:
        Exception: what `RunLog` raises.
    """
    run_log = RunLog(target.uri, target.experiment, target.artifacts)
    first = next(outbox.passed_on(), None)
    if first is not None and not run_log.knows(first.run):
        told = (
            "MLflow at %s has nothing of what was sent from %s before: all of it is sent, but files that went elsewhere"
        )
        log.warning(told, target.uri, outbox.path)
        outbox.start_over()
    return run_log


def follow_database(target: Target) -> None:
    """Points the runs of a database file that was moved or copied to the folder of artifacts that lies beside it now.

    Raises:
        UserError: artifacts were left behind.
    """
    if target.database is None or target.artifacts is None:
        return
    for earlier in renew_artifact_root(target.database, target.artifacts):
        here = local_folder(target.artifacts)
        log.warning("%s was moved: its runs' files are looked for in %s now, and not in %s", target.uri, here, earlier)


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
    if target.database is not None and not target.database.is_file():
        return None  # MLflow would make one
    quiet_mlflow()

    with _alone(target.uri):
        follow_database(target)
        client = _client(target.uri)
        experiment = client.get_experiment_by_name(target.experiment)
    run_id = _find_run(client, experiment.experiment_id, run_key) if experiment else None
    if run_id is None:
        return None
    siblings = client.list_artifacts(run_id, str(PurePosixPath(artifact).parent))
    if artifact not in {item.path for item in siblings}:
        return None
    return Path(client.download_artifacts(run_id, artifact, str(folder)))


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    prepare_database(uri, utils)
    return MlflowClient(tracking_uri=uri)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Lets one process at a time open a database file: of several that make its tables at once, all but one die."""
    database = database_file(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f"{database.name}.lock")):
        yield


class Sender:
    """A thread that sends an outbox to MLflow as it grows.

    An unreachable server costs one warning; what could not be sent stays in the outbox for the next start. So does
    what MLflow refuses, which costs one warning too, and holds up nothing else.

    Args:
        outbox: what to send.
        uri, experiment, artifact_location: see `RunLog`.
    """

    def __init__(self, outbox: Outbox, uri: str, experiment: str, artifact_location: str | None) -> None:
        self._outbox = outbox
        self._target = Target(uri, experiment, artifact_location)
        self._run_log: RunLog | None = None
        self._closing = threading.Event()
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._send_all, name="mlflow-sender", daemon=True)
        self._thread.start()

    @property
    def experiment_id(self) -> str | None:
        """Of the study's experiment; None as long as MLflow was not reached."""
        return None if self._run_log is None else self._run_log.experiment_id

    def close(self, timeout: float) -> bool:
        """Waits until everything is sent, at most `timeout` seconds; False when something is left."""
        self._closing.set()
        self._thread.join(timeout)
        return next(self._outbox.pending(), None) is None

    def _send_all(self) -> None:
        failures, again = 0, True  # at the start, and once more at the end, what was refused is tried again
        while True:
            closing = self._closing.is_set()  # read before sending: what came before closing is always sent
            try:
                self._send_pending(refused=again or closing)
                failures, again = 0, False
            except Exception as error:  # whatever MLflow raises, the study must go on
                self._tell(error)
                if closing:
                    return
                self._closing.wait(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1
                continue
            if closing:
                return
            self._closing.wait(_IDLE_SECONDS)

    def _tell(self, error: Exception) -> None:
        if isinstance(error, Refused | UserError):
            what, later = f"refuses what it is sent: {error}", "are sent once that is mended"
        else:
            what, later = f"cannot be reached ({short_reason(error)})", "are sent when it is back"
        self._warn(what.split()[0], what, f"results wait in {self._outbox.path} and {later}")

    def _warn(self, kind: str, what: str, later: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("MLflow at %s %s; %s", self._target.uri, what, later)

    def _send_pending(self, refused: bool) -> None:
        if self._run_log is None and next(self._outbox.pending(refused), None) is not None:
            self._run_log = open_log(self._target, self._outbox)
        if self._run_log is not None:
            deliver_pending(self._run_log, self._outbox, refused, self._tell_refusal)

    def _tell_refusal(self, record: Record, reason: str) -> None:
        what = f"refuses {record.name!r}: {reason}"
        waits = f"it waits in {self._outbox.path}, as do others like it, until the next run or study.sync"
        self._warn("record", what, f"{waits} tries it again, and all else is sent")


def now_ms() -> int:
    """The time for a record."""
    return int(time.time() * 1000)
