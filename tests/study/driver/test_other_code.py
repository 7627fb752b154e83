"""A worker that finds other code than the driver's runs nothing, and no trial has failed by that."""

import json
from pathlib import Path

import pytest
from ray.tune.search import Searcher
from small_study import empty_ledger, save_npz, small_plan

from study import code_version
from study.code_version import OtherCode, code_hash
from study.datasets.images import Images
from study.driver.searcher import LedgerSearcher
from study.driver.worker import GPUS, KEY, POINT, TRIES, TrialRunner, TrialTask
from study.ledger.ledger import Ledger
from study.ledger.records import read_trial, trial_path
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images


@pytest.fixture
def plan(tmp_path: Path, images: Images) -> Plan:
    """Two trials up to who is flagged."""
    return small_plan(save_npz(tmp_path / "data.npz", images), tmp_path / "out", trials=2, until="isolate")


def runner_of(plan: Plan, points: Path, point: dict[str, object], key: str, code: str) -> TrialRunner:
    studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, plan.config.until)
    runner = TrialRunner.__new__(TrialRunner)
    config = {POINT: json.dumps(point), KEY: key, GPUS: 0.0, TRIES: 0}
    runner.setup(config, TrialTask(*studied, points, 1, code), cached_images(plan.environment.dataset))
    return runner


def test_the_trial_stays_open_and_no_other_is_handed_out(plan: Plan, tmp_path: Path) -> None:
    """As where a worker process died and started again after the code was edited."""
    (tmp_path / "study.db").write_bytes(empty_ledger("maximize"))
    ledger = Ledger(tmp_path / "study.db", "toy", plan.space, "maximize", "random", 0, 2, plan.point_key)
    settled: list[int] = []
    searcher = LedgerSearcher(ledger, 2, lambda number, _key, _error: settled.append(number), 0.0)
    config = searcher.suggest("first")
    assert isinstance(config, dict)
    points = tmp_path / "points"
    point, key = json.loads(config[POINT]), config[KEY]
    searcher.on_trial_complete("first", runner_of(plan, points, point, key, "another").step())
    assert read_trial(trial_path(points / key)) is None
    assert settled == []
    assert searcher.suggest("second") == Searcher.FINISHED
    assert isinstance(searcher.halted, OtherCode)
    assert "has the hash" in str(searcher.halted)
    assert ledger.remaining(2) == 2
    told = runner_of(plan, points, point, key, code_hash()).step()
    assert (told["done"], told["failure"]) == (len(plan.scenarios) == 1, "")


def test_it_says_what_to_do() -> None:
    with pytest.raises(OtherCode, match="install the driver's version there, or remove it"):
        code_version.check_code("another")
