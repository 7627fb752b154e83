"""What MLflow must be told through the environment before it is imported. Loads nothing."""

import os

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def quiet_mlflow() -> None:
    """Settings that must be made before MLflow is imported: no telemetry, no unpickling, short waits for a server."""
    for name in [name for name, value in os.environ.items() if name.startswith("MLFLOW_") and not value.strip()]:
        del os.environ[name]  # MLflow takes an empty one for a value, and fails at each request, or writes elsewhere
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # whatever is set: nothing here loads a model
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    spare_loopback()


def spare_loopback() -> None:
    """Keeps what is sent on this machine from a proxy that the surroundings name for all that leaves it."""
    if not any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        return
    spared = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    if "*" not in spared:
        spared = [name.strip() for name in spared if name.strip()]
        spared += [name for name in _LOOPBACK if name not in spared]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(spared)
