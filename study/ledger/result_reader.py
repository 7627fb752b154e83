"""What trials left on disk, read back: the only reader of results while a study runs. It writes nothing."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from study.config.objectives import Goal
from study.ledger.dashboard import trial_attributes
from study.ledger.pruning import Step, Stopped, build_read_steps, build_steps
from study.ledger.records import ScenarioRecord, read_path, read_scenario, read_trial, scenario_path, trial_path
from study.ledger.trial_row import Outcome
from study.scenarios.scenario import Scenario, scenario_order

_KEPT = 64  # records
NO_ATTACK = "no attack of this study works even undefended, so there is nothing to defend against"


class ResultReader:
    """Reads the results of a study's points.

    Args:
        points: folder in which each point has one of its own.
        scenarios: of the study, in its order.
        goal: what it searches for.
        reads: epochs after which trials are compared; none where they are between scenarios.
    """

    def __init__(self, points: Path, scenarios: Sequence[Scenario], goal: Goal, reads: Sequence[int] = ()) -> None:
        self.points, self.reads = points, tuple(reads)
        self._scenarios, self._goal = scenarios, goal
        self._known: dict[tuple[object, ...], ScenarioRecord] = {}  # a trial's are asked for four times while it ends

    def scenario(self, key: str, name: str) -> ScenarioRecord | None:
        """One scenario of a point; None when it is missing or cannot be read."""
        return self._record(scenario_path(self.points / key, name))

    def _record(self, path: Path) -> ScenarioRecord | None:
        try:
            file = path.stat()
        except OSError:
            return None
        version = (path, file.st_ino, file.st_mtime_ns, file.st_size)
        record = self._known.get(version) or read_scenario(path)
        if record is not None:
            self._known[version] = record
            while len(self._known) > max(_KEPT, 2 * len(self._scenarios)):
                self._known.pop(next(iter(self._known)))
        return record

    def readable(self, key: str) -> dict[str, ScenarioRecord]:
        """The scenarios of a point that can be read, by name, in the study's order."""
        records = {scenario.name: self.scenario(key, scenario.name) for scenario in self._scenarios}
        return {name: record for name, record in records.items() if record is not None}

    def complete(self, key: str) -> list[ScenarioRecord] | None:
        """All scenarios of a point; None when one is missing."""
        records = list(self.readable(key).values())
        return records if len(records) == len(self._scenarios) else None

    def attributes(self, key: str) -> dict[str, float | str]:
        """What a point reached over all scenarios, for the ledger; nothing of one that is not finished."""
        return trial_attributes(self.complete(key) or (), self._goal)

    def judged_until(self, key: str, last: str) -> list[str]:
        """Names of the scenarios that a point is judged on up to one of them, in the point's own order."""
        order = [scenario.name for scenario in scenario_order(self._scenarios, key)]
        return order[: order.index(last) + 1]

    def read_early(self, key: str, last: int | None = None) -> dict[int, list[ScenarioRecord]]:
        """All scenarios of a point as they were after each epoch that trials are compared at, up to one of them."""
        early: dict[int, list[ScenarioRecord]] = {}
        for epoch in self.reads:
            paths = [read_path(self.points / key, scenario.name, epoch) for scenario in self._scenarios]
            records = [record for path in paths if (record := self._record(path)) is not None]
            if len(records) < len(paths) or (last is not None and epoch > last):
                break
            early[epoch] = records
        return early

    def before(self, key: str, record: ScenarioRecord) -> list[ScenarioRecord]:
        """What was read of a point's scenario at epochs before the one of a record."""
        paths = (read_path(self.points / key, record.scenario, epoch) for epoch in self.reads)
        read = (one for path in paths if (one := self._record(path)) is not None)
        return list(itertools.takewhile(lambda one: one != record, read))

    def steps(self, key: str, last: str | None = None, read: int = 0) -> tuple[Step, ...]:
        """What a trial of one objective had reached after each scenario, up to the last one that is asked for.

        Args:
            read: where trials are compared after epochs, the last of them; 0 for all.
        """
        if self.reads:
            return build_read_steps(self.read_early(key, read or None), self._goal)
        judged: list[ScenarioRecord] = []
        for scenario in scenario_order(self._scenarios, key):
            record = self.scenario(key, scenario.name)
            if record is None:
                break
            judged.append(record)
            if scenario.name == last:
                break
        return build_steps(judged, self._goal)

    def outcome(self, key: str) -> Outcome | None:
        """The objective of a finished point, or why it has none; None when the point is not finished."""
        trial = read_trial(trial_path(self.points / key))
        if trial is None:
            return None
        if trial.failure:
            return None, trial.failure
        if trial.stopped:
            whole = set(trial.scenarios) <= self.readable(key).keys()
            whole = whole and (trial.read == 0 or trial.read in self.read_early(key))
            last = trial.scenarios[-1] if trial.scenarios else None
            return Stopped(self.steps(key, last, trial.read)) if whole else None
        records = self.complete(key)
        if records is None:
            return None
        if all(record.attack_failed for record in records):
            return None, NO_ATTACK
        values = self._goal.values(records)
        undefined = [name for name, value in zip(self._goal.objectives, values, strict=True) if value is None]
        reason = f"{' and '.join(undefined)} is undefined on every scenario" if undefined else ""
        return values[0] if len(values) == 1 else values, reason
