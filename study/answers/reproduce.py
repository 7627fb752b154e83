"""How to make a study again: the command, the versions, and what its preset changes from the papers."""

import dataclasses
import importlib.metadata
import platform
from typing import Any

from search_spaces import SEARCH_SPACES
from study.answers.page import Cell, Item, Note, Section, Table
from study.answers.results import Results
from study.config import PRESETS, StudyConfig
from study.folder import command, read_settings
from study.instruments import find_defense

_LIBRARIES = ("torch", "ray", "optuna", "mlflow", "numpy", "scikit-learn")
_SCALE = ("dataset", "train_size", "test_size", "width", "blocks")
"""Settings of a study that a preset scales down; which attacks, rates and trials a study has is its own affair."""


def sections(results: Results) -> list[Section]:
    """One section."""
    known = read_settings(results.folder)
    whole = results.settings.get("holdout")  # the folder is that of its search
    again = results.command if whole else command(_whole_study(known), results.folder.parent)
    items: list[Item] = [_versions(known)]
    changes = _changes(results)
    if changes.rows:
        items.append(changes)
    items.append(
        Note(
            "The same command on a finished study runs nothing again; with another --out it makes the study anew. On a "
            "CPU a trial gives the same numbers bit for bit; which trials a search asks for depends on the order in "
            "which earlier ones finish.",
            "footnote",
        )
    )
    preset = str(results.settings["preset"])
    count = len(changes.rows)
    scale = (
        f"Preset {preset} changes {count} settings from the papers, so its numbers are not the papers'."
        if count
        else f"Preset {preset} changes nothing from the papers."
    )
    lead = (
        "One command makes this study."
        if again
        else "This version makes another study of its settings, so no command can be given."
    )
    return [Section("reproduce", "Reproduce", f"{lead} {scale}", tuple(items), again)]


def _whole_study(known: dict[str, Any]) -> dict[str, Any]:
    """The settings of the study that a command makes; a scenario's own study is made together with its neighbours."""
    settings = known["settings"]
    names = known.get("scenarios") or []
    own = f".{names[0]}" if len(names) == 1 else ""
    name = settings.get("name")
    if settings.get("per_scenario") and own and isinstance(name, str) and name.endswith(own):
        return {**known, "settings": {**settings, "name": name.removesuffix(own)}}
    return known


def _versions(known: dict[str, Any]) -> Table:
    from study.version import code_version

    made, now = str(known.get("code_version", "-")), code_version()
    rows: list[tuple[Cell, ...]] = [
        ("this framework, when the study was last started", made),
        ("this framework, when this report was written", now),
        ("Python", platform.python_version()),
        *((name, _version(name)) for name in _LIBRARIES),
    ]
    other = "" if made == now else " The code has changed since: results may, too."
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
    """What the preset changes, a row a field: the paper's value and the preset's."""
    preset = str(results.settings["preset"])
    given = results.settings.get("set") or {}
    rows: list[tuple[Cell, ...]] = []
    for name in _SCALE:
        paper, own = _of_preset("paper", name), _listed(results.settings.get(name))
        if own != paper:
            rows.append(
                (name, _cell(paper or "all"), _cell(own or "all"), _said(StudyConfig.model_fields[name].description))
            )
    if results.space in SEARCH_SPACES:
        config = find_defense(results.defense).config_type
        fields = {field.name: field for field in dataclasses.fields(config)}
        for name, value in SEARCH_SPACES.find(results.space).preset(preset).items():
            if name not in given and value != fields[name].default:
                doc = fields[name].metadata["doc"]
                rows.append((config.symbol(name), _cell(fields[name].default), _cell(value), doc))
        for name, text in given.items():
            if name in fields and text != str(fields[name].default):
                rows.append(
                    (config.symbol(name), _cell(fields[name].default), text, f"{fields[name].metadata['doc']}; set")
                )
    return Table(
        "preset",
        f"What this study (preset {preset}) changes from the papers' scale and the defense's defaults",
        ("setting", "paper", "here", "what it is"),
        tuple(rows),
        left=4,
    )


def _of_preset(preset: str, name: str) -> Any:
    return _listed(PRESETS[preset].get(name, StudyConfig.model_fields[name].default))


def _listed(value: Any) -> Any:
    """As JSON has it: settings are read from there."""
    return list(value) if isinstance(value, tuple) else value


def _said(text: str | None) -> str:
    return text or ""


def _cell(value: Any) -> str:
    """A setting for people."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
