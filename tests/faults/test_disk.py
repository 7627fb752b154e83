"""F16: a disk that is full in the middle of a study."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from faults.parts import FLOOR, TINY, dataset, disk, environment, one_line, states
from study.ledger.records import read_scenario, read_trial

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

# The command, on a disk that is too small for the check before it.
RUN = """
import sys
from study import run
from study.planning import places
places._LEAST_FREE_BYTES = 0
sys.exit(run.main(sys.argv[1:]))
"""


def fill(folder: Path) -> Path:
    """Takes all room that is left, to the last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return ballast


def study(folder: Path, out: Path, store: Path) -> list[str]:
    images = dataset(folder)
    options = ["--out", str(out), "--store", str(store), "--name", "full", "--trials", "5"]
    return [sys.executable, "-c", RUN, "--space", "pipd", "--dataset", images, *TINY, *FLOOR, *options]


def run_until(arguments: list[str], ready: Callable[[], bool], small: Path) -> subprocess.CompletedProcess[str]:
    """Runs a study, and fills the disk once something is there."""
    process = subprocess.Popen(
        arguments,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        fill(small)
        out, error = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


def check_goes_on(arguments: list[str], out: Path, full: Path) -> None:
    """Nothing torn is read, nothing that a full disk stopped has failed for good, and the rest is run."""
    for path in out.glob("full/points/*/*.json"):
        assert (read_trial if path.name == "result.json" else read_scenario)(path) is not None, path
    (full / "ballast").unlink()
    again = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "damaged" not in again.stderr
    found = states(out / "full")
    assert found["COMPLETE"] == 5
    assert not {"RUNNING", "WAITING"} & set(found)


@pytest.mark.parametrize("moment", ["stages", "trials"])
@pytest.mark.parametrize("place", ["store", "out"])
def test_a_full_disk_is_told_in_a_line_and_loses_nothing(place: str, moment: str, tmp_path: Path) -> None:
    """F16: one line that names the folder, code 2; on resume nothing torn is read and every trial completes."""
    with disk(tmp_path / "disk", "size=64m") as small:
        out = small / "runs" if place == "out" else tmp_path / "runs"
        store = small / "store" if place == "store" else tmp_path / "store"
        arguments = study(tmp_path, out, store)
        marks = {"stages": store / "poison", "trials": out / "full" / "points"}
        mark = {"stages": "*/meta.json", "trials": "*/result.json"}[moment]
        done = run_until(arguments, lambda: any(marks[moment].glob(mark)), small)
        line = one_line(done)
        assert str(small) in line
        assert "no room left on disk" in line
        check_goes_on(arguments, out, small)
