"""What takes or gives arrays says their shape and dtype, and what raises says so."""

import ast
import functools
import re
from collections.abc import Iterator

import pytest
from checkout import ROOT
from modules import FILES, named, parsed

Function = ast.FunctionDef | ast.AsyncFunctionDef

# `Images`, `SuspectDataset` and the like are no arrays: their own docstrings say what their fields hold. Nor are
# tensors by name, which are a network's weights.
ARRAY = re.compile(r"\b(NDArray|ndarray|Tensor)\b")
BY_NAME = re.compile(r"\b(dict|Mapping)\[str, Tensor\]")
SHAPE = re.compile(r"\[(?=[^\]]*(?:[A-Za-z]|\.\.\.))[^\]]+\]")
DTYPE = re.compile(r"\b(u?int\d*|float\d*|bool|dtype)\b")
ELSEWHERE = re.compile(r"[Ss]ee `Attack\.apply`")  # an override whose arguments and result are the base method's


def public_functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Functions and methods whose names, and whose class's, have no underscore before them."""
    bodies = [("", tree.body)]
    while bodies:
        prefix, body = bodies.pop()
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bodies.append((f"{prefix}{node.name}.", node.body))
            elif isinstance(node, Function) and not node.name.startswith("_"):
                yield prefix + node.name, node


def assigned_arrays(tree: ast.Module) -> set[str]:
    """Names that a module gives to a type of array, such as ``Mask = NDArray[np.bool_]``."""
    assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
    arrays = [node for node in assignments if ast.unparse(node.value).startswith("NDArray[")]
    return {target.id for node in arrays for target in node.targets if isinstance(target, ast.Name)}


@functools.cache
def arrays_of(module: str) -> set[str]:
    """The same for one of our modules; none for any other."""
    path = ROOT / (module.replace(".", "/") + ".py")
    return assigned_arrays(parsed(path)) if path.is_file() else set()


def array_names(tree: ast.Module) -> set[str]:
    """All names that stand for a type of array in a module, its own and imported ones."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = {alias.name for node in imports for alias in node.names if alias.name in arrays_of(node.module or "")}
    return assigned_arrays(tree) | imported


def takes_arrays(function: Function, names: set[str]) -> bool:
    """Whether an argument or what is returned is an array."""
    return any(ARRAY.search(kind) or names & set(re.findall(r"\w+", kind)) for kind in annotations(function))


def annotations(function: Function) -> list[str]:
    """Types of the arguments and of what is returned."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    types = [argument.annotation for argument in named if argument is not None] + [function.returns]
    return [BY_NAME.sub("", ast.unparse(kind)) for kind in types if kind is not None]


def leaving_raises(node: ast.AST) -> Iterator[str]:
    """The exceptions that a function's own statements raise out of it; those that it catches itself are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            yield ast.unparse(child.exc).partition("(")[0]
        if isinstance(child, ast.Try):
            caught = " ".join(ast.unparse(handler.type) for handler in child.handlers if handler.type is not None)
            inside = [name for statement in child.body for name in leaving_raises(ast.Module([statement], []))]
            yield from (name for name in inside if name not in caught)
            for part in (*child.handlers, *child.orelse, *child.finalbody):
                yield from leaving_raises(ast.Module([part], []))  # type: ignore[list-item]
        else:
            yield from leaving_raises(child)


def faults(tree: ast.Module) -> list[str]:
    """What is missing in the docstrings of a module."""
    missing = []
    arrays = array_names(tree)
    for name, function in public_functions(tree):
        text = ast.get_docstring(function) or ""
        if takes_arrays(function, arrays) and not ELSEWHERE.search(text):
            missing += [f"{name}: no shape"] if not SHAPE.search(text) else []
            missing += [f"{name}: no dtype"] if not DTYPE.search(text) else []
        if "Raises:" not in text and any(leaving_raises(function)):
            missing.append(f"{name}: no Raises:")
    return missing


def test_docstrings_say_shapes_dtypes_and_what_is_raised() -> None:
    assert not {named(path): missing for path in FILES if (missing := faults(parsed(path)))}


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ('def f(x: NDArray[np.int64]) -> int:\n    """int64 [N]."""', []),
        ('def f(x: NDArray[np.int64]) -> int:\n    """A share in [0, 1], as int64."""', ["f: no shape"]),
        ('def f() -> Tensor:\n    """Logits [n, K]."""', ["f: no dtype"]),
        (
            'class A:\n    def f(self, *, x: NDArray[Any] | None) -> int:\n        """A."""',
            ["A.f: no shape", "A.f: no dtype"],
        ),
        ('def f(weights: dict[str, Tensor], images: Images) -> int:\n    """A."""', []),
        ('Mask = NDArray[np.bool_]\n\ndef f(x: Mask) -> int:\n    """bool."""', ["f: no shape"]),
        ('from study.scenarios.metrics import Mask\n\ndef f(x: Mask) -> int:\n    """bool."""', ["f: no shape"]),
        ('def _f(x: Tensor) -> int:\n    """A."""', []),
        ('def f() -> None:\n    """A."""\n    if 1:\n        raise UserError("x")', ["f: no Raises:"]),
        ('def f() -> None:\n    """A.\n\n    Raises:\n        UserError: x.\n    """\n    raise UserError("x")', []),
        ('def f() -> None:\n    """A."""\n    def g():\n        raise UserError("x")', []),
        ('def f() -> None:\n    """A."""\n    try:\n        raise Bad\n    except Bad:\n        pass', []),
        (
            'def f() -> None:\n    """A."""\n    try:\n        g()\n    except Bad:\n        raise Worse',
            ["f: no Raises:"],
        ),
    ],
)
def test_the_rule_sees_what_is_missing(source: str, missing: list[str]) -> None:
    assert faults(ast.parse(source)) == missing
