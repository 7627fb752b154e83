"""The project's modules, each parsed once a process: many tests look at all of them."""

import ast
import functools
from pathlib import Path

from checkout import ROOT

PACKAGES = ("defenses", "search_spaces", "tracking", "study")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def named(path: Path) -> str:
    """A file's name within the checkout."""
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed(path: Path) -> ast.Module:
    """What Python makes of a file; not to be changed."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file."""
    return tuple(ast.walk(parsed(path)))
