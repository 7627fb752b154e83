"""What a driver is at this moment: a small file in the study's folder, for whoever asks where the study stands.

It is written anew every few seconds and marked at the end. A driver that is killed leaves it as it was; whether
somebody runs the study is told by the study's lock, never by this file, and nothing of a study depends on it.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from defenses.storage.atomic_files import write_atomic
from study.ledger.study_folder import ACTIVITY, POINTS

_WRITE_SECONDS = 5.0  # between two writes of the same phase
STARTING, STAGES, TRIALS, CONTROL, ENDED = "starting", "shared stages", "trials", "clean control", "ended"


@dataclass(frozen=True)
class Activity:
    """What a driver last said of its work.

    Attributes:
        process: the driver's.
        started, at: when it began, and when it said this; seconds since 1970.
        earlier_seconds: that earlier drivers were at it.
        phase: ``starting``, ``shared stages``, ``trials``, ``clean control`` or ``ended``.
        done, total: of the phase, stages or scenarios of trials.
        left_seconds: that the phase will still take, by what its parts took so far; None where that is not known.
        at_least: some of what is left was never measured and is not in it.
        now: what is being built or run, a line each.
        whole: every driver of the study said how long it took; one of an earlier version did not.
    """

    process: int
    started: float
    at: float
    earlier_seconds: float = 0.0
    phase: str = STARTING
    done: int = 0
    total: int = 0
    left_seconds: float | None = None
    at_least: bool = False
    now: tuple[str, ...] = ()
    whole: bool = True

    def elapsed(self, alive: bool) -> float:
        """Seconds that this driver has been at it, or was."""
        return max(0.0, (time.time() if alive else self.at) - self.started)

    def spent(self, alive: bool) -> float:
        """Seconds that it took in all, earlier drivers included."""
        return self.earlier_seconds + self.elapsed(alive)

    def left(self, alive: bool) -> float | None:
        """Seconds that its phase will still take."""
        if self.left_seconds is None:
            return None
        return max(0.0, self.left_seconds - (time.time() - self.at if alive else 0.0))


def read_activity(folder: Path) -> Activity | None:
    """What the last driver of a study said; None where none did, or where the file is damaged."""
    try:
        content = json.loads((folder / ACTIVITY).read_text(encoding="utf-8"))
        known = Activity(**{**content, "now": tuple(map(str, content["now"]))})
        numbers = [known.process, known.started, known.at, known.earlier_seconds, known.done, known.total]
        numbers += [] if known.left_seconds is None else [known.left_seconds]
        sound = all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers)
        return known if sound and isinstance(known.phase, str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class ActivityFile:
    """The file, as its driver writes it. What cannot be written is left out: the study does not need it.

    Args:
        folder: the study's.
    """

    def __init__(self, folder: Path) -> None:
        earlier = read_activity(folder)
        now = time.time()
        self._folder, self._written = folder, 0.0
        before = earlier.spent(alive=False) if earlier else 0.0
        whole = earlier.whole if earlier else not any((folder / POINTS).glob("*"))
        self._said = Activity(os.getpid(), now, now, before, whole=whole)
        self._write()

    def tell(
        self,
        phase: str,
        done: int,
        total: int,
        now: Sequence[str] = (),
        left_seconds: float | None = None,
        at_least: bool = False,
    ) -> None:
        """Says what is done now; written at once when the phase is a new one, else every few seconds."""
        new = phase != self._said.phase
        self._said = replace(
            self._said,
            phase=phase,
            done=done,
            total=total,
            now=tuple(now),
            left_seconds=left_seconds,
            at_least=at_least,
        )
        if new or time.monotonic() - self._written >= _WRITE_SECONDS:
            self._write()

    def end(self) -> None:
        """The driver goes, and nothing is being done any more."""
        self._said = replace(self._said, phase=ENDED, now=())
        self._write()

    def _write(self) -> None:
        self._said, self._written = replace(self._said, at=time.time()), time.monotonic()
        with suppress(OSError):
            write_atomic(self._folder / ACTIVITY, json.dumps(asdict(self._said), indent=1) + "\n")
