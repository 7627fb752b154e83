"""What a person sees while the stages are built that all trials share."""

import time
from collections.abc import Mapping

from study.cli.bar import Bar
from study.cli.terminal import rough
from study.ledger.activity import STAGES, ActivityFile
from study.planning.plan import Plan
from study.planning.stage_costs import Running, StageCosts
from study.planning.stored_stages import StoredStages

_NAMED = 3  # stages that are named in the line, of those that are being built
Steps = Mapping[str, tuple[int, int]]
"""Label of a stage that has begun -> the step that it has done, and how many it has."""


class StageProgress:
    """The line that shows how far the shared stages are, and the same for `study.status`.

    Args:
        at_once: how many stages are built at once.
    """

    def __init__(self, plan: Plan, at_once: int, activity: ActivityFile) -> None:
        self._builds, self._activity = plan.builds, activity
        stored = StoredStages(plan)
        self._costs = StageCosts(plan.builds, at_once, stored.costs(), stored.there())
        self._began: dict[int, float] = {}
        self._first: dict[int, tuple[int, float]] = {}  # the first step that was seen of each, and when
        self._last: dict[int, tuple[int, float]] = {}  # and the last one
        self._done: set[int] = set()
        self._bar = Bar(len(plan.builds), "shared stages", estimates=False)

    def finished(self, position: int, seconds: float) -> None:
        """A stage is there.

        Args:
            seconds: that building it took, whenever that was.
        """
        self._done.add(position)
        self._costs.finished(position, seconds)
        self._bar.advance(1, self._builds[position].label)

    def look(self, steps: Steps) -> None:
        """Shows what is being built now."""
        running = {
            position: self._pace(position, *steps[build.label])
            for position, build in enumerate(self._builds)
            if build.label in steps and position not in self._done
        }
        short, long = [], []
        for position in running:
            build, (step, total) = self._builds[position], steps[self._builds[position].label]
            short.append(f"{build.stage} {f'{step}/{total} ' if step else ''}{build.where}")
            long.append(f"{build.stage} of {build.where}{f', step {step} of {total}' if step else ''}")
        left = self._costs.left(running)
        text = "" if left.seconds is None else f"{'over' if left.at_least else 'about'} {rough(left.seconds)} left"
        self._bar.note(*short[:_NAMED], left=text)
        self._activity.tell(STAGES, len(self._done), len(self._builds), long, left.seconds, left.at_least)

    def _pace(self, position: int, step: int, total: int) -> Running:
        """How fast a stage comes on, counted from the first of its steps that is seen."""
        now = time.monotonic()
        began = self._began.setdefault(position, now)
        if not step:
            return Running(now - began)
        first, at_first = self._first.setdefault(position, (step, now))
        last, at_last = self._last.get(position, (first, at_first))
        if step != last:
            last, at_last = step, now
        self._last[position] = (last, at_last)
        return Running(
            now - began, at_last - at_first, now - at_last, max(0, step - first), total, ahead=max(0, total - step)
        )

    def close(self) -> None:
        """Leaves the line as it stands."""
        self._bar.close()
