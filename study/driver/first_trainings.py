"""Which trials train what others share, and how many of them are still to come, by which the time left is told."""

from collections.abc import Mapping
from typing import Any

from defenses.storage.atomic_files import canonical
from study.ledger.ledger import Ledger
from study.ledger.snapshot import is_finished
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from study.planning.setting_counts import sure_trainings
from study.planning.state_room import asked_epochs


class FirstTrainings:
    """The first trainings that the trials of a study are sure to make.

    A whole grid has each setting of the fields that start one, in an order that is drawn; with `--reuse` the first
    trials have one each. Where trials read it at several epochs it counts in epochs: who reads later trains the rest.

    Attributes:
        left: that no trial has made so far, over all scenarios: trainings, or epochs of them.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        self._read, self._length = _read_field(plan)
        self._made: dict[str, int] = {}
        anew = self._read and plan.config.keep_states == "none"  # each read is a training of its own
        sure = 0 if anew else sure_trainings(plan) * len(plan.scenarios)
        done = [row for row in ledger.rows() if sure and is_finished(row.state, row.reason)]
        made = sum(self._add(row.point, one.name, row.comparable) for row in done for one in plan.scenarios)
        self.left = max(0, sure * self._length - made)

    def made(self, key: str, scenario: str) -> int:
        """How much of them a trial, by the key of its settings, made on a scenario that it is done with."""
        if not self.left:
            return 0
        new = sum(self._add(row.point, scenario) for row in self._ledger.rows() if row.key == key)
        return self._take(new)

    def given_up(self, row: TrialRow) -> int:
        """How much of them nobody waits for any more, since a trial failed or was stopped before it was judged."""
        if not self.left or row.comparable:
            return 0
        return self._take(sum(self._add(row.point, one.name, judged=False) for one in self._plan.scenarios))

    def _take(self, made: int) -> int:
        taken = min(self.left, made)
        self.left -= taken
        return taken

    def _add(self, point: Mapping[str, Any], scenario: str, judged: bool = True) -> int:
        """Notes how far a trial's training went on a scenario, to its end where nobody waits; what that is more."""
        training = canonical([scenario, *(point.get(name) for name in self._plan.expensive)])
        read = point.get(self._read) if judged else None
        before = self._made.get(training, 0)
        self._made[training] = max(before, self._length if read is None else min(self._length, int(read)))
        return self._made[training] - before


def _read_field(plan: Plan) -> tuple[str, int]:
    """The searched field that says after which epoch trials read the first training, and the latest.

    No field and 1 where all read its end.
    """
    for stage in plan.defense.stages_until(plan.config.until):
        if stage.trajectory is not None and set(plan.expensive) & set(stage.reads):
            searched = stage.trajectory.read in plan.space.ranges
            return (stage.trajectory.read, asked_epochs(stage, plan)[-1]) if searched else ("", 1)
    return "", 1
