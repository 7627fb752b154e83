"""What a command does not use is not imported: loading it is most of what a short command takes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "ray", "mlflow", "optuna", "matplotlib", "pandas", "sklearn", "scipy", "plotly", "torchvision")
PLANS = tuple(name for name in HEAVY if name != "torch")

Done = subprocess.CompletedProcess[str]


def loaded(module: str, *options: str, heavy: tuple[str, ...] = HEAVY) -> tuple[set[str], Done]:
    """Which of some packages a command has loaded when it ends, and how it ended."""
    code = (
        "import atexit, runpy, sys\n"
        f"heavy = {heavy!r}\n"
        "def tell(): sys.stderr.write('\\nLOADED ' + ' '.join(name for name in heavy if name in sys.modules))\n"
        "atexit.register(tell)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, module, *options], capture_output=True, text=True)
    return set(done.stderr.rpartition("LOADED ")[2].split()), done


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with studies in it."""
    out = tmp_path_factory.mktemp("runs")
    shutil.copytree(Path(__file__).parent / "study" / "driver" / "begun_before", out, dirs_exist_ok=True)
    return out


def test_status_loads_nothing_heavy(begun: Path) -> None:
    heavy = (*HEAVY, "numpy")
    names = [path.parent.name for path in begun.glob("*/study.json")]
    assert names
    for options in ([], [names[0]], [names[0], "--json"]):
        modules, done = loaded("study.status", *options, "--out", str(begun), heavy=heavy)
        assert done.returncode == 0, done.stderr
        assert modules == set(), options


@pytest.mark.parametrize("asked", ["--space pipd --until isolate", "--defenses qt ac flare scale_up"])
def test_a_dry_run_loads_torch_alone(asked: str, tmp_path: Path) -> None:
    """Torch decides the keys of stages, and whether there is a GPU; the digits are read without scikit-learn."""
    modules, done = loaded("study.run", *asked.split(), "--dry-run", "--out", str(tmp_path), heavy=PLANS)
    assert done.returncode == 0, done.stderr
    assert "nothing is started" in done.stdout
    assert modules == set()
