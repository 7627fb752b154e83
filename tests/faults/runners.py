"""Trials that go wrong in one way each. Workers import this file; everything else about them is real."""

import math
import os
import signal
import time
from typing import Any

from fake_runs import Fake
from small_study import scenario_record

from study.driver.worker import TrialRunner
from study.ledger.records import ScenarioRecord, write_record
from study.scenarios.scenario import Scenario

GOOD = {"tpr": 1.0, "fpr": 0.25, "auroc": 1.0}

ODD: dict[int, dict[str, Any]] = {
    1: {**GOOD, "tpr": math.nan},
    2: {**GOOD, "tpr": math.inf},
    3: {**GOOD, "fpr": math.inf},
    4: {"fpr": 0.25},
    5: {**GOOD, "tpr": None},
    6: {**GOOD, "tpr": "0.9"},
}
"""What is wrong with the metrics of the trial with this role; the others' are good."""


class Odd(Fake):
    """Writes metrics that make no objective."""

    def _scenario(self, scenario: Scenario, read: int = 0) -> ScenarioRecord:
        record = scenario_record(scenario.name, ODD.get(self.role(), GOOD))
        write_record(self.folder / f"{scenario.name}.json", record)
        return record


class Sleeper(Fake):
    """Never ends."""

    def before(self, scenario: Scenario) -> None:
        time.sleep(3600)


class Mortal(TrialRunner):
    """Trains for real, but one point's worker is killed three times, and another's every time."""

    def _scenario(self, scenario: Scenario, read: int = 0) -> ScenarioRecord:
        deaths = {0: 3, 1: 99}.get(Fake.role(self), 0)  # type: ignore[arg-type]  # all it needs is the task and the key
        if Fake.note(self, "attempts") <= deaths:  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._scenario(scenario, read)
