"""What Ray and MLflow must be told through the environment before they are imported. Loads neither."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from study.cli.waiting import wait_passively
from tracking.environment import quiet_mlflow

_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us, and we know what to keep
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # of all trials as text, from which nothing is ever restored
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OF_THE_MACHINE = {
    "RAY_TMPDIR",
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE",
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES",
    "RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION",
    "RAY_DISABLE_DOCKER_CPU_WARNING",
    "RAY_USE_MULTIPROCESSING_CPU_COUNT",
    "RAY_memory_usage_threshold",
    "RAY_memory_monitor_refresh_ms",
    "RAY_BACKEND_LOG_LEVEL",
    "RAY_worker_niceness",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
}
"""What tells Ray of this machine (its disks, memory, load) and of its user, and so holds here as it does elsewhere."""

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_UV = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_SHELL_FILES = ("BASH_ENV", "ENV")
"""Files that a shell runs before anything else: Ray starts some workers through bash."""

_FOR_WORKERS = (
    "RAY_USAGE_STATS_ENABLED",
    "MLFLOW_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
)


def quiet_ray() -> None:
    """No telemetry, no chatter."""
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)


def before_imports(local: bool) -> tuple[str, ...]:
    """Everything that a study needs set. Workers that are started here inherit it.

    Args:
        local: Ray will be started here, not joined.

    Returns:
        Variables of Ray's that were set aside. They were meant for some cluster, job or worker that this process runs
        beside or in, and would decide how the workers of this study start.
    """
    quiet_ray()
    quiet_mlflow()
    wait_passively()
    aside = _set_aside() if local else ()
    if local or not in_job():
        os.environ[_UV] = "0"  # Ray would start workers by the `uv run` it finds above us, in an environment of its own
    # After a minute without its head Ray ends this process at once; what watches the head here is quicker.
    os.environ[_PATIENCE] = "600"
    if local:
        # Ray takes 127.0.0.1 for a mistake and binds every interface instead. Where it makes no clusters, as on
        # Windows and macOS, it stays on loopback; this asks for the same here.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return aside


def _set_aside() -> tuple[str, ...]:
    """Takes away whatever tells Ray of another cluster, and gives its names."""
    ours = {*_RAY, *_OF_THE_MACHINE, _UV, _PATIENCE, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    names = sorted(name for name in os.environ if name.startswith(("RAY_", "TUNE_")) and name not in ours)
    for name in names:
        del os.environ[name]
    return tuple(name for name in names if name != "RAY_CLIENT_MODE")  # which Ray itself sets, to off


def in_job() -> bool:
    """Whether this process is a job's, submitted to a cluster with the code and the environment of its workers."""
    return _JOB in os.environ


@contextmanager
def workers_inherit_this_process() -> Iterator[None]:
    """While this holds, what is started gets the modules of this process, wherever it has them from.

    `sys.path` may have been set by an option, by code, or relative to the folder that it was started in, none of which
    a child process would know.
    """
    unheard = ("PYTHONHOME",) if sys.flags.ignore_environment else ()
    changed = ("PYTHONPATH", *_SHELL_FILES, *unheard, _PATIENCE)
    before = {name: os.environ.pop(name) for name in changed if name in os.environ}
    places = dict.fromkeys(os.path.abspath(place) for place in sys.path if os.pathsep not in place)
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        os.environ.update(before)


def for_workers() -> dict[str, str]:
    """What workers on other machines, which inherit nothing from here, are to have as well."""
    return {name: os.environ[name] for name in _FOR_WORKERS if name in os.environ}
