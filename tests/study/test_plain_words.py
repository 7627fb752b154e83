"""What a person reads is plain English: the code's own words do not reach a screen, a page or a figure."""

import re
from pathlib import Path

import pytest
from closing_screens import GOLDEN
from html5lib import parse as parse_html
from told_study import write_study

from study import __main__ as overview
from study import analyze, compare, status
from study.report import __main__ as report

INSIDE = re.compile(
    r"\b(oracles?|judged?|judgement|instruments?|cells?|stages? from the store|points? (?:of|in) the space"
    r"|(?:is|are|was|were) told(?! from))\b",
    re.IGNORECASE,
)
"""Words that the code has for its parts. Of an option's name (``--judge-seeds``) they are part of a command."""


def inside_words(text: str) -> list[str]:
    """The words that should not be there, with what stands around them."""
    text = re.sub(r"--[\w-]+", "", text)
    return [text[max(0, found.start() - 40) : found.end() + 20] for found in INSIDE.finditer(text)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that can answer, one that searched and in which trials failed, and a Pareto front."""
    folder: Path = tmp_path_factory.mktemp("runs")
    small = {"attacks": ("badnets", "blended_random"), "rates": (0.1,), "seeds": (0, 1)}
    write_study(folder / "even", trials=48, **small)  # type: ignore[arg-type]
    write_study(folder / "searched", trials=8, failed=(3,), sampler="tpe", rates=(0.1,), seeds=(0,))
    write_study(folder / "front", trials=8, objective="asr,ca", **small)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("name", ["even", "searched", pytest.param("front", marks=pytest.mark.slow)])
def test_commands_that_read_a_study(
    name: str, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing the copies of some fifty figures takes most of half a minute, and no words are read off a picture here;
    # `tests/study/report/test_report.py` has them drawn.
    monkeypatch.setattr("study.report.matplotlib_figures.png", lambda figure: b"")
    where = ["--out", str(out)]
    page, markdown = out / f"{name}.html", out / f"{name}.md"
    assert status.main([name, *where]) == 0
    assert analyze.main([name, *where]) == 0
    assert compare.main([f"{name}:best", name, *where]) == 0
    assert report.main([name, *where, "-o", str(page), "--markdown", str(markdown)]) == 0
    shown = capsys.readouterr()
    assert inside_words(shown.out + shown.err) == []
    assert inside_words(markdown.read_text(encoding="utf-8")) == []
    # Megabytes of plotting library, which no reader sees, take most of a minute to parse.
    text = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    body = parse_html(text, treebuilder="etree", namespaceHTMLElements=False).find("body")
    words = " ".join(text for part in body.iter() for text in (part.text, part.tail) if text)
    assert inside_words(words) == []


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_the_last_screens(path: Path) -> None:
    assert inside_words(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "command", ["run", "status", "report", "analyze", "compare", "evaluate", "clean", "attacks", "sync"]
)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overview.main([command, "--help"])
    assert inside_words(capsys.readouterr().out) == []


def test_the_check_sees_them() -> None:
    assert len(inside_words("an oracle; was judged; --judge-seeds; of the Cell")) == 3
    assert inside_words("the best of 24 trials, tied with one other; reuse of excellent results") == []
