"""How to make a study again: the command, the versions, and what its preset changes from the papers."""

import importlib.metadata
import platform

from study.analysis.fixed_fields import load_changes
from study.analysis.results import Results
from study.cli.numbers import several
from study.ledger.manifest import Manifest, read_manifest
from study.report.elements import Cell, Item, Note, Section, Table
from study.scenarios.oracle_defenses import find_defense

_LIBRARIES = ("torch", "ray", "optuna", "mlflow", "numpy", "scikit-learn")


def sections(results: Results) -> list[Section]:
    """One section."""
    manifest = read_manifest(results.folder)
    whole = results.config.holdout  # the folder is that of its search
    again = results.command if whole else manifest.whole_study().resume_command(results.folder.parent)
    items: list[Item] = [_versions(manifest, results.machines)]
    changes = _changes(results)
    if changes.rows:
        items.append(changes)
    items.append(
        Note(
            "The same command on a finished study runs nothing again; with another --out it makes the study anew. On "
            "the same kind of processor, with the same threads and torch, a trial gives the same numbers bit for bit; "
            "on another it can give the opposite, and several seeds tell how often. Which trials a search asks for "
            "depends on the order in which earlier ones finish.",
            "footnote",
        )
    )
    preset = str(results.config.preset)
    count = len(changes.rows)
    scale = (
        f"Preset {preset} changes {several(count, 'setting')} from the papers, so its numbers are not the papers'."
        if count
        else f"Preset {preset} changes nothing from the papers."
    )
    lead = (
        "One command makes this study."
        if again
        else "This version makes another study of its settings, so no command can be given."
    )
    return [Section("reproduce", "Reproduce", f"{lead} {scale}", tuple(items), again)]


def _versions(manifest: Manifest, machines: list[str]) -> Table:
    from study.code_version import code_version

    made, now = manifest.code_version, code_version()
    rows: list[tuple[Cell, ...]] = [
        ("this framework, when the study was last started", made),
        ("this framework, when this report was written", now),
        *(("computed on", machine) for machine in machines),
        ("Python", platform.python_version()),
        *((name, _version(name)) for name in _LIBRARIES),
    ]
    other = "" if made == now else " The code has changed since: results may, too."
    if len(machines) > 1:
        other += " Its scenarios ran on several kinds of machine, and the same setting gives other numbers on each."
    return Table(
        "versions",
        f"Versions. A study records its own code; the libraries are those that this report was written with.{other}",
        ("", "version"),
        tuple(rows),
        left=2,
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _changes(results: Results) -> Table:
    """What the preset and the user change, a row a field: the paper's value and the one here."""
    symbol = find_defense(results.defense).config_type.symbol
    rows: list[tuple[Cell, ...]] = [
        (symbol(change.field), change.paper, change.here, f"{change.doc}{'; set' if change.given else ''}")
        for change in load_changes(results)
    ]
    return Table(
        "preset",
        f"What this study (preset {results.config.preset}) changes from the papers' scale and the defense's defaults",
        ("setting", "paper", "here", "what it is"),
        tuple(rows),
        left=4,
    )
