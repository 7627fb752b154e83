"""What shared stages will take: by what the same kind took in this run, or, before, by what the store tells of it.

Nothing is guessed from how many stages are left: a poisoned dataset is made in a second, a network trained in hours.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from study.planning.shared_stages import Build

_WORTH_SAYING = 60.0  # seconds: "over 13 s left" helps nobody
_LEAST_LEFT = 0.1  # of what a stage takes, where it takes longer than the others did


@dataclass(frozen=True)
class Left:
    """How long it will still take.

    Attributes:
        seconds: None where nothing is known.
        at_least: some of what is left has never been measured, and is not in it.
    """

    seconds: float | None
    at_least: bool = False


@dataclass(frozen=True)
class Running:
    """A stage that is being built. What comes before its first step, such as reading the data, tells no pace.

    Attributes:
        waited: seconds since it was seen first.
        paced: of those, the seconds from its first step to its last so far.
        since: seconds from its last step until now.
        step, steps: epochs or rounds that are done since its first, and that there are in all.
        ahead: those that are still to come.
    """

    waited: float
    paced: float = 0.0
    since: float = 0.0
    step: int = 0
    steps: int = 0
    ahead: int = 0

    @property
    def each(self) -> float | None:
        """Seconds a step; None before two of them are done."""
        return self.paced / self.step if self.step else None

    @property
    def whole(self) -> float | None:
        """Seconds that all of it takes; None before that is known."""
        return None if self.each is None else self.each * self.steps

    @property
    def left(self) -> float | None:
        """Seconds that it still takes; None before that is known."""
        return None if self.each is None else max(0.0, self.each * self.ahead - min(self.since, 0.9 * self.each))


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
            if stage.whole is not None:
                under_way[self._builds[position].kind].append(stage.whole)
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
        worth_saying = left >= _WORTH_SAYING if at_least else left > 0
        return Left(left if worth_saying else None, at_least)

    def _of(self, kind: str, running: Running | None, under_way: Mapping[str, list[float]]) -> float | None:
        """What a stage of a kind will still take; None where that was never measured."""
        if running is not None and running.left is not None:
            return running.left
        known = self._measured.get(kind) or under_way.get(kind)
        whole = sum(known) / len(known) if known else self._stored.get(kind)
        if whole is None or running is None:
            return whole
        return max(whole - running.waited, _LEAST_LEFT * whole)
