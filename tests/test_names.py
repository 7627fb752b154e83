"""Names say what a thing is."""

import ast
from pathlib import Path

import pytest
from checkout import ROOT

PACKAGES = ("defenses", "search_spaces", "tracking", "study")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SAY_NOTHING = {"found", "stuff", "thing", "tmp", "foo"}
GONE = {"Book", "Chain", "Brake", "Watch", "Feed", "Board", "Pick", "Session", "Instrument", "CellConfig"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_name_says_nothing(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    given = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    given |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    assert not given & SAY_NOTHING
    assert not {node.name for node in nodes if isinstance(node, ast.ClassDef)} & GONE
