"""What a preset makes of a study that the paper did otherwise: read off the fields, never written down twice."""

from collections.abc import Mapping
from typing import Any

from defenses.config import Config
from study.config import PRESETS, StudyConfig

_SCALE = ("dataset", "train_size", "test_size", "width", "blocks")
Change = tuple[str, str, str]
"""A field, the paper's value and the one here."""


def preset_changes(config: StudyConfig, config_type: type[Config], base: Mapping[str, Any]) -> list[Change]:
    """The data, the network and the fixed fields of a defense that differ from the paper's.

    Args:
        base: the fields that all trials share: the preset's, then those that somebody set.
    """
    paper = {name: PRESETS["paper"].get(name) for name in _SCALE}
    here = {name: getattr(config, name) for name in _SCALE}
    default = config_type()
    paper |= {name: getattr(default, name) for name in base}
    here |= base
    return [(name, _text(paper[name]), _text(here[name])) for name in paper if paper[name] != here[name]]


def changes_line(preset: str, changes: list[Change]) -> str:
    """All of them in a line; empty where there are none."""
    if not changes:
        return ""
    listed = ", ".join(f"{name} {paper} -> {here}" for name, paper, here in changes)
    return f"preset {preset} changes (paper -> here): {listed}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
