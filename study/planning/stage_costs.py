"""What shared stages will take: by what the same kind took in this run, or, before, by what the store tells of it.

Nothing is guessed from how many stages are left: a poisoned dataset is made in a second, a network trained in hours.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from study.planning.shared_stages import Build

_KNOWN_SHARE = 0.02  # of a stage's steps that tell how long all of them take


@dataclass(frozen=True)
class Left:
    """How long it will still take.

    Attributes:
        seconds: None where nothing is known.
        at_least: some of what is left has never been measured, and is not in it.
    """

    seconds: float | None
    at_least: bool = False


@dataclass
class Running:
    """A stage that is being built.

    Attributes:
        seconds: since it began.
        share: of its steps that are done, in [0, 1].
    """

    seconds: float
    share: float


class StageCosts:
    """Learns what kinds of stages cost, and tells what is left.

    Args:
        lanes: how many stages are built at once.
        stored: seconds by kind that are known before anything is built.
        reused: positions of stages that are in the store, so that nobody builds them.
    """

    def __init__(
        self,
        builds: Sequence[Build],
        lanes: int,
        stored: Mapping[str, float] | None = None,
        reused: Collection[int] = (),
    ) -> None:
        self._builds, self._lanes = tuple(builds), max(1, lanes)
        self._stored, self._reused = dict(stored or {}), frozenset(reused)
        self._measured: dict[str, list[float]] = defaultdict(list)
        self._done: set[int] = set()

    def finished(self, position: int, seconds: float) -> None:
        """A stage is there.

        Args:
            seconds: that building it took, whenever that was.
        """
        self._done.add(position)
        self._measured[self._builds[position].kind].append(seconds)

    def left(self, running: Mapping[int, Running]) -> Left:
        """What is still to be done.

        Args:
            running: stages that are being built, by their position.
        """
        under_way = defaultdict(list)
        for position, stage in running.items():
            if stage.share >= _KNOWN_SHARE:
                under_way[self._builds[position].kind].append(stage.seconds / stage.share)
        total, at_least = 0.0, False
        ends: dict[int, float] = {}
        for position, build in enumerate(self._builds):
            there = position in self._done or position in self._reused
            seconds = 0.0 if there else self._of(build.kind, running.get(position), under_way)
            at_least = at_least or seconds is None
            total += seconds or 0.0
            ends[position] = (seconds or 0.0) + max((ends[parent] for parent in build.needs), default=0.0)
        # No more than all lanes can do, and no less than the longest chain of stages that wait for each other.
        left = max(total / self._lanes, max(ends.values(), default=0.0))
        return Left(left if left > 0 else None, at_least)

    def _of(self, kind: str, running: Running | None, under_way: Mapping[str, list[float]]) -> float | None:
        """What a stage of a kind will still take; None where that was never measured."""
        if running is not None and running.share >= _KNOWN_SHARE:
            return running.seconds / running.share - running.seconds
        for known in (self._measured.get(kind), under_way.get(kind)):
            if known:
                whole = sum(known) / len(known)
                break
        else:
            if kind not in self._stored:
                return None
            whole = self._stored[kind]
        return max(whole - running.seconds, 0.1 * whole) if running is not None else whole
