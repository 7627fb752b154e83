"""The threat model is in the imports: a defense cannot reach an attack, and each heavy library has its one place."""

import ast
from pathlib import Path

from checkout import ROOT
from modules import FILES, PACKAGES, named, nodes_of, parsed

MAY_IMPORT = {
    "defenses": {"defenses"},
    "search_spaces": {"search_spaces", "defenses"},
    "tracking": {"tracking", "defenses"},
    "study": set(PACKAGES),
}
PLACES = {
    "ray": {
        "study/driver/tune_runner.py",
        "study/driver/ray_session.py",
        "study/driver/stage_builder.py",
        "study/driver/searcher.py",
        "study/driver/ray_nodes.py",
        "study/driver/pruner.py",
        "study/driver/worker.py",
        "study/driver/clean_control.py",
        "study/driver/head.py",
        "study/driver/worker_watch.py",
    },
    "mlflow": {"tracking/mlflow_log.py"},
    "optuna": {
        "search_spaces/space.py",
        "study/ledger/ledger.py",
        "study/ledger/quiet_study.py",
        "study/ledger/samplers.py",
        "study/ledger/storage.py",
        "study/ledger/trial_rows.py",
        "study/report/sections/importance.py",
    },
    "plotly": {"study/report/plotly_figures.py"},
    "jenkspy": {"defenses/cuts/variance.py"},
}
ROOMS = (
    "commands",
    "cleaning",
    "driver",
    "report",
    "analysis",
    "planning",
    "ledger",
    "scenarios",
    "attacks",
    "datasets",
    "config",
    "cli",
)
"""The rooms of `study`: each imports only from later ones. A command lies in no folder, or is a `__main__`."""
FREE = {"study", "study.code_version"}
"""What every room may import, and what imports none."""

LONGEST_FUNCTION, NINETIETH_PERCENTILE, LONGEST_FILE = 60, 40, 400


def imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module or "")
            if node.module == "study":  # `from study import run` names the module, not an attribute
                found |= {f"study.{alias.name}" for alias in node.names}
    return found


def wrong_imports(path: Path) -> list[str]:
    """Imports of a package that may not know the other, or of a heavy library outside its place."""
    allowed = MAY_IMPORT[named(path).split("/")[0]]
    tops = [(module.split(".")[0], module) for module in imported(parsed(path))]
    against_arrows = [module for top, module in tops if top in PACKAGES and top not in allowed]
    return against_arrows + [module for top, module in tops if named(path) not in PLACES.get(top, {named(path)})]


def test_imports_follow_the_arrows() -> None:
    assert not {named(path): modules for path in FILES if (modules := wrong_imports(path))}


def room(module: str) -> str:
    """The room of a module of `study`."""
    parts = module.split(".")
    is_command = len(parts) < 2 or parts[-1] == "__main__" or parts[1] not in ROOMS
    return "commands" if is_command else parts[1]


def arrows() -> dict[tuple[str, str], set[str]]:
    """(room, imported room) of `study` -> the imports that make the arrow."""
    drawn: dict[tuple[str, str], set[str]] = {}
    for path in FILES:
        module = named(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if module.split(".")[0] != "study" or module in FREE:
            continue
        for target in imported(parsed(path)):
            if target.split(".")[0] == "study" and target not in FREE and room(target) != room(module):
                drawn.setdefault((room(module), room(target)), set()).add(f"{module} imports {target}")
    return drawn


def test_rooms_stand_in_one_order_and_import_one_way() -> None:
    back = {arrow: imports for arrow, imports in arrows().items() if ROOMS.index(arrow[0]) >= ROOMS.index(arrow[1])}
    assert not back


def test_every_folder_of_study_is_a_room() -> None:
    folders = {path.name for path in (ROOT / "study").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(ROOMS) - {"commands"}


def test_what_every_room_may_import_imports_none() -> None:
    for module in FREE - {"study"}:
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert not [target for target in imported(parsed(path)) if target.split(".")[0] == "study"]


def test_the_order_sees_a_way_back() -> None:
    assert (room("study.report.__main__"), room("study.report.text")) == ("commands", "report")
    assert room("study.status") == "commands"
    assert ROOMS.index("driver") < ROOMS.index("ledger")


def test_the_rule_sees_a_forbidden_import() -> None:
    assert imported(ast.parse("def f():\n    from study.scenarios.poison import poison\n    import ray")) == {
        "study.scenarios.poison",
        "ray",
    }


def prints_or_unpickles(node: ast.Call) -> bool:
    name = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    return (
        name in {"print", "eval", "exec", "pickle.load", "pickle.loads"}
        or keywords.get("allow_pickle", "False") != "False"
        or (name == "torch.load" and keywords.get("weights_only") != "True")
    )


def test_nothing_prints_or_unpickles() -> None:
    calls = [(path, node) for path in FILES for node in nodes_of(path) if isinstance(node, ast.Call)]
    assert not [f"{named(path)}:{node.lineno}" for path, node in calls if prints_or_unpickles(node)]
    assert prints_or_unpickles(ast.parse("torch.load(path)").body[0].value)  # type: ignore[attr-defined]


def functions() -> list[tuple[str, int]]:
    return [
        (f"{named(path)}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_functions_fit_a_screen() -> None:
    lengths = sorted(length for _, length in functions())
    too_long = [name for name, length in functions() if length > LONGEST_FUNCTION]
    assert not too_long
    assert lengths[int(0.9 * len(lengths))] <= NINETIETH_PERCENTILE


def test_files_hold_one_idea() -> None:
    assert not [named(path) for path in FILES if path.read_text().count("\n") > LONGEST_FILE]
