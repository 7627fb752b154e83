"""Whether workers start at all. Ray itself waits for them for ever, and tells only its logs why they do not come."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from defenses.registry import UserError
from study.cli.terminal import print_error

_TOLD_SECONDS = 60.0
_LIMIT_SECONDS = 300.0  # on this machine: slow disks and loads far above the cores have been given their time by then
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 1.0
_RAYS_OWN = ("[", " ", "-", "The raylet")  # how lines of Ray's begin where the workers' own last words are
_BUSY = 2.0  # processes that want to run, a core: beside so many, workers of niceness 15 may not begin
_DEAD_AT_START = "have not registered within the timeout. The process is dead"  # in raylet.out


class WorkerWatch:
    """Tells once when nothing has run for a minute, and ends what can only wait for ever.

    Args:
        awaited: what should start, for people.
        logs: Ray's logs, where Ray was started here; None on a cluster, whose resources others may hold for long.
        limit: seconds after which nothing is waited for any longer, unless this machine is busy with something else;
            None for no such limit.
    """

    def __init__(self, awaited: str, logs: Path | None, limit: float | None = None) -> None:
        self._awaited, self._logs, self._limit = awaited, logs, limit
        self._since, self._told = time.monotonic(), False
        self._looked = self._since
        self._deaths = self._dead_at_start()

    def look(self, running: bool) -> None:
        """To be called all the time.

        Args:
            running: something runs, or nothing is to.

        Raises:
            UserError: nothing will.
        """
        now = time.monotonic()
        waited = now - self._since
        if running:
            self._since, self._told = now, False
        elif now - self._looked < _LOOK_SECONDS:
            return
        else:
            self._looked = now
            self._judge(waited)

    def _judge(self, waited: float) -> None:
        if waited >= _TOLD_SECONDS / 2 and self._dead_at_start() > self._deaths:
            raise UserError(f"{self._awaited} does not start, since Ray's workers die at once{self._reason()}")
        busy = "" if self._logs is None else busy_machine()
        if self._limit is not None and waited >= self._limit and not busy:
            raise UserError(f"{self._awaited} has not started within {self._limit:g} s{self._reason()}")
        if waited >= _TOLD_SECONDS and not self._told:
            self._told = True
            why = busy or self._reason()
            print_error(f"warning: {self._awaited} has not started for {waited:.0f} s, still waiting{why}")

    def _reason(self) -> str:
        """What is known of why, as the end of a line."""
        if self._logs is None:
            return ": its CPUs and GPUs are in use, or its workers do not come (ray status tells)"
        said = [
            line.strip()
            for line in _lines(self._logs / "raylet.err")
            if line.strip() and not line.startswith(_RAYS_OWN)
        ]
        return f": {said[-1]}; {self._logs} has more" if said else f": {self._logs} may tell why"

    def _dead_at_start(self) -> int:
        if self._logs is None:
            return 0
        return sum(_DEAD_AT_START in line for line in _lines(self._logs / "raylet.out"))


def busy_machine() -> str:
    """What else this machine does, where it explains that a worker is late, as the end of a line; else empty."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < _BUSY * cores:
        return ""
    kept = "Ray's workers give way to all else, unless RAY_worker_niceness is 0"
    return f": this machine is busy ({load:.0f} processes want its {cores} cores), and {kept}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def worker_watch(awaited: str, local: bool, limit: float | None = None) -> WorkerWatch:
    """A watch over what Ray starts.

    Args:
        local: Ray was started here, and nobody else holds what it has.
        limit: seconds after which nothing is waited for on a cluster.
    """
    if not local:
        return WorkerWatch(awaited, None, limit)
    node: Any = ray._private.worker._global_node
    return WorkerWatch(awaited, Path(node.get_logs_dir_path()), _LIMIT_SECONDS)


def wait_for(reference: Any, watch: WorkerWatch, running: Callable[[], bool] = lambda: False) -> None:
    """Waits until a task has ended, however long it takes once it runs.

    Raises:
        UserError: it will never run.
    """
    while not ray.wait([reference], timeout=_POLL_SECONDS)[0]:
        watch.look(running())
