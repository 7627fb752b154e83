"""At what scale a study ran: its options, the fields that all its trials share, and what the papers did otherwise."""

from typing import Any

from pydantic import ValidationError

from defenses.registry import UserError
from study.analysis.results import Results
from study.config.config import StudyConfig
from study.config.paper_deviations import Change, preset_changes
from study.planning.searched_space import load_space
from study.scenarios.oracle_defenses import find_defense


def load_fields(results: Results) -> dict[str, Any]:
    """All fields of the defense's Config but the searched ones: the paper's, over them the preset's and the user's."""
    known = _config_and_fixed(results)
    return {**vars(find_defense(results.defense).config_type()), **(known[1] if known else {})}


def load_changes(results: Results) -> list[Change]:
    """What the papers did otherwise; empty for a study of another version."""
    known = _config_and_fixed(results)
    return preset_changes(known[0], find_defense(results.defense).config_type, known[1]) if known else []


def set_beside_paper(results: Results) -> dict[str, tuple[Any, Any]]:
    """Field -> what --set gives all trials and the paper's value, where they differ; empty if of another version."""
    if not results.config.set:  # spares loading torch
        return {}
    try:
        here = load_fields(results)
    except UserError:
        return {}
    paper = vars(find_defense(results.defense).config_type())
    return {name: (here[name], paper[name]) for name in results.config.set if here[name] != paper[name]}


def is_set_whole(results: Results) -> bool:
    """Whether nothing is searched and --set gives other values than the paper's, so that no trial is its default."""
    return not results.ranges and bool(set_beside_paper(results))


def default_in_words(results: Results) -> str:
    """Whose values the trial has that has the paper's of all searched fields, for a sentence."""
    return "the setting of --set" if is_set_whole(results) else "the paper's default"


def _config_and_fixed(results: Results) -> tuple[StudyConfig, dict[str, Any]] | None:
    """The options, and the fields that preset and user set; None where this version does not know the options."""
    from study.planning.plan import fixed_fields  # with torch, which takes two seconds

    try:
        config = StudyConfig(**results.manifest.settings)
    except ValidationError:
        return None
    return config, fixed_fields(config, load_space(config))
