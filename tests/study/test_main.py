"""`python -m study`, and `backdoor-study`: every command behind one name."""

import importlib
import itertools
import re
import subprocess
import sys
import tomllib
import typing

import pytest
from checkout import ROOT

from study.__main__ import COMMANDS, main
from study.config.config import StudyConfig


def test_each_command_is_the_one_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (module, _) in COMMANDS.items():
        given: list[list[str]] = []
        monkeypatch.setattr(
            importlib.import_module(module), "main", lambda words, given=given: given.append(words) or 7
        )
        assert main([name, "NAME", "--out", "x"]) == 7
        assert given == [["NAME", "--out", "x"]]


def test_no_command_is_left_out() -> None:
    modules = {
        path.stem for path in (ROOT / "study").glob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8")
    }
    packages = {path.parent.name for path in (ROOT / "study").glob("*/__main__.py")}
    assert set(COMMANDS) == (modules | packages) - {"__main__"}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_it_tells_its_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed and what in printed for name, (_, what) in COMMANDS.items())


def test_a_typo_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stauts"]) == 2
    assert "unknown command 'stauts': did you mean 'status'?" in capsys.readouterr().err


def test_it_is_installed_under_its_name_and_loads_nothing_heavy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"backdoor-study": "study.__main__:main"}
    script = (
        "import sys\nfrom study.__main__ import main\ncode = main(['--help'])\n"
        "assert not {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'numpy'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wide", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_the_terminal(
    name: str, wide: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(wide))
    with pytest.raises(SystemExit):
        main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= wide
    closing = lines[max(number for number, line in enumerate(lines) if line.startswith("  ")) + 1 :]
    full = [before for before, after in itertools.pairwise(closing) if before and after and before[-1] not in ".:"]
    assert all(len(before) >= wide - 25 for before in full), "a closing sentence is broken where there is room"


def test_help_names_every_choice_and_explains_the_terms(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for name in ("run", "evaluate"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        shown[name] = " ".join(capsys.readouterr().out.split())
    for field, declared in StudyConfig.model_fields.items():
        choices = [text for text in typing.get_args(declared.annotation) if isinstance(text, str)]
        if typing.get_origin(declared.annotation) is typing.Literal:
            assert f"--{field.replace('_', '-')} {'|'.join(choices)}" in shown["run"]
    for name, text in shown.items():
        for term in ("attack success rate: ", "scenario", "scale", "preset"):
            assert term in text, name
    for meaning in ("trials: configurations", "shares of poisoned and of clean samples", "clean accuracy"):
        assert meaning in shown["run"]
    assert not re.search(r"\b(judged?|told|cells?|points?|oracle)\b", shown["evaluate"])
