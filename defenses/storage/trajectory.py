"""What a training that is read at several epochs keeps: its whole state after some of them.

The states lie on a geometric grid, at the epochs that were read, and, for a kill, where a checkpoint would be. A
training to epoch e goes on from the last state before it, so that reading at ever later epochs trains each once, and
reading at an earlier one trains from the grid. Which epochs are kept is a setting (`KeptStates`), no part of any key.

States are whole (weights, momentum, generators, in full precision): going on from one gives bit for bit what not
stopping would have given. A lower precision is not offered. It would halve what a state takes, and what went on from
one would be another training under the same key: what a read gives would hang on who had read before it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from defenses.registry import UserError
from defenses.storage.checkpoint import Checkpoint
from defenses.storage.state_codec import TrainingState

GRID = tuple(sorted({2**power for power in range(11)} | {3 * 2**power for power in range(10)}))
"""Epochs whose state is kept: 1, 2, 3, 4, 6, 8, 12, 16, 24, ...; from 2 on each is at most 1.5 times the one before."""
KEPT = ("grid", "all", "none")


@dataclass(frozen=True)
class KeptStates:
    """After which epochs a training that is read early keeps its state.

    Attributes:
        text: ``grid``, ``all``, ``none``, or epochs, as in ``5,10,20``. What is read is kept as well, but for ``none``,
            with which every read is a training of its own from its first epoch on. What a killed training went on from
            stays, whoever kept it.
    """

    text: str = "grid"

    def __post_init__(self) -> None:
        if self.text not in KEPT and not all(part.isdecimal() and int(part) > 0 for part in self.text.split(",")):
            raise UserError(
                f"states that are kept must be {', '.join(KEPT)} or epochs from 1 on, as in 5,10,20, got {self.text!r}",
                about="states",
            )

    @property
    def listed(self) -> tuple[int, ...]:
        """The epochs that were named; none where a word says which."""
        return () if self.text in KEPT else tuple(sorted({int(part) for part in self.text.split(",")}))

    def holds(self, epoch: int, read: int) -> bool:
        """Whether the state after an epoch is kept of a training that goes up to the one that is read."""
        if self.text == "none":
            return False
        return epoch == read or self.text == "all" or epoch in (self.listed or GRID)

    def epochs(self, last: int) -> list[int]:
        """Epochs whose state a training keeps that is read after one of them."""
        return [epoch for epoch in range(1, last + 1) if self.holds(epoch, last)]


class TrajectoryCheckpoint(Checkpoint):
    """Runs the first epochs of a training, from the best state that is kept of it.

    Args:
        folder: of the states, whose lock is held.
        stop: how many epochs are wanted.
        seconds: from one state to the next, at least, for kills between those of the grid.
        kept: which states stay.
    """

    def __init__(self, folder: Path, stop: int, seconds: float, kept: KeptStates | None = None) -> None:
        super().__init__(folder, seconds)
        self._states = folder
        self._stop = stop
        self._kept = kept or KeptStates()
        self._passing = ""

    def epochs(self, count: int, parts: TrainingState) -> Iterator[int]:
        """The numbers of the epochs that are still to run, up to the one that is wanted; see `Checkpoint.epochs`.

        A stage that may be read early has one such loop.
        """
        stop = min(self._stop, count)
        done = self._start(stop, parts)
        last = time.monotonic()
        for epoch in range(done, stop):
            yield epoch
            reached = epoch + 1
            lasts = self._kept.holds(reached, stop)
            if lasts or time.monotonic() - last >= self._seconds:
                self._keep(f"epoch-{reached}", reached, parts)
                self.written()  # what the one before it would save is saved
                last, self._passing = time.monotonic(), "" if lasts else f"epoch-{reached}"

    def written(self) -> None:
        """Removes the state that was kept for a kill alone: what was built from it is on the disk."""
        self._remove(self._passing)
        self._passing = ""

    def _remove(self, state: str) -> None:
        for file in self._states.glob(f"{state}[.-]*") if state else ():
            file.unlink(missing_ok=True)

    def _start(self, stop: int, parts: TrainingState) -> int:
        """Puts the parts back to the last state that is kept before the one wanted; how many epochs that saves."""
        kept = sorted(
            (int(file.stem.removeprefix("epoch-")) for file in self._states.glob("epoch-*.json")), reverse=True
        )
        done = next((epoch for epoch in kept if epoch <= stop and self._restore(f"epoch-{epoch}", parts)), 0)
        with suppress(OSError):  # none was kept, or a store that cannot be written to is read all the same
            os.utime(self._states / f"epoch-{done}.json")  # when it was last used: what nobody uses goes first
        return done
