"""F11: eight drivers start at the same moment where there is no database and no store yet."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults import cold_driver
from faults.parts import dataset, environment, states
from tracking.mlflow_log import RunLog

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DRIVERS = 8


def test_eight_drivers_start_on_an_empty_database_and_an_empty_store(tmp_path: Path) -> None:
    """F11: 0 errors. Eight ledgers, one MLflow database, one store."""
    images, store, database, go = dataset(tmp_path), tmp_path / "store", tmp_path / "mlflow.db", tmp_path / "go"
    outs = [tmp_path / f"runs{number}" for number in range(DRIVERS)]
    drivers = [
        subprocess.Popen(
            [sys.executable, cold_driver.__file__, images, *map(str, (out, store, database, go, number))],
            env=environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, out in enumerate(outs, start=1)
    ]
    try:
        deadline = time.monotonic() + 120
        while not all(Path(f"{out}.ready").exists() for out in outs):
            assert all(driver.poll() is None for driver in drivers), "a driver ended before it began"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        go.touch()
        told = [driver.communicate(timeout=300)[1] for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
            driver.wait()
    lines = [line for text in told for line in text.splitlines() if "WARNING" in line or "rror" in line]
    assert not lines, "an outage that is over after a retry is an error too"
    assert [driver.returncode for driver in drivers] == [0] * DRIVERS, told
    assert [states(next(out.iterdir())) for out in outs] == [{"COMPLETE": 2}] * DRIVERS
    log = RunLog(f"sqlite:///{database}", "pipd", None)
    found = log.client.search_runs([log.experiment_id])
    assert len(found) == DRIVERS * (1 + 2 + 2)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(log.client.search_experiments(filter_string="name = 'pipd'")) == 1
    assert len(list((store / "pre_isolation").glob("*/meta.json"))) == 1, "one builds, the others wait"
