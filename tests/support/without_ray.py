"""Studies in this process, without Ray and MLflow: what is tested is all that lies around them."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from study.code_version import code_hash
from study.driver import driver
from study.driver.worker import GPUS, KEY, POINT, TRIES, TrialRunner, TrialTask
from study.ledger.ledger import Ledger
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images, cached_poison


def _run_trials(
    plan: Plan,
    ledger: Ledger,
    points: Path,
    _scratch: Path,
    settle: Callable[[int, str, str], None],
    on_scenario: Callable[[str, str], None],
    _stopper: Any,
    **_: Any,
) -> None:
    """Runs what the ledger lacks, one after the other."""
    torch.set_num_threads(plan.config.threads)
    studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, plan.config.until)
    task, images = (
        TrialTask(*studied, points, plan.config.threads, code_hash()),
        cached_images(plan.environment.dataset),
    )
    while ledger.remaining(plan.config.trials):
        number, point, key = ledger.ask()
        runner = object.__new__(TrialRunner)
        runner.setup({POINT: json.dumps(point), KEY: key, GPUS: 0.0, TRIES: 0}, task, images)
        for _ in plan.scenarios:
            done = runner.step()
            if not done["failure"]:
                on_scenario(key, done["scenario"])
        settle(number, key, "")


@contextlib.contextmanager
def studies_here() -> Iterator[list[Plan]]:
    """Within the block a study is run in this process; gives the plans of those that ran something."""
    plans: list[Plan] = []

    def run_trials(plan: Plan, *given: Any, **named: Any) -> None:
        plans.append(plan)
        _run_trials(plan, *given, **named)

    nothing = SimpleNamespace(look=lambda *_, **__: None, scenario=lambda *_: None, settled=lambda *_: None)
    nothing.close = lambda *_: True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "ray_session", lambda *_: contextlib.nullcontext())
        patch.setattr(driver, "ray_nodes", SimpleNamespace(check_cluster=lambda *_: None, in_use=None))
        patch.setattr(driver, "build_shared", lambda *_: {})
        patch.setattr(driver, "run_trials", run_trials)
        patch.setattr(driver, "TrialProgress", lambda *_: nothing)
        patch.setattr(driver, "worker_watch", lambda *_: nothing)
        patch.setattr(driver, "Sender", lambda *_: nothing)
        try:
            yield plans
        finally:
            cached_images.cache_clear()
            cached_poison.cache_clear()
