"""Trials for tests of the engine: workers import this file and do as it says instead of training anything."""

import itertools
import os
import signal
import time
from collections.abc import Callable

import torch
from small_study import scenario_record

from defenses.storage.store import canonical
from study.driver.worker import TrialRunner
from study.ledger.records import ScenarioRecord, write_record
from study.scenarios.scenario import Scenario

_PATIENCE = 60.0


class Fake(TrialRunner):
    """Writes a record at once; `before` is what a test adds."""

    def before(self, scenario: Scenario) -> None:
        """Called instead of training."""

    def note(self, kind: str) -> int:
        """Leaves one more mark of a kind for this point, and gives how many there are."""
        folder = self.task.points.parent / kind / self.key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{time.time_ns()}-{os.getpid()}").write_text(canonical({"gpus": self.place.gpus}))
        return len(list(folder.iterdir()))

    def role(self) -> int:
        """0 for the point that came first, 1 for the second, and so on; a point keeps its role when it comes again."""
        folder = self.task.points.parent / "roles"
        folder.mkdir(exist_ok=True)
        for number in itertools.count():
            try:
                with (folder / str(number)).open("x") as file:
                    file.write(self.key)
                return number
            except FileExistsError:
                if (folder / str(number)).read_text() == self.key:
                    return number
        raise AssertionError

    def _scenario(self, scenario: Scenario, read: int = 0) -> ScenarioRecord:
        self.note("started")
        self.before(scenario)
        record = scenario_record(scenario.name, {"tpr": 1.0, "fpr": 0.25, "ca": 0.5, "asr": 0.0})
        write_record(self.folder / f"{scenario.name}.json", record)
        return record


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits, but not for ever."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("waited too long")
        time.sleep(0.02)


class Crowd(Fake):
    """Waits in its first trials until four are there, and notes how many it saw."""

    def before(self, scenario: Scenario) -> None:
        root = self.task.points.parent
        here = root / "here" / str(os.getpid())
        here.parent.mkdir(exist_ok=True)
        here.touch()
        if not (root / "met").exists():
            wait_until(lambda: len(list(here.parent.iterdir())) >= 4 or (root / "met").exists())
        (root / "met").touch()
        time.sleep(0.2)  # long enough for a fifth to be seen, were there one
        (root / "crowds").mkdir(exist_ok=True)
        (root / "crowds" / self.key).write_text(str(len(list(here.parent.iterdir()))))
        here.unlink()


class Hungry(Fake):
    """Two points need more memory: one has enough with half a GPU, the other never."""

    def before(self, scenario: Scenario) -> None:
        needs = {0: 0.5, 1: 2.0}.get(self.role(), 0.0)
        if self.place.gpus < needs:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


class Graded(Fake):
    """Each point reaches the same on every scenario: the first point the first grade, and so on."""

    GRADES = (0.5, 0.25, 0.75, 0.375, 0.5, 1.0)

    def _scenario(self, scenario: Scenario, read: int = 0) -> ScenarioRecord:
        grade = self.GRADES[self.role()]
        self.note("started")
        record = scenario_record(scenario.name, {"tpr": grade, "fpr": 0.0, "ca": grade, "asr": 0.0})
        write_record(self.folder / f"{scenario.name}.json", record)
        return record


class Mortal(Fake):
    """One point's worker is killed three times, another's every time."""

    def before(self, scenario: Scenario) -> None:
        deaths = {0: 3, 1: 99}.get(self.role(), 0)
        if self.note("deaths") <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
