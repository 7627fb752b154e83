"""Every command that a page names or that the code prints is understood; what screens and reports print, runs."""

import ast
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from checkout import ROOT
from closing_screens import GOLDEN
from modules import FILES, named, nodes_of
from told_study import write_study

from defenses.registry import UserError
from study import analyze, status
from study.analysis.results import load_results
from study.cli.options import Parser, given_options
from study.config.config import StudyConfig, resolve
from study.evaluate import EvaluateConfig
from study.report import __main__ as report
from study.report.next_steps import extensions

PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", ".venv-tests"} & set(path.parts))
CODE = [path for path in FILES if not named(path).startswith("search_spaces/")]
COMMAND = re.compile(r"(?:\S*/)?python -m (study(?:\.\w+)*)((?: [^`\n]*)?)")
UNKNOWN = "x"
"""What stands for a value that only the running program knows."""


class Understood(BaseException):
    """The command line was parsed; no `except` of a command is meant for it."""

    def __init__(self, options: Any) -> None:
        self.options = options


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """The modules that are named as commands, each with the words behind it up to the end of the line."""
    joined = re.sub(r"\\\n\s*", " ", text)
    joined = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda span: span[0].replace("\n", " "), joined)
    for found in COMMAND.finditer(joined):
        yield found[1], _words(found[2])


def _words(text: str) -> list[str]:
    text = re.split(r"\s#\s|\s{2,}#", text)[0]
    try:
        return shlex.split(text)
    except ValueError:  # an apostrophe in the sentence behind it
        return text.split()


def texts_of(path: Path) -> Iterator[str]:
    """What a file says: a page as it stands, of code each text, with `UNKNOWN` for what is filled in."""
    if path.suffix == ".md":
        yield path.read_text(encoding="utf-8")
        return
    nodes = nodes_of(path)
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else UNKNOWN for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], bool]:
    """Whether a command takes words: they are parsed, and of options the values are read; nothing is done."""
    parse = Parser.parse_args

    def stop(self: Parser, *arguments: Any, **options: Any) -> NoReturn:
        raise Understood(parse(self, *arguments, **options))

    monkeypatch.setattr(Parser, "parse_args", stop)

    def is_understood(module: str, words: list[str]) -> bool:
        name = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
        main = importlib.import_module(name).main
        try:
            return main(words) == 0  # as with --help
        except SystemExit as end:
            return end.code in (0, None)
        except Understood as parsed:
            models: dict[str, Any] = {"study.run": StudyConfig, "study.evaluate": EvaluateConfig}
            if module in models:
                try:
                    resolve(models[module], given_options(parsed.options, models[module]))
                except UserError:
                    return False
            return True

    return is_understood


def longest(understood: Callable[[str, list[str]], bool], module: str, words: list[str]) -> int:
    """How many of the words are the command; what follows in a sentence is none of it."""
    plain = [word.strip(".,;:)") if at == len(words) - 1 else word for at, word in enumerate(words)]
    return next((count for count in range(len(plain), -1, -1) if understood(module, plain[:count])), -1)


def test_what_a_file_names_is_understood(understood: Callable[[str, list[str]], bool]) -> None:
    commands = {
        (module, tuple(words)): named(path)
        for path in (*PAGES, *CODE)
        for text in texts_of(path)
        for module, words in (commands_in(text) if "python -m study" in text else ())
        if words
    }
    assert len(commands) > 50
    for (module, words), where in commands.items():
        taken = longest(understood, module, [word.strip("()") for word in words])
        rest = words[max(taken, 0) :]
        assert taken > 0 or not rest[0].startswith("-"), (where, module, words)
        assert not rest or not rest[0].startswith("-"), (where, module, words)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, and one in which a trial failed and a pruner has options of its own."""
    folder: Path = tmp_path_factory.mktemp("place") / "runs"
    write_study(folder / "mine", trials=8, attacks=("badnets", "blended_random"), rates=(0.1,), seeds=(0,))
    pruned: dict[str, Any] = {"sampler": "tpe", "pruner": "asha", "pruner_grace": 1}
    write_study(folder / "other", 8, ("badnets", "trojan_square"), (0.1,), (0,), failed=(3,), **pruned)
    return folder


def test_the_last_screens_are_understood(understood: Callable[[str, list[str]], bool]) -> None:
    for path in sorted(GOLDEN.glob("*.txt")):
        for module, words in commands_in(path.read_text(encoding="utf-8")):
            assert understood(module, words), (path.name, module, words)


def test_what_status_analyze_and_report_print_runs(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(out.parent)
    # `tests/study/report/test_report.py` has pictures drawn; they print no command.
    monkeypatch.setattr("study.report.matplotlib_figures.png", lambda figure: b"")
    for study in ("mine", "other"):
        assert status.main([study]) == 0
        assert analyze.main([study]) == 0
        assert report.main([study, "-o", "page.html", "--markdown", "page.md"]) == 0
    last = [step.command for study in ("mine", "other") for step in extensions(load_results(out / study, out))]
    printed = "\n".join([capsys.readouterr().out, Path("page.md").read_text(encoding="utf-8"), *last])
    commands = {(module, tuple(words)) for module, words in commands_in(printed)}
    assert {module for module, _ in commands} >= {"study.run", "study.analyze"}
    for module, words in sorted(commands):
        more = ["--dry-run"] if module == "study.run" else []
        main = importlib.import_module(module).main
        assert main([*words, *more]) == 0, (module, words, capsys.readouterr().err)
