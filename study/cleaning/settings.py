"""With which settings the methods look for poison: the paper's values, or the best trial of a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.registry import UserError, nearest
from search_spaces import SEARCH_SPACES
from study.cleaning.options import CleanConfig
from study.config.config import OUT
from study.ledger.study_folder import LATEST, locate, studies

if TYPE_CHECKING:
    from study.analysis.selected_trial import SelectedTrial

_USUAL = ("pipd",)
_OF_STUDY = ("preset", "model", "width", "blocks", "precision", "threads")
"""Options of a study that its best trial depends on."""


@dataclass(frozen=True)
class Settings:
    """What runs on the data.

    Attributes:
        spaces: of the methods, as `study.run --space` names them.
        how: where the values come from, in words.
        options: of the studies, that stand in place of the usual ones and under those that were given.
    """

    spaces: tuple[str, ...]
    how: str
    options: Mapping[str, Any] = field(default_factory=dict)


def choose_settings(config: CleanConfig) -> Settings:
    """The methods and where their values come from.

    Raises:
        UserError: no method is called so, or it cannot look for poison; or there is no such study or trial.
    """
    if config.from_study is None:
        spaces = config.defense or _USUAL
        for space in spaces:
            check_space(space, config.defended_model)
        return Settings(spaces, "the values of the method's paper" if len(spaces) == 1 else "the papers' values")
    selected = _select(config.from_study)
    results = selected.results
    if config.defense and config.defense != (results.space,):
        raise UserError(
            f"--from takes the settings of {results.space} from study {results.name!r}, and --defense names "
            f"{' '.join(config.defense)}: leave one of the two out"
        )
    check_space(results.space, config.defended_model)
    own = results.config.model_dump(mode="json")
    point = {name: str(value) for name, value in results.points[selected.trial].items()}
    options = {name: own[name] for name in _OF_STUDY} | {"set": {**own["set"], **point}}
    return Settings((results.space,), f"the values of {selected.how}, in study {results.name}", options)


def check_space(space: str, defended_model: bool = False) -> None:
    """Refuses what cannot look for poison in anybody's data.

    Args:
        defended_model: its own model is asked for.

    Raises:
        UserError: an unknown space, one of a paper's table, one that flags nothing, one that needs ground truth, or one
            that has no model where that is asked for.
    """
    from study.scenarios.oracle_defenses import ORACLE_DEFENSES, find_defense

    known = SEARCH_SPACES.find(space)
    if known.paper or known.defense in ORACLE_DEFENSES:
        raise UserError(
            f"--defense names a method, and {space} makes a paper's table anew: name pipd, flare or another"
        )
    if find_defense(known.defense).flagged is None:
        raise UserError(
            f"--defense names a method that flags images, and {space} flags none: name pipd, flare or another"
        )
    if defended_model and find_defense(known.defense).weights is None:
        raise UserError(
            f"--defended-model is the model that a method trains by its own means, and {space} trains none: take "
            "--retrain, or name pipd or another"
        )


def _select(text: str) -> "SelectedTrial":
    """The trial of ``STUDY:7``, ``STUDY:default`` or ``STUDY:best``, and of ``STUDY`` alone the best."""
    from study.analysis.results import read_results
    from study.analysis.selected_trial import select_trial

    name, _, rule = text.rpartition(":") if ":" in text else (text, "", "best")
    _check_known(name)
    out, study = locate(OUT, name)
    return select_trial(read_results(out, study), rule or "best")


def _check_known(name: str) -> None:
    """Refuses a name that no study has, in words that fit this command's options; paths are looked at elsewhere."""
    known = [folder.name for folder in studies(OUT)] if OUT.is_dir() else []
    a_path = len(Path(name).parts) > 1 or name in (".", "..")
    if not a_path and not any(one.startswith(name) for one in known) and not (name == LATEST and known):
        raise UserError(
            f"--from names a study in {OUT}, or the path of a study's folder, got {name!r}: {nearest(name, known)}"
            f"known: {', '.join(known) or 'none'}"
        )
