"""Ray for as long as a study runs: a cluster, or one that is started here, on loopback alone."""

import gc
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from defenses.registry import UserError
from study.cli.terminal import library_logs_enabled
from study.code_version import copy_code
from study.driver.library_env import for_workers, quiet_ray


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Ray, for as long as the block lasts: a cluster's, or one started here that listens on loopback alone.

    Raises:
        UserError: Ray cannot be reached or started.
    """
    quiet_ray()
    level = logging.INFO if library_logs_enabled() else logging.ERROR
    if not library_logs_enabled():
        unused = "ray.tune.execution.experiment_state"  # Ray's own snapshots, from which nothing is ever restored
        logging.getLogger(unused).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {
        "log_to_driver": library_logs_enabled(),
        "logging_level": level,
        "configure_logging": True,
    }
    if address is None:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if address is not None and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job brought its code
                copy_code(Path(folder))
                shipped = {"working_dir": folder, "excludes": ["__pycache__"], "env_vars": for_workers()}
                options["runtime_env"] = shipped
            ray.init(address=address or "local", **options)  # never whatever cluster happens to run here
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"Ray could not be {'reached at ' + address if address else 'started'}: {str(error).splitlines()[0]}"
        ) from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one of its own, which aborts before the books are closed
    try:
        yield
    finally:
        _shut_down_ray()


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
