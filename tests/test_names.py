"""Names say what a thing is."""

import ast
from pathlib import Path

from modules import FILES, named, nodes_of

SAY_NOTHING = {"found", "stuff", "thing", "tmp", "foo"}
GONE = {"Book", "Chain", "Brake", "Watch", "Feed", "Board", "Pick", "Session", "Instrument", "CellConfig"}


def empty_names(path: Path) -> set[str]:
    """Names of a module that say nothing, and classes whose names are gone."""
    nodes = nodes_of(path)
    given = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    given |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return given & SAY_NOTHING | {node.name for node in nodes if isinstance(node, ast.ClassDef)} & GONE


def test_no_name_says_nothing() -> None:
    assert not {named(path): empty for path in FILES if (empty := empty_names(path))}
