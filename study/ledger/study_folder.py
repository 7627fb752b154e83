"""The folder of a study, for commands that look at it and run nothing: which there are, and what they were told."""

import argparse
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from defenses.registry import UserError, nearest
from study.config.config import OUT, PRESETS, Parser, StudyConfig, add_options, given_options, resolve

SEARCH, JUDGE = ".search", ".judge"  # the two studies that one with --holdout is made of: its name and this
SETTINGS, LEDGER, OUTBOX, POINTS, SCRATCH = "study.json", "study.db", "outbox.jsonl", "points", "ray"


def add_out(parser: argparse.ArgumentParser) -> None:
    """Gives a command the option ``--out``, as `study.run` has it."""
    parser.add_argument("--out", type=Path, metavar="PATH", help=f"folder of results [{OUT}]")


def parse_out(namespace: argparse.Namespace) -> Path:
    """What was given for it."""
    return namespace.out or OUT


def studies(out: Path) -> list[Path]:
    """The folders of all studies, by name.

    Raises:
        UserError: there is no such folder.
    """
    try:
        return sorted(path for path in out.iterdir() if any((path / name).is_file() for name in (SETTINGS, LEDGER)))
    except OSError as error:
        raise UserError(f"--out must be the folder of a study's results, got {out}: {error.strerror}") from error


def find_study(out: Path, name: str) -> Path:
    """The folder of one study.

    Raises:
        UserError: it does not exist; the message has the nearest name.
    """
    found = {path.name: path for path in studies(out)}
    if name not in found:
        raise UserError(
            f"unknown study {name!r} in {out}: {nearest(name, found)}"
            f"({'known: ' + ', '.join(found) if found else 'there is none'}; another folder is named with --out)"
        )
    return found[name]


def check_no_links(folder: Path) -> None:
    """Refuses a study's folder with a link in it: what is written to the folder would land wherever the link leads.

    Ray's own scratch folder, which a killed driver leaves behind, is passed over: it is removed and never read.
    """
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and SCRATCH in folders and not (folder / SCRATCH).is_symlink():
            folders.remove(SCRATCH)
        for name in (*folders, *files):
            if (Path(place) / name).is_symlink():
                raise UserError(f"a study's folder must hold no links, and {Path(place) / name} is one: remove it")


def read_settings(folder: Path) -> dict[str, Any]:
    """What a study was started with: its options under ``settings``, and what the plan made of them.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(found, dict) and isinstance(found["settings"], dict)):
            raise TypeError("it holds no settings")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return found


def child_studies(folder: Path, known: Mapping[str, Any]) -> list[Path]:
    """The folders of the studies that one with ``--holdout`` or ``--per-scenario`` is made of; none of any other.

    Those that were not begun yet do not exist.

    Args:
        known: as `read_settings` gives it; empty where that fails.
    """
    settings = known.get("settings", {})
    if settings.get("holdout"):
        return [folder.with_name(folder.name + suffix) for suffix in (SEARCH, JUDGE)]
    if settings.get("per_scenario") and (folder / SETTINGS).is_file() and not (folder / LEDGER).is_file():
        return [folder.with_name(f"{folder.name}.{scenario}") for scenario in known.get("scenarios", ())]
    return []


def resume_command(known: Mapping[str, Any], out: Path) -> str:
    """The command that goes on with a study; empty where none of this version can.

    Args:
        known: as `read_settings` gives it.
        out: the folder of all studies, as the user names it.
    """
    settings = {**known["settings"], "out": str(out)}
    words = _options(settings)
    parser = Parser(allow_abbrev=False, add_help=False)
    add_options(parser, StudyConfig)
    try:
        config = resolve(StudyConfig, given_options(parser.parse_args(words), StudyConfig))
    except UserError:
        return ""
    # What the options' text cannot say (an option made empty in a YAML file) would be refused as another study.
    same = config.identity == known.get("identity") and config.name == settings.get("name")
    return shlex.join(["python", "-m", "study.run", *words]) if same else ""


def _options(settings: Mapping[str, Any]) -> list[str]:
    """The options that differ from what the preset makes of a study."""
    preset = settings.get("preset")
    try:
        usual = StudyConfig(**{**PRESETS.get(str(preset), {}), "preset": preset}).model_dump(mode="json")
    except ValidationError:
        return []
    words = [] if preset == "smoke" else ["--preset", str(preset)]
    always = ("space", "trials")
    for name in dict.fromkeys((*always, *settings)):
        value = settings.get(name)
        if name in ("preset", "verbose") or value is None or value is False:
            continue
        if name not in always and value == usual.get(name):
            continue
        words += ["--" + name.replace("_", "-"), *_words(value)]
    return words


def _words(value: Any) -> list[str]:
    if value is True:
        return []
    if isinstance(value, dict):
        return [f"{name}={text}" for name, text in value.items()]
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]
