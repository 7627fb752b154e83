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
        self._steps: dict[int, tuple[int, float]] = {}  # the last one that each has done, and when that was seen
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
        now = time.monotonic()
        running, named = {}, []
        for position, build in enumerate(self._builds):
            if build.label not in steps or position in self._done:
                continue
            began = self._began.setdefault(position, now)
            step, total = steps[build.label]
            seen, at = self._steps.get(position, (-1, began))
            if step != seen:
                at = now
                self._steps[position] = (step, at)
            running[position] = Running(at - began, now - at, step, total)
            named.append(f"{build.stage} {f'{step}/{total} ' if step else ''}{build.where}")
        left = self._costs.left(running)
        text = "" if left.seconds is None else f"{'over' if left.at_least else 'about'} {rough(left.seconds)} left"
        self._bar.note(*named[:_NAMED], left=text)
        self._activity.tell(STAGES, len(self._done), len(self._builds), named, left.seconds, left.at_least)

    def close(self) -> None:
        """Leaves the line as it stands."""
        self._bar.close()
