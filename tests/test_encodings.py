"""Text is UTF-8 whatever the locale: every call that reads or writes text says so."""

import ast
from collections.abc import Iterator

import pytest
from modules import FILES, named, parsed

TEXT_UNLESS_BINARY = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0, "SpooledTemporaryFile": 1}
"""Calls that open text or bytes, and where among their arguments the mode stands when they are functions."""
BINARY_BY_DEFAULT = {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}
TEXT = {"read_text", "write_text", "TextIOWrapper", "FileHandler", "RotatingFileHandler"}
NUMPY_TEXT = {"savetxt", "loadtxt", "genfromtxt"}
PROCESSES = {"run", "Popen", "check_output", "check_call"}
OTHER_OPEN = {"os.open", "Image.open", "webbrowser.open", "tarfile.open", "zipfile.ZipFile.open"}
"""Named alike, and none of them opens text."""


def mode(node: ast.Call, name: str) -> str | None:
    """The mode of a call that opens a file; None where the code does not say it."""
    at = TEXT_UNLESS_BINARY[name]
    if name == "open" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in ("io", "gzip"):
        at = 0  # a method of a path
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    value = given.get("mode", node.args[at] if len(node.args) > at else None)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def opens_text(node: ast.Call, name: str) -> bool:
    if name not in TEXT_UNLESS_BINARY:
        return False
    return "b" not in (mode(node, name) or ("b" if name in BINARY_BY_DEFAULT else "r"))


def without_encoding(tree: ast.AST) -> Iterator[str]:
    """Calls that read or write text in whatever encoding the locale has."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        whole = ast.unparse(node.func)
        name, given = whole.rpartition(".")[2], {keyword.arg for keyword in node.keywords}
        if "encoding" in given or whole in OTHER_OPEN:
            continue
        into_text = bool(node.args) and ast.unparse(node.args[0]) == "text"  # an io.StringIO
        reasons = (
            opens_text(node, name),
            name in TEXT,
            name in PROCESSES and whole.startswith("subprocess.") and bool(given & {"text", "universal_newlines"}),
            name in NUMPY_TEXT and not into_text,
        )
        if any(reasons):
            yield f"{node.lineno}: {whole}"


def test_text_has_its_encoding() -> None:
    assert not {named(path): calls for path in FILES if (calls := list(without_encoding(parsed(path))))}


@pytest.mark.parametrize(
    "line",
    [
        "path.read_text()",
        "path.write_text(text)",
        "path.open()",
        "path.open('w')",
        "open(path)",
        "open(path, 'a')",
        "os.fdopen(handle, 'w')",
        "tempfile.NamedTemporaryFile('w')",
        "np.savetxt(path, table)",
        "logging.FileHandler(path)",
        "subprocess.run(words, text=True)",
    ],
)
def test_the_rule_sees(line: str) -> None:
    assert list(without_encoding(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "path.open('rb')",
        "open(path, 'wb')",
        "path.open('ab', buffering=0)",
        "os.open(path, 0)",
        "Image.open(path)",
        "tempfile.NamedTemporaryFile(dir=folder)",
        "path.read_text(encoding='utf-8')",
        "subprocess.run(words)",
    ],
)
def test_the_rule_leaves_bytes_alone(line: str) -> None:
    assert not list(without_encoding(ast.parse(line)))
