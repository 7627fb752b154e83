"""At what scale a study ran: its options, the fields that all its trials share, and what the papers did otherwise."""

from typing import Any

from pydantic import ValidationError

from study.answers.results import Results
from study.config import StudyConfig
from study.instruments import find_defense
from study.preset_changes import Change, preset_changes


def fields_of(results: Results) -> dict[str, Any]:
    """All fields of the defense's Config but the searched ones: the paper's, over them the preset's and the user's."""
    found = _config_and_fixed(results)
    return {**vars(find_defense(results.defense).config_type()), **(found[1] if found else {})}


def changes_of(results: Results) -> list[Change]:
    """What the papers did otherwise; empty for a study of another version."""
    found = _config_and_fixed(results)
    return preset_changes(found[0], find_defense(results.defense).config_type, found[1]) if found else []


def _config_and_fixed(results: Results) -> tuple[StudyConfig, dict[str, Any]] | None:
    """The options, and the fields that preset and user set; None where this version does not know the options."""
    from study.plan import fixed_fields, space_of  # with torch, which takes two seconds

    try:
        config = StudyConfig(**results.settings)
    except ValidationError:
        return None
    return config, fixed_fields(config, space_of(config))
