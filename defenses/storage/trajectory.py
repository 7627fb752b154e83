"""What a training that is read at several epochs keeps: its whole state after some of them.

The states lie on a geometric grid, at the epochs that were read, and, for a kill, where a checkpoint would be. A
training to epoch e goes on from the last state before it, so that reading at ever later epochs trains each once, and
reading at an earlier one trains from the grid. They are whole (weights, momentum, generators, in full precision): going
on from one gives bit for bit what not stopping would have given.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from defenses.storage.checkpoint import Checkpoint
from defenses.storage.state_codec import TrainingState

GRID = tuple(sorted({2**power for power in range(11)} | {3 * 2**power for power in range(10)}))
"""Epochs whose state is kept: 1, 2, 3, 4, 6, 8, 12, 16, 24, ...; from 2 on each is at most 1.5 times the one before."""


def kept_epochs(last: int) -> list[int]:
    """Epochs whose state a training keeps that is read after one of them."""
    return sorted({epoch for epoch in GRID if epoch <= last} | {last})


class TrajectoryCheckpoint(Checkpoint):
    """Runs the first epochs of a training, from the best state that is kept of it.

    Args:
        folder: of the states, whose lock is held.
        stop: how many epochs are wanted.
        seconds: from one state to the next, at least, for kills between those of the grid.
    """

    def __init__(self, folder: Path, stop: int, seconds: float) -> None:
        super().__init__(folder, seconds)
        self._states = folder
        self._stop = stop

    def epochs(self, count: int, parts: TrainingState) -> Iterator[int]:
        """The numbers of the epochs that are still to run, up to the one that is wanted; see `Checkpoint.epochs`.

        A stage that may be read early has one such loop.
        """
        stop = min(self._stop, count)
        done = self._start(stop, parts)
        last, passing = time.monotonic(), ""
        for epoch in range(done, stop):
            yield epoch
            reached = epoch + 1
            lasts = reached in GRID or reached == stop
            if lasts or time.monotonic() - last >= self._seconds:
                self._keep(f"epoch-{reached}", reached, parts)
                for file in self._states.glob(f"{passing}[.-]*") if passing else ():
                    file.unlink(missing_ok=True)  # what it would save is saved
                last, passing = time.monotonic(), "" if lasts else f"epoch-{reached}"

    def _start(self, stop: int, parts: TrainingState) -> int:
        """Puts the parts back to the last state that is kept before the one wanted; how many epochs that saves."""
        kept = sorted(
            (int(file.stem.removeprefix("epoch-")) for file in self._states.glob("epoch-*.json")), reverse=True
        )
        return next((epoch for epoch in kept if epoch <= stop and self._restore(f"epoch-{epoch}", parts)), 0)
