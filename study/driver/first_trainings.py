"""Which trials train what others share, and how many of them are still to come, by which the time left is told."""

from collections.abc import Mapping
from typing import Any

from defenses.storage.atomic_files import canonical
from study.ledger.ledger import Ledger
from study.ledger.snapshot import is_finished
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan
from study.planning.setting_counts import sure_trainings


class FirstTrainings:
    """The first trainings that the trials of a study are sure to make.

    A whole grid has each setting of the fields that start one, in an order that is drawn; with `--reuse` the first
    trials have one each.

    Attributes:
        left: that no trial has made so far, over all scenarios.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        done = [row for row in ledger.rows() if is_finished(row.state, row.reason)]
        self._made = {self._training(row.point, one.name) for row in done for one in plan.scenarios}
        made = len(self._made) if plan.reused is None else len(done) * len(plan.scenarios)
        self.left = max(0, sure_trainings(plan) * len(plan.scenarios) - made)

    def made(self, key: str, scenario: str) -> bool:
        """Whether a trial, by the key of its settings, made one of them on a scenario that it is done with."""
        if not self.left:
            return False
        new = {self._training(row.point, scenario) for row in self._ledger.rows() if row.key == key} - self._made
        self._made |= new
        made = bool(new) or self._plan.reused is not None
        self.left -= made
        return made

    def given_up(self, row: TrialRow, scenarios: int) -> int:
        """How many of them nobody waits for any more, since a trial failed or was stopped before it was judged.

        Args:
            scenarios: that it had not come to.
        """
        over = 0
        if self.left and not row.comparable:
            new = {self._training(row.point, one.name) for one in self._plan.scenarios} - self._made
            self._made |= new
            over = min(self.left, len(new) if self._plan.reused is None else scenarios)
        self.left -= over
        return over

    def _training(self, point: Mapping[str, Any], scenario: str) -> str:
        """What trials have in common that share the first training on a scenario."""
        return canonical([scenario, *(point.get(name) for name in self._plan.expensive)])
