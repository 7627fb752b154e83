"""What Ray and MLflow must be told through the environment before they are imported. Loads neither."""

import os

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


def before_imports(local: bool) -> None:
    """Everything that a study needs set. Workers that are started here inherit it.

    Args:
        local: Ray will be started here, not joined.
    """
    quiet_ray()
    quiet_mlflow()
    if local:
        # Ray takes 127.0.0.1 for a mistake and binds every interface instead. Where it makes no clusters, as on
        # Windows and macOS, it stays on loopback; this asks for the same here.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def for_workers() -> dict[str, str]:
    """What workers on other machines, which inherit nothing from here, are to have as well."""
    return {name: os.environ[name] for name in _FOR_WORKERS if name in os.environ}
