"""What a preset makes of a study that the paper did otherwise: read off the fields, never written down twice."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from defenses.config import Config
from study.config.config import PRESETS, StudyConfig

_SCALE = ("dataset", "train_size", "test_size", "width", "blocks")
"""Options of a study that a preset scales down; which attacks, rates and trials a study has is its own affair."""


class Change(NamedTuple):
    """A field that has not the paper's value.

    Attributes:
        paper, here: values, as text.
        doc: what the field is.
        given: the user set it; otherwise the preset did.
    """

    field: str
    paper: str
    here: str
    doc: str
    given: bool


def preset_changes(config: StudyConfig, config_type: type[Config], base: Mapping[str, Any]) -> list[Change]:
    """The data, the network and the fixed fields of a defense that differ from the paper's.

    Args:
        base: the fields that all trials share: the preset's, then those that somebody set.
    """
    paper = {name: PRESETS["paper"].get(name) for name in _SCALE}
    here = {name: getattr(config, name) for name in _SCALE}
    docs = {name: StudyConfig.model_fields[name].description or "" for name in _SCALE}
    default = config_type()
    paper |= {name: getattr(default, name) for name in base}
    here |= base
    docs |= {field.name: field.metadata["doc"] for field in dataclasses.fields(config_type)}
    of_preset = PRESETS.get(config.preset, {})
    if config.dataset != of_preset.get("dataset"):  # a preset's sizes are made for its own data
        for name in ("train_size", "test_size"):
            if here[name] is not None and here[name] == of_preset.get(name):
                here[name] = f"at most {here[name]}"
    return [
        Change(name, _text(paper[name]), _text(here[name]), docs[name], name in config.set)
        for name in paper
        if paper[name] != here[name]
    ]


def changes_line(preset: str, changes: Sequence[Change]) -> str:
    """All of them in a line; empty where there are none."""
    listed = ", ".join(f"{change.field} {change.paper} -> {change.here}" for change in changes)
    return f"preset {preset} changes (paper -> here): {listed}" if listed else ""


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
