"""What MLflow refuses for good, told from an outage, which passes: each is named with its way out."""

import shlex

_PASSING = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "RESOURCE_CONFLICT",
    "CANCELLED",
    "ABORTED",
}
"""MLflow's codes of errors that the same request may not meet again; a server that does not answer has the first."""

_LOGIN = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}
_NO_SERVER = {"ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"}
_SHOWN = 200  # characters of a reason


class Refused(Exception):
    """MLflow answers and does not take it. The message says why, and the way out."""


class AddressRefused(Refused):
    """It takes nothing at all that is sent to this address, or to this experiment."""


class RecordRefused(Refused):
    """It does not take one record; others it may."""


def short_reason(error: BaseException) -> str:
    """What an error says, in one line that is not too long."""
    lines = str(error).strip().splitlines()
    return lines[0][:_SHOWN] if lines else type(error).__name__


def passes(error: Exception) -> bool:
    """Whether an error is an outage's, so that the same request may succeed later."""
    code = getattr(error, "error_code", None)
    return isinstance(error, OSError) if code is None else code in _PASSING


def refused_login(error: Exception) -> AddressRefused | None:
    """The refusal of somebody whom the server does not know, or who may not write there."""
    if getattr(error, "error_code", None) not in _LOGIN:
        return None
    way_out = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return AddressRefused(f"{short_reason(error)}; {way_out}")


def refused_address(error: Exception) -> AddressRefused | None:
    """The refusal that an error stands for, where it concerns whatever is sent to the same address."""
    if getattr(error, "error_code", None) in _NO_SERVER or "valid JSON" in str(error):  # a server of something else
        return AddressRefused(f"{short_reason(error)}; is it an MLflow server's address? Name another (--tracking-uri)")
    return refused_login(error)


def deleted_experiment(name: str, experiment_id: str, uri: str) -> AddressRefused:
    """What is told of an experiment that was deleted: MLflow keeps its name, so that it can be made again by nobody."""
    command = f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore --experiment-id {experiment_id}"
    return AddressRefused(
        f"its experiment {name!r} was deleted; restore it ({command}), or name another address with --tracking-uri"
    )


def unknown_folder(location: str) -> AddressRefused:
    """What is told of an experiment whose files go to a folder that this machine does not have."""
    return AddressRefused(
        f"its experiment keeps files in {location}, which is no folder here; make it, if it is this machine's, or "
        "start the server with --artifacts-destination, so that it takes them itself"
    )
