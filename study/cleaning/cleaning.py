"""What `python -m study.clean` does, and `study.clean` from Python: the same, with the result as an object."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from study.cleaning import source
from study.cleaning.options import OF_STUDIES, CleanConfig, parse_clean
from study.config.config import StudyConfig, resolve

if TYPE_CHECKING:
    from study.cleaning.canaries import Canaries
    from study.cleaning.cleaned import Retrained
    from study.cleaning.verdict import Verdict
    from study.cleaning.votes import Votes
    from study.datasets.own.data import OwnData
    from study.datasets.own.writing import Manifest


@dataclass(frozen=True)
class Cleaning:
    """What became of a dataset.

    Attributes:
        folder: where everything was written.
        data: as it was read.
        votes: who was flagged by whom.
        verdict: what that says.
        canaries: what became of known attacks that were planted; None where none were.
        kept: bool [N], the training images that the cleaned set holds.
        cleaned: the cleaned set.
        retrained: a model that was trained on it, or the method's own; None where nobody asked for one.
    """

    folder: Path
    data: "OwnData"
    votes: "Votes"
    verdict: "Verdict"
    canaries: "Canaries | None"
    kept: NDArray[np.bool_]
    cleaned: "Manifest"
    retrained: "Retrained | None" = None

    def __repr__(self) -> str:
        return f"<cleaning of {self.data.spec.path.name}: {self.verdict.sentence}>"

    @property
    def flagged(self) -> list[str]:
        """Names of the flagged images, the most suspicious first."""
        rows = self.votes.order[self.votes.flagged[self.votes.order]]
        return [self.data.train.ids[row] for row in rows]


@dataclass(frozen=True)
class Applied:
    """A cleaned set that was made anew from edited decisions.

    Attributes:
        kept: bool [N], the training images that it holds.
    """

    folder: Path
    data: "OwnData"
    kept: NDArray[np.bool_]
    cleaned: "Manifest"
    retrained: "Retrained | None" = None


def clean_dataset(data: Path | str, out: Path | str, **options: Any) -> Cleaning | Applied:
    """Looks for poison in a dataset, and writes what was found and a cleaned set; as `python -m study.clean` does.

    Args:
        data: a folder or a file; it is not touched.
        out: folder for everything that is written.
        options: of the command, with ``_`` for ``-``: ``defense=("pipd",)``, ``seeds=(0, 1, 2)``, ``canaries="none"``,
            ``apply=PATH`` ...; ``from_study`` for ``--from``, ``copy_files`` for ``--copy``.

    Returns:
        `Applied` where ``apply`` is given, else `Cleaning`.

    Raises:
        UserError: an option breaks a rule, or something cannot be read, run or written.
    """
    given = {"data": Path(data), "out": Path(out), **options}
    of_studies = {name: given.pop(name) for name in OF_STUDIES if name in given}
    words = [f"{name}={value!r}" for name, value in options.items()]
    command = f"study.clean({', '.join([repr(str(data)), f'out={str(out)!r}', *words])})"
    return run_cleaning(parse_clean(given), of_studies, command)


def run_cleaning(config: CleanConfig, of_studies: Mapping[str, Any], command: str) -> Cleaning | Applied:
    """The whole of it.

    Args:
        of_studies: given options of `OF_STUDIES`.
        command: that asked for it, for the page.

    Raises:
        UserError: something cannot be read, run or written.
        KeyboardInterrupt: it was stopped; the same command goes on.
    """
    source.check_places(config)
    return _apply(config, of_studies) if config.apply is not None else _clean(config, of_studies, command)


def _clean(config: CleanConfig, of_studies: Mapping[str, Any], command: str) -> Cleaning:
    from study.cleaning.cleaned import defend, retrain, write_cleaned
    from study.cleaning.report import write_report
    from study.cleaning.tables import write_tables
    from study.cleaning.workflow import look_through, prepare

    work = prepare(config, of_studies)
    look, data = look_through(work), work.data
    write_tables(config.folder, data.train.ids, data.classes, look.votes, look.verdict.drops)
    manifest = write_cleaned(config, data, look.kept)
    retrained = retrain(config, data, look.kept, work.options) if config.retrain else None
    if config.defended_model:
        retrained = defend(config, data, work.settings.spaces[0], work.options)
    write_report(work, look, manifest, retrained, command)
    return Cleaning(config.folder, data, look.votes, look.verdict, look.canaries, look.kept, manifest, retrained)


def _apply(config: CleanConfig, of_studies: Mapping[str, Any]) -> Applied:
    """Makes the cleaned set anew from edited decisions."""
    from study.cleaning.cleaned import retrain, write_cleaned
    from study.cleaning.settings import Settings
    from study.cleaning.tables import read_decisions
    from study.cleaning.workflow import read, study_options

    assert config.apply is not None
    resolve(StudyConfig, of_studies)
    data = read(config)
    kept = read_decisions(config.apply, data.train.ids)
    manifest = write_cleaned(config, data, kept)
    options, _ = study_options(config, Settings((), ""), of_studies, len(data.train.labels))
    retrained = retrain(config, data, kept, options) if config.retrain else None
    return Applied(config.folder, data, kept, manifest, retrained)
