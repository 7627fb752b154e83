"""`study.json`: what a study was started with, and what its plan made of that. Only this module reads and writes it."""

import dataclasses
import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from defenses.registry import UserError
from defenses.storage.atomic_files import write_atomic
from study.cli.options import Parser, add_options, given_options
from study.config.config import OUT, PRESETS, StudyConfig, resolve
from study.config.identity import NOT_IDENTITY
from study.config.objectives import Goal, parse_objectives
from study.ledger.study_folder import JUDGE, LEDGER, MANIFEST, SEARCH

_WORST = "worst "  # before the objectives of a study that goes by its worst scenario


@dataclass(frozen=True)
class ScenarioParts:
    """Of what a scenario is made: its name alone does not always tell.

    Attributes:
        target: the target label with its class's name; empty in a study that is too old to say, and without a target.
    """

    name: str
    attack: str
    poison_rate: float
    seed: int
    target_label: int = 0
    preset: str = "smoke"
    target: str = ""
    repeat: int = 0


@dataclass(frozen=True)
class Manifest:
    """What a study's folder says of the study.

    Attributes:
        identity: hash of what makes it this study; empty where the file does not say.
        data: keys of its scenarios' poisoned data; a file's name does not say what lies in it today.
        settings: its options as they were written, those that this version does not know among them.
        objective: what it searches for, as text.
        given_points: its points were chosen elsewhere, and lie nowhere in particular in the space.
        scenarios: their names, in the plan's order.
        parts: of the scenarios; empty for a study that is too old to say.
        code_version: of the version that started it last.
    """

    identity: str
    data: tuple[str, ...]
    settings: Mapping[str, Any]
    objective: str = ""
    given_points: bool = False
    scenarios: tuple[str, ...] = ()
    parts: tuple[ScenarioParts, ...] = ()
    code_version: str = "-"

    @functools.cached_property
    def config(self) -> StudyConfig:
        """Its options as this version knows them; one that it does not know, or refuses, is at its default."""
        known = {name: value for name, value in self.settings.items() if name in StudyConfig.model_fields}
        while True:
            try:
                return StudyConfig(**known)
            except ValidationError as error:
                refused = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]} & known.keys()
                known = {name: value for name, value in known.items() if refused and name not in refused}

    @property
    def goal(self) -> Goal:
        """What it searches for.

        Raises:
            UserError: this version does not know the objective.
        """
        return Goal(parse_objectives(self.objective.removeprefix(_WORST)), self.config.aggregate)

    @property
    def planned(self) -> int | None:
        """How many trials the last command asked for; None where nobody knows."""
        planned = self.settings.get("trials")
        return planned if isinstance(planned, int) else None

    @property
    def target(self) -> str:
        """The class the attacker wants, by number and, where it is known, by name."""
        poisoned = [part for part in self.parts if part.poison_rate] or self.parts
        told = dict.fromkeys(str(part.target or part.target_label) for part in poisoned)
        return ", ".join(told) or str(self.settings.get("target_label", 0))

    def scenario_parts(self, name: str) -> ScenarioParts | None:
        """The parts of a scenario; None where the file does not tell."""
        return next((parts for parts in self.parts if parts.name == name), None)

    @property
    def first_repeats(self) -> tuple[str, ...]:
        """The scenarios that are the first of each poisoned set; all where the file does not tell."""
        repeats = {part.name for part in self.parts if part.repeat}
        return tuple(scenario for scenario in self.scenarios if scenario not in repeats)

    def child_studies(self, folder: Path) -> list[Path]:
        """Folders of the studies that one with ``--holdout``, ``--defenses`` or ``--per-scenario`` is made of.

        None of any other.

        Those that were not begun yet do not exist.
        """
        if self.settings.get("holdout"):
            return [folder.with_name(folder.name + suffix) for suffix in (SEARCH, JUDGE)]
        if self.settings.get("defenses"):
            return [folder.with_name(f"{folder.name}.{space}") for space in self.settings["defenses"]]
        if self.settings.get("per_scenario") and not (folder / LEDGER).is_file():
            return [folder.with_name(f"{folder.name}.{first}") for first in self.first_repeats]  # with all others
        return []

    def whole_study(self) -> "Manifest":
        """Of a scenario's own study the manifest under whose command it is made; any other is whole itself."""
        others = any(part.repeat == 0 for part in self.parts[1:]) or (len(self.scenarios) > 1 and not self.parts)
        own = f".{self.scenarios[0]}" if self.scenarios and not others else ""
        name = self.settings.get("name")
        if self.settings.get("per_scenario") and own and isinstance(name, str) and name.endswith(own):
            return dataclasses.replace(self, settings={**self.settings, "name": name.removesuffix(own)})
        return self

    def resume_command(self, out: Path) -> str:
        """The command that goes on with the study; empty where none of this version can.

        Args:
            out: the folder of all studies, as the user names it.
        """
        usual = out.resolve() == OUT.resolve()
        words = _option_words({**self.settings, "out": str(OUT if usual else out)})
        parser = Parser(allow_abbrev=False, add_help=False)
        add_options(parser, StudyConfig)
        try:
            config = resolve(StudyConfig, given_options(parser.parse_args(words), StudyConfig))
        except UserError:
            return ""
        # What the options' text cannot say (an option made empty in a YAML file) would be refused as another study.
        same = config.identity == self.identity and config.name == self.settings.get("name")
        return shlex.join(["python", "-m", "study.run", *words]) if same else ""

    def extend_command(self, out: Path, trials: int) -> str:
        """The command that goes on with the study up to a number of trials; empty where none of this version can."""
        larger = dataclasses.replace(self, settings={**self.settings, "trials": trials})
        return larger.resume_command(out) if self.resume_command(out) else ""

    def variant_command(self, out: Path, **changes: Any) -> str:
        """The command of another study, which has some options otherwise; empty where none of this version can."""
        settings = {**self.settings, "name": None, **changes}
        try:
            identity = StudyConfig(**settings).identity
        except ValidationError:
            return ""
        other = dataclasses.replace(self, settings=settings, identity=identity)
        return other.resume_command(out) if self.resume_command(out) else ""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a study's folder.

    Raises:
        ValueError: the file is missing or damaged; the message says how.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(content, dict) and isinstance(content["settings"], dict)):
            raise TypeError("it holds no settings")
        scenarios = content.get("scenarios")
        return Manifest(
            identity=str(content.get("identity") or ""),
            data=tuple(map(str, content.get("data") or ())),
            settings=content["settings"],
            objective=str(content.get("objective") or ""),
            given_points=bool(content.get("given_points")),
            scenarios=tuple(map(str, scenarios)) if isinstance(scenarios, list) else (),
            parts=tuple(_parts(part) for part in content.get("parts") or ()),
            code_version=str(content.get("code_version", "-")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _parts(content: Mapping[str, Any]) -> ScenarioParts:
    fields = {field.name: field.type for field in dataclasses.fields(ScenarioParts)}
    return ScenarioParts(**{name: value for name, value in content.items() if name in fields})


def keep_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a study's manifest, unless the folder belongs to another: mixed studies would not compare.

    Raises:
        UserError: the folder's own manifest is of a study with other settings or other data, or cannot be read.
    """
    if (folder / MANIFEST).exists():
        _check_same(_readable(folder), manifest, folder.name)
    content = {
        "identity": manifest.identity,
        "data": manifest.data,
        "settings": manifest.settings,
        "objective": manifest.objective,
        "given_points": manifest.given_points,
        "scenarios": manifest.scenarios,
        "parts": [dataclasses.asdict(parts) for parts in manifest.parts],
        "code_version": manifest.code_version,
    }
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1))


def _readable(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except ValueError as error:
        raise UserError(
            f"study {folder.name!r} must be readable, and {error}: restore it, or use another --name"
        ) from error


def _check_same(known: Manifest, wanted: Manifest, name: str) -> None:
    if known.identity != wanted.identity:
        changed = _differences(known.settings, wanted.settings)
        raise UserError(
            f"study {name!r} was started with other settings ({', '.join(changed)}): use those again, or another --name"
        )
    if known.data != wanted.data:
        raise UserError(
            f"study {name!r} was started with other images than its files hold now, or by a version that poisons "
            f"them otherwise ({wanted.settings['dataset']}): put them back, or use another --name"
        )


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sequence[str]:
    changed = sorted(key for key in (before.keys() | after) - NOT_IDENTITY if before.get(key) != after.get(key))
    return [f"{key} was {before.get(key)!r}" for key in changed[:3]]


def _option_words(settings: Mapping[str, Any]) -> list[str]:
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
        words += ["--" + name.replace("_", "-"), *_value_words(value)]
    return words


def _value_words(value: Any) -> list[str]:
    if value is True:
        return []
    if isinstance(value, dict):
        return [f"{name}={','.join(part) if isinstance(part, list) else part}" for name, part in value.items()]
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]
