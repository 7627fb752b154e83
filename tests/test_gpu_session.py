"""The session for a leased GPU, rehearsed here: it runs to its end, goes on, and needs no package that is not there."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from checkout import ROOT

FOLDER = ROOT / "tests" / "benchmarks"
MISSING = ("ray", "optuna", "mlflow", "jenkspy", "pydantic", "matplotlib", "plotly", "sqlalchemy")
WITHOUT = f"""
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of the folder, as a module; it finds its parts as it does when it is run."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_rehearsal_runs_to_its_end_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, results = script("gpu_session", monkeypatch), tmp_path / "results.jsonl"
    # In this process: others would load torch again. The tests marked `gpu` are skipped here, which takes as long.
    command = ["--device", "cpu", "--rehearse", "--processes", "1", "--only", "speed", "stages"]
    command += ["--results", str(results), "--store", str(tmp_path / "store")]
    session.main(command)
    lines = read(results)
    stages = {line["name"]: line for line in lines if line["kind"] == "stage"}
    assert not [line["unfinished"] for line in stages.values() if "unfinished" in line]
    assert {line["cell"]["defense"] for line in stages.values()} == {"pipd", "qt", "no_defense", "ac"}
    for line in lines:
        assert {"date", "machine", "torch", "numpy", "python", "code", "name"} <= line.keys()
    speeds = {line["name"].rpartition(" ")[2]: line for line in lines if line["kind"] == "speed"}
    assert set(speeds) == {"eager", "captured", "compiled"}
    assert speeds["eager"]["images_per_second"] > 0
    assert 0 < speeds["eager"]["share_of_peak"] < 1
    check_truth({(line["cell"]["defense"], line["stage"]): line for line in stages.values()})

    # Cut off in its last line, it takes that measurement again, and those that gave nothing; no others.
    whole = results.read_text()
    results.write_text(whole[: whole.rindex("\n{") + 8])
    session.main(command)
    again = [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]
    gave = [[line["name"] for line in some if "unfinished" not in line] for some in (lines, again)]
    assert sorted(gave[0]) == sorted(gave[1])


def check_truth(stages: dict[tuple[str, str], dict[str, Any]]) -> None:
    """What ground truth tells, an epoch each; the detector has taken the undefended model from the store."""
    assert len(stages["pipd", "pre_isolation"]["truth"]["poison_in_P_p"]) == 1
    quarantine = stages["qt", "quarantine_training"]
    assert len(quarantine["truth"]["share_of_poison"]) == len(quarantine["truth"]["share_of_clean"]) == 2
    assert {"tpr", "fpr", "auroc"} <= stages["pipd", "isolate"]["metrics"].keys()
    assert {"ca", "asr"} <= stages["no_defense", "standard_training"]["metrics"].keys()
    assert stages["ac", "standard_training"]["from_store"]


def test_it_and_the_gpu_tests_need_none_of_the_packages_that_are_missing_there() -> None:
    path = os.pathsep.join(map(str, (ROOT, FOLDER, ROOT / "tests", ROOT / "tests" / "support")))
    files = [ROOT / "tests" / "conftest.py", ROOT / "tests" / "defenses" / "test_gpu.py", FOLDER / "gpu_session.py"]
    asked = f"{WITHOUT}\nimport runpy\nfor path in {[str(file) for file in files]}:\n    runpy.run_path(path)\n"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_bundle_has_the_code_and_the_data_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "shared" / "cifar10"
    data.mkdir(parents=True)
    for number in range(4):
        (data / f"sheet-{number}.webp").write_bytes(os.urandom(1_500_000))
    bundle = script("gpu_bundle", monkeypatch)
    bundle.main([str(tmp_path / "bundle"), "--data", str(data), "--limit", "4000000"])
    parts = sorted((tmp_path / "bundle").iterdir())
    assert [part.name for part in parts] == ["code.tar.xz", "data-1.tar", "data-2.tar"]
    assert all(part.stat().st_size <= 4_000_000 for part in parts)
    assert capsys.readouterr().out.count(" MB\n") == 3
    with tarfile.open(parts[0]) as archive:
        names = set(archive.getnames())
    assert {"defenses/runner.py", "tests/benchmarks/gpu_session.py", "tests/defenses/test_gpu.py"} <= names
    with pytest.raises(SystemExit, match="split it"):
        bundle.main([str(tmp_path / "bundle"), "--data", str(data), "--limit", "1000000"])
