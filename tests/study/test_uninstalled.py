"""A machine that has the code and no installed package: every command works there, and knows its version.

That a study's workers do as well is held by `tests/surroundings/test_ray_surroundings.py`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from study_process import make_workplace
from told_study import write_study
from uninstalled import hide_package

from study.__main__ import COMMANDS
from study.code_version import PACKAGES, code_version, copy_code

ALL_IN_ONE = """
import contextlib, importlib, importlib.metadata, io, json, sys
try:
    importlib.metadata.version("backdoor-defense-study")
except importlib.metadata.PackageNotFoundError:
    pass
else:
    sys.exit("the package can be found")
import study.report.matplotlib_figures, study.report.upload
study.report.matplotlib_figures.png = lambda figure: b""  # with MLflow half a minute, in which no version is asked for
study.report.upload.log_pictures = lambda pictures: None
codes = []
for module, *words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            codes.append(importlib.import_module(module).main(words))
        except SystemExit as end:
            codes.append(end.code or 0)
from study import code_version
sys.stdout.write(json.dumps([codes, code_version.__file__, code_version.code_version()]))
"""
"""Commands in one process: each by itself would load torch and pandas again."""


@pytest.mark.filterwarnings("ignore")
def test_every_command_works_where_only_the_code_is(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    copy_code(code)  # what a worker is shipped: no pyproject.toml lies beside it
    out = tmp_path / "runs"
    write_study(out / "mine", trials=3, attacks=("badnets",), rates=(0.1,), seeds=(0, 1))
    data = f"npz:{make_workplace(tmp_path, train=64, test=16) / 'data.npz'}"
    small = ["--dataset", data, "--width", "4", "--asr-floor", "0", "--set", "epochs=1", "--out", str(out)]
    commands = [
        *([module, "--help"] for module, _ in COMMANDS.values()),
        ["study.run", "--list"],
        ["study.run", "--dry-run", "--out", str(out)],
        ["study.evaluate", "--defense", "no_defense", *small, "--json", str(tmp_path / "told.json")],
        ["study.attacks.__main__", "--list"],
        ["study.status", "mine", "--out", str(out)],
        ["study.analyze", "mine", "--out", str(out)],
        ["study.compare", "mine:default", "mine:best", "--out", str(out)],
        ["study.sync", "--out", str(out)],
        ["study.report.__main__", "mine", "-o", str(tmp_path / "r.html"), "--out", str(out)],
    ]
    assert {module for module, *_ in commands} == {module for module, _ in COMMANDS.values()}
    path = os.pathsep.join(map(str, (hide_package(tmp_path / "hidden"), code)))
    done = subprocess.run(
        [sys.executable, "-c", ALL_IN_ONE, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    codes, file, version = json.loads(done.stdout)
    assert codes == [0] * len(commands), done.stderr
    assert Path(file).is_relative_to(code)
    assert version == code_version()
    assert json.loads((tmp_path / "told.json").read_text())["environment"]["code_version"] == code_version()


def test_packaging_takes_the_version_of_the_sources(tmp_path: Path) -> None:
    """Read as pip reads it: of a copy of the sources that nothing imports."""
    pytest.importorskip("setuptools")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    asked = "from setuptools import build_meta; import sys; build_meta.prepare_metadata_for_build_wheel('.')"
    subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, capture_output=True, check=True)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    (line,) = [line for line in metadata.read_text().splitlines() if line.startswith("Version: ")]
    assert line.removeprefix("Version: ") == code_version().partition("+")[0]
