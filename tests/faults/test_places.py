"""F18: folders as people name them, and homes that nobody may write to."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from faults.parts import FLOOR, TINY, command, dataset, disk, one_line, run, states

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]

# Importing what would start Ray, and everything else that a refusal must come before, is an error here.
NOTHING_STARTS = """
import sys
sys.modules["ray"] = sys.modules["study.driver.driver"] = None
from study import run
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_relative_folders_with_spaces_in_them_work_from_another_folder(tmp_path: Path) -> None:
    """F18: results, store and MLflow lie where the user stood, for the driver, for workers and for later commands."""
    here = tmp_path / "where I stand; 100% mine"
    (here / "my data").mkdir(parents=True)
    dataset(here / "my data")
    options = ["--out", "my runs/é", "--store", "../my store", "--name", "there", "--trials", "2"]
    done = run(command("npz:my data/data.npz", *options, "--tracking-uri", "sqlite:///my db/mlflow.db"), cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be reached" not in done.stderr
    study = here / "my runs" / "é" / "there"
    assert states(study) == {"COMPLETE": 2}
    assert {path.name for path in here.iterdir()} == {"my data", "my runs", "my db"}, "nothing lies anywhere else"
    assert (here / "my db" / "mlflow.db").is_file()
    assert list((tmp_path / "my store" / "poison").glob("*/meta.json"))
    assert not (study / "store").exists()
    for module in ("study.status", "study.sync"):
        arguments = [sys.executable, "-m", module, "there", "--out", "my runs/é"]
        told = run(arguments, cwd=here)
        assert told.returncode == 0, told.stdout + told.stderr
        assert not [line for line in told.stderr.splitlines() if not line.endswith(" ...")]


@pytest.mark.parametrize("kind", ["missing", "file", "proc", "read-only"])
def test_a_home_that_cannot_be_written_is_refused_before_ray_starts(kind: str, tmp_path: Path) -> None:
    """F18: one line. Root may write to every folder, but not to what is none, nor to a disk that is read-only."""
    images = dataset(tmp_path)
    home = {"proc": Path("/proc"), "file": tmp_path / "file"}.get(kind, tmp_path / "home")
    (tmp_path / "file").touch()
    with disk(home, "ro") if kind == "read-only" else nullcontext():
        arguments = ["--out", str(tmp_path / "runs"), "--space", "pipd", "--dataset", images, *TINY, *FLOOR]
        done = run([sys.executable, "-c", NOTHING_STARTS, *arguments], HOME=str(home))
    assert f"{home} is missing or read-only: set HOME to another" in one_line(done)


@pytest.mark.parametrize("option", ["--out", "--store"])
def test_a_folder_that_cannot_be_written_is_refused_before_ray_starts(option: str, tmp_path: Path) -> None:
    """F18: the disk is read-only."""
    places = {"--out": tmp_path / "a", "--store": tmp_path / "b"} | {option: tmp_path / "disk"}
    with disk(tmp_path / "disk", "ro"):
        words = [word for name, place in places.items() for word in (name, str(place))]
        images = dataset(tmp_path)
        arguments = [*words, "--space", "pipd", "--dataset", images, *TINY, *FLOOR]
        line = one_line(run([sys.executable, "-c", NOTHING_STARTS, *arguments]))
    assert line.startswith(f"error: {option} must be a folder that can be written, got {tmp_path / 'disk'}: Read-only")
