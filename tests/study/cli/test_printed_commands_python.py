"""Commands that are printed name the Python that works where they are printed."""

import sys
from pathlib import Path

import pytest

from study.cli.printed_commands import runnable, shown_path


def test_python_stays_where_it_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: sys.executable)
    assert runnable("python -m study.status mine") == "python -m study.status mine"


@pytest.mark.parametrize("known", [None, "/usr/bin/python"])
def test_another_python_is_not_named(known: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: known)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my env" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    assert runnable("python -m study.status mine") == "'my env/bin/python' -m study.status mine"
    monkeypatch.chdir("/")
    assert runnable("python -m x").startswith("'tmp" if tmp_path.is_relative_to("/tmp") else "'")


def test_what_is_no_python_command_is_left_alone() -> None:
    assert runnable("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    assert runnable("runs/mine/report.html") == "runs/mine/report.html"


def test_paths_are_as_short_as_they_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "runs" / "mine") == "runs/mine"
    assert shown_path(Path("/elsewhere/runs")) == "/elsewhere/runs"
    assert shown_path(Path("../runs")) == "../runs"
