"""F17: bytes that changed, or are gone, in what a study reads back."""

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import TINY_PIPD, empty_ledger, small_plan

from faults.parts import dataset
from study.code_version import code_hash
from study.driver.worker import GPUS, KEY, POINT, TRIES, TrialRunner, TrialTask
from study.ledger.ledger import Ledger
from study.ledger.records import ScenarioRecord, read_scenario
from study.ledger.result_reader import ResultReader
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images, cached_store

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CASES = 100
KINDS = ("result", "scenario", "manifest", "payload")


def spoil(path: Path, chance: random.Random) -> str:
    """Cuts a file off at a random byte, or flips a bit of one."""
    whole = path.read_bytes()
    position = chance.randrange(len(whole))
    if chance.random() < 0.5:
        path.write_bytes(whole[:position])
        return f"{path.name} cut to {position} of {len(whole)} bytes"
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << chance.randrange(8)]) + whole[position + 1 :])
    return f"a bit flipped in byte {position} of {path.name}"


class Point:
    """One configuration on one scenario, as a worker judges it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: Plan = small_plan(dataset(folder), folder, set=TINY_PIPD, trials=1, asr_floor=0.0)
        self.point = self.plan.default_point
        self.key = self.plan.point_key(self.point)
        self.reader = ResultReader(folder / "points", self.plan.scenarios, self.plan.goal)
        self.place = self.reader.points / self.key
        (scenario,) = self.plan.scenarios
        self.scenario = self.place / f"{scenario.name}.json"

    def judge(self) -> dict[str, Any]:
        """As in a new process: nothing is known but what lies on disk."""
        plan = self.plan
        cached_store.cache_clear()
        studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, None)
        worker = TrialRunner.__new__(TrialRunner)
        config = {POINT: json.dumps(self.point), KEY: self.key, GPUS: 0.0, TRIES: 0}
        task = TrialTask(*studied, self.reader.points, 1, code_hash())
        worker.setup(config, task, cached_images(plan.environment.dataset))
        return worker.step()

    def record(self) -> ScenarioRecord:
        found = read_scenario(self.scenario)
        assert found is not None
        return found

    def files(self, kind: str) -> list[Path]:
        """The files of a kind, of every size."""
        store = self.plan.environment.store
        return {
            "result": [self.place / "result.json"],
            "scenario": [self.scenario],
            "manifest": sorted(store.glob("*/*/meta.json")),
            "payload": sorted(path for path in store.glob("*/*/*-payload.*") if path.stat().st_size),
        }[kind]

    def asked_again(self) -> bool:
        """Whether the next driver runs the point again, whose trial the last one left running."""
        path = self.folder / "study.db"
        path.write_bytes(empty_ledger("maximize"))

        def driver() -> Ledger:
            return Ledger(path, "toy", self.plan.space, "maximize", "random", 0, 1, self.plan.point_key)

        first = driver()
        first.enqueue_default(self.point)
        first.ask()
        second = driver()
        swept = second.recover_interrupted(self.reader.outcome)
        return swept == (0, 1) and second.ask()[2] == self.key


def test_a_hundred_damaged_files_are_all_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F17: 100 % detected, that point is run again and gives the same, no traceback."""
    torch.set_num_threads(1)
    caplog.set_level(logging.WARNING)
    chance, point = random.Random(17), Point(tmp_path)
    assert point.judge()["failure"] == ""
    before, outcome = point.record(), point.reader.outcome(point.key)
    assert outcome is not None
    detected = 0
    for case in range(CASES):
        kind = KINDS[case % len(KINDS)]
        path = chance.choice(point.files(kind))
        what = spoil(path, chance)
        caplog.clear()
        if kind in ("result", "scenario"):
            assert point.reader.outcome(point.key) is None, what
            assert point.asked_again(), what
        else:  # a point that is still to be judged, from stages of which one is damaged
            (point.place / "result.json").unlink()
            point.scenario.unlink()
        assert point.judge()["failure"] == "", what
        told = [record.getMessage() for record in caplog.records]
        assert any("is damaged" in line for line in told), what
        assert not any("Traceback" in line for line in told)
        detected += 1
        assert point.reader.outcome(point.key) == outcome, what
        assert point.record().metrics == before.metrics, what
        assert point.record().series == before.series, what
    assert detected == CASES
