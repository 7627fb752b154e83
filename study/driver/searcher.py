"""Hands Ray Tune the ledger's points, and those again whose node or memory was too small."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from defenses.registry import UserError
from defenses.storage.atomic_files import DiskFull
from study.code_version import OtherCode
from study.driver import gpu_memory
from study.driver.worker import (
    DISK_FULL,
    GPUS,
    KEY,
    OOM,
    OTHER_CODE,
    POINT,
    TRIES,
)
from study.ledger.ledger import Ledger

_HALTS: dict[str, type[UserError]] = {DISK_FULL: DiskFull, OTHER_CODE: OtherCode}
MAX_WORKER_RESTARTS = 3  # of a trial whose worker or node was lost


class StaysHere:
    """An object of the driver's that Ray writes to its experiment folder, from which nothing is ever restored."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A trial of the ledger that Ray Tune runs, or is to run again with a larger share of a GPU."""

    number: int
    point: dict[str, Any]
    key: str
    gpus: float
    tries: int = 0
    nodes: frozenset[str] = frozenset()  # that were there when it was handed out


class LedgerSearcher(StaysHere, Searcher):
    """Hands Ray Tune the ledger's points. Results do not pass through here: the driver reads them from disk.

    Args:
        gpus: what a trial is tried with first.
        alive: tells which nodes are there; by default nobody knows, and none is ever lost.
    """

    def __init__(
        self,
        ledger: Ledger,
        target: int,
        settle: Callable[[int, str, str], None],
        gpus: float,
        alive: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        super().__init__()
        self._alive = alive
        self._ledger, self._target, self._settle, self._gpus = ledger, target, settle, gpus
        self.halted: UserError | None = None  # why no other trial is started, though none failed
        self._running: dict[str, Attempt] = {}
        self._again: list[Attempt] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next point; None while only running trials could still bring one; or that there is none."""
        if self._again and self.halted is None:
            chosen = self._again.pop(0)
        elif self._is_over():
            return None if self._running else Searcher.FINISHED
        else:
            number, point, key = self._ledger.ask()
            chosen = Attempt(number, point, key, self._gpus)
        chosen = dataclasses.replace(chosen, nodes=self._alive())
        self._running[trial_id] = chosen
        return {POINT: json.dumps(chosen.point), KEY: chosen.key, GPUS: chosen.gpus, TRIES: chosen.tries}

    def _is_over(self) -> bool:
        """No other point is handed out, unless a running trial brings one back."""
        return bool(
            self.halted is not None
            or self._ledger.remaining(self._target) <= len(self._running)
            or self._ledger.used_up()
        )

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Settles the trial from what it left on disk, unless it is to have more memory."""
        ended = self._running.pop(trial_id, None)
        if ended is None:
            return
        for sign, kind in _HALTS.items():
            if result and result.get(sign):
                self.halted = kind(result["failure"])  # the trial stays open, and the next driver runs it again
                return
        # Until Ray knows that a node is gone, it starts a trial there again, which uses up the trial's restarts.
        if error and not ended.nodes <= self._alive():
            self._again.append(ended)
            return
        more = gpu_memory.larger(ended.gpus, ended.tries) if result and result.get(OOM) else None
        if more is None:
            died = f"the worker process died, and again at each of {MAX_WORKER_RESTARTS} restarts" if error else ""
            self._settle(ended.number, ended.key, died)
        else:
            self._again.append(dataclasses.replace(ended, gpus=more, tries=ended.tries + 1))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Ray's own resume is never used."""
