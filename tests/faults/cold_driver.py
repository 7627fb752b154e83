"""A driver that another process starts: a whole study, with its trials in this process instead of on Ray.

Arguments: the file of images, the folder of this study, the shared store, the shared database, a file to wait for,
and a number: studies that agree on every field of a trial would share its run in MLflow.
"""

import logging
import sys
import time
from pathlib import Path

import torch

from study.code_version import code_hash
from study.config.config import StudyConfig, resolve
from study.driver.driver import StudyDriver
from study.driver.searcher import LedgerSearcher
from study.driver.worker import TrialRunner, TrialTask
from study.planning.plan import make_plan
from study.scenarios.evaluation import cached_images


def main() -> None:
    """Runs it, and ends with 1 when MLflow did not get everything."""
    images, out, store, database, go, number = sys.argv[1:]
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    torch.set_num_threads(1)
    given = {
        "dataset": images,
        "out": Path(out),
        "store": Path(store),
        "tracking_uri": f"sqlite:///{database}",
        "attacks": ("badnets",),
        "trials": 2,
        "width": 4,
        "blocks": (1, 1),
        "asr_floor": 0.0,
        "set": {"pre_isolation_epochs": "1", "selective_epochs": number},
    }
    plan = make_plan(resolve(StudyConfig, given), "cpu", 0.0, "fp32")
    folder = Path(out) / plan.config.study_name
    folder.mkdir(parents=True)
    Path(f"{out}.ready").touch()
    while not Path(go).exists():
        time.sleep(0.01)
    driver = StudyDriver(plan, folder, Path(out))
    studied = (plan.space.defense, plan.base, plan.scenarios, plan.environment, None)
    task = TrialTask(*studied, driver.reader.points, 1, code_hash())
    searcher = LedgerSearcher(driver.ledger, 2, driver.finish_trial, 0.0)
    for name in ("a", "b"):
        config = searcher.suggest(name)
        assert isinstance(config, dict)
        worker = TrialRunner.__new__(TrialRunner)
        worker.setup(config, task, cached_images(plan.environment.dataset))
        result = worker.step()
        driver.finish_scenario(config["key"], result["scenario"])
        searcher.on_trial_complete(name, result)
    driver.close("FINISHED", 200)
    sys.exit(0 if driver.sent else 1)


if __name__ == "__main__":
    main()
