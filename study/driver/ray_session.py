"""Ray for as long as a study runs: a cluster, or one that is started here, on loopback alone."""

import atexit
import gc
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir

from defenses.registry import UserError
from study.cli.bar import working
from study.cli.command import EXIT_BAD_INPUT
from study.cli.terminal import library_logs_enabled, print_error
from study.code_version import copy_code
from study.driver.head import OWN_NODE, HeadWatch, LostCluster, check_address
from study.driver.library_env import for_workers, in_job, quiet_ray, workers_inherit_this_process

_LONGEST_SOCKET_BYTES = 107 if sys.platform.startswith("linux") else 103  # the system's limit for a socket's path
_SOCKET_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_SHORT = "/tmp"
_RETURN_AT_ONCE = {"prestart_worker_first_driver": False}
"""Or `ray.init` would wait for workers, without a limit, where no thread and no signal of this process gets a turn."""

_CLOSE_SECONDS = 15.0


@contextmanager
def ray_session(address: str | None, close: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Ray, for as long as the block lasts: a cluster's, or one started here that listens on loopback alone.

    Args:
        close: closes the books where Ray is gone and the main thread hangs in a call of Ray's.

    Raises:
        UserError: Ray cannot be reached or started.
        LostCluster: Ray went away meanwhile.
    """
    quiet_ray()
    if not library_logs_enabled():
        ray._private.worker.print_to_stdstream = _unseen  # type: ignore[assignment]
        unused = "ray.tune.execution.experiment_state"  # Ray's own snapshots, from which nothing is ever restored
        logging.getLogger(unused).setLevel(logging.CRITICAL)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with working("starting Ray" if address is None else f"joining the Ray cluster at {address}"):
            _start(address)
    except UserError:
        raise
    except SystemExit:  # what Ray makes of SIGTERM while it starts
        if callable(on_sigterm):
            on_sigterm(signal.SIGTERM, None)
        raise
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Ray could not be {'reached at ' + address if address else 'started'}: {why}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one of its own, which aborts before the books are closed
    watch = HeadWatch(_servers(address), lambda reason: _leave(reason, close))
    try:
        yield
    except BaseException:
        if watch.reason:
            raise LostCluster(watch.reason) from None
        raise
    else:
        if watch.reason:  # Ray Tune ends an interrupted search as if it were over
            raise LostCluster(watch.reason)
    finally:
        watch.stop()
        _abandon_ray() if watch.reason else _shut_down_ray()


def _start(address: str | None) -> None:
    """Joins a cluster, or starts Ray here."""
    options: dict[str, Any] = {
        "log_to_driver": library_logs_enabled(),
        "logging_level": logging.INFO if library_logs_enabled() else logging.ERROR,
        "configure_logging": True,
    }
    if address is None:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "_temp_dir": folder_for_sockets()}
        options["_system_config"] = _RETURN_AT_ONCE
        with workers_inherit_this_process():
            ray.init(address="local", _skip_env_hook=True, **options)  # never what happens to run here
        return
    check_address(address)
    with tempfile.TemporaryDirectory() as folder:
        if not in_job():  # a job brought its code
            copy_code(Path(folder))
            shipped = {"working_dir": folder, "excludes": ["__pycache__"], "env_vars": for_workers()}
            options |= {"runtime_env": shipped, "_skip_env_hook": True}
        ray.init(address=address, **options)


def folder_for_sockets() -> str | None:
    """A folder for Ray's files that is short enough for the names of its sockets; None for the one that Ray takes.

    Raises:
        UserError: there is none.
    """
    usual = Path(get_default_ray_temp_dir())  # type: ignore[no-untyped-call]
    if len(os.fsencode(usual)) + _SOCKET_BYTES <= _LONGEST_SOCKET_BYTES:
        return None
    named = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    longest = _LONGEST_SOCKET_BYTES - _SOCKET_BYTES - len("/ray")
    if not os.access(_SHORT, os.W_OK):
        raise UserError(
            f"{named} must have at most {longest} bytes, since Ray's sockets lie below it, got {usual.parent}: "
            "set it to a shorter folder"
        )
    print_error(
        f"warning: {named} is too long for Ray's sockets (at most {longest} bytes), so Ray's files go to {_SHORT}/ray"
    )
    return f"{_SHORT}/ray"


def _unseen(_data: object, **_options: object) -> None:
    """In place of what prints Ray's own messages, whole logs among them, which no setting of Ray's turns off."""


def _servers(address: str | None) -> dict[str, tuple[str, int]]:
    """What must be there as long as a study runs: the head, and the process of Ray's that this one talks to."""
    context = ray.get_runtime_context()
    head, _, port = context.gcs_address.rpartition(":")
    name = "Ray on this machine" if address is None else f"the head of the Ray cluster at {context.gcs_address}"
    servers = {name: (head.strip("[]"), int(port))}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["NodeID"] == context.get_node_id():
            servers[OWN_NODE] = (node["NodeManagerAddress"], node["NodeManagerPort"])
    return servers


def _leave(reason: str, close: Callable[[], object]) -> None:
    """Ends the process where the main thread hangs in Ray. Books that cannot be closed are closed by the next run."""
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(_CLOSE_SECONDS)
    _abandon_ray()
    print_error(f"error: {reason}")
    os._exit(EXIT_BAD_INPUT)


def _abandon_ray() -> None:
    """Leaves a Ray that is gone: what would shut it down waits for it. The process has to end by `os._exit` then."""
    atexit.unregister(ray.shutdown)
    node = ray._private.worker._global_node
    if node is not None and node.is_head():  # started here: what is left of it must not outlive the study
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def _shut_down_ray() -> None:
    """Stops Ray with no reference to its objects left to be collected meanwhile.

    A collection in another thread (the one that feeds MLflow) that meets such a reference while Ray's core worker is
    going down makes Ray end the whole process at once, with code 1.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()
