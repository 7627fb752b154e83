"""At what scale a study ran: its options, the fields that all its trials share, and what the papers did otherwise."""

from typing import Any

from pydantic import ValidationError

from study.answers.results import Results
from study.config import StudyConfig
from study.preset_changes import Change, preset_changes


def config_of(results: Results) -> StudyConfig | None:
    """The options; None for a study of another version, which has options that this one does not know."""
    try:
        return StudyConfig(**results.settings)
    except ValidationError:
        return None


def fields_of(results: Results) -> dict[str, Any]:
    """All fields of the defense's Config but the searched ones: the paper's, over them the preset's and the user's."""
    from study.instruments import find_defense
    from study.plan import fixed_fields, space_of

    config = config_of(results)
    paper = vars(find_defense(results.defense).config_type())
    return {**paper, **(fixed_fields(config, space_of(config)) if config else {})}


def changes_of(results: Results) -> list[Change]:
    """What the papers did otherwise; empty where `config_of` is None."""
    from study.instruments import find_defense
    from study.plan import fixed_fields, space_of

    config = config_of(results)
    if config is None:
        return []
    space = space_of(config)
    return preset_changes(config, find_defense(space.defense).config_type, fixed_fields(config, space))
