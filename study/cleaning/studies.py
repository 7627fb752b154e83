"""The studies that look through the data: like any other, so that they go on where they were stopped."""

import hashlib
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from defenses.registry import UserError
from study.cleaning.options import STUDIES, CleanConfig
from study.cleaning.source import StudyData
from study.cleaning.votes import Vote
from study.config.config import StudyConfig, resolve
from study.config.objectives import CLEAN

if TYPE_CHECKING:
    from study.analysis.results import Results

AS_RECEIVED = {"clean_control": "none", "undefended_on": "attacked"}
"""Options of every study on somebody's data. Nobody asks what it flags of clean ones, nor, where nothing was planted,
for a model without a defense, which tells whether an attack works."""
_FLUSH_SECONDS, _FLUSH_SECONDS_INTERRUPTED = 30.0, 3.0


def study_config(
    config: CleanConfig, space: str, data: StudyData, options: Mapping[str, Any], **own: Any
) -> StudyConfig:
    """The options of one study on the data.

    Args:
        space: of the method.
        data: what it is given; their fingerprint is part of the study's name.
        options: of the study, those that differ from the usual ones.
        own: what this study differs in; `name` begins its name.

    Raises:
        UserError: an option breaks a rule.
    """
    name = own.pop("name")
    given = {
        **options,
        "space": space,
        "dataset": data.name,
        "trials": 1,
        "train_size": None,  # all of the data are looked through, whatever the preset takes
        "test_size": None,
        "out": config.folder / STUDIES,
        "store": config.store_place,
        **own,
    }
    made = resolve(StudyConfig, given)
    digest = hashlib.sha256(f"{made.identity} {data.fingerprint}".encode()).hexdigest()
    return made.model_copy(update={"name": f"{name}-{digest[:8]}"})


def search_configs(
    config: CleanConfig, spaces: Sequence[str], data: StudyData, options: Mapping[str, Any]
) -> list[StudyConfig]:
    """One study for each method: the data as they are, each seed once, up to who is flagged."""
    own = {"attacks": (CLEAN,), "seeds": config.seeds, "until": "isolate", **AS_RECEIVED}
    return [study_config(config, space, data, options, name=space, **own) for space in spaces]


def run_study(config: StudyConfig, headline: str) -> "Results":
    """Runs what is missing of a study, and reads it.

    Args:
        headline: what is shown before it runs.

    Raises:
        UserError: it cannot be run, or no run of it came to its end.
        KeyboardInterrupt: it was stopped; what is finished is kept.
    """
    from study.driver.library_env import before_imports
    from study.ledger.lock import refuse_if_held, study_lock
    from study.ledger.study_folder import check_study_folder
    from study.planning.places import check_places
    from study.planning.whole_plan import plan_study

    folder = config.out / config.study_name
    check_study_folder(folder, config.store_place)
    refuse_if_held(folder, config.study_name)
    out = check_places(config)
    plan = plan_study(config)
    before_imports(local=config.address is None)
    from defenses.storage.atomic_files import full_disk_errors
    from study.analysis.results import load_results
    from study.driver.driver import StudyDriver

    folder.mkdir(exist_ok=True)
    with full_disk_errors(folder), study_lock(folder, config.study_name):
        _drive(StudyDriver(plan, folder, out, headline))
    return load_results(folder, out)


def _drive(session: Any) -> None:
    """Runs an open study to its end, and closes its books whatever happens."""
    try:
        broken = session.run()
    except KeyboardInterrupt:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the bookkeeping short
        try:
            session.close("KILLED", _FLUSH_SECONDS_INTERRUPTED, show=False)
        finally:
            signal.signal(signal.SIGINT, before)  # whoever calls from Python goes on
        raise
    except UserError:
        session.close("FAILED", _FLUSH_SECONDS, show=False)
        raise
    session.close("FAILED" if broken else "FINISHED", _FLUSH_SECONDS, show=False)
    if broken:
        raise UserError(broken)


def read_votes(results: "Results", count: int) -> list[Vote]:
    """Who was flagged with each seed of a study on the data as they are.

    Args:
        count: images that were looked through.

    Raises:
        UserError: some of it cannot be read.
    """
    from study.report.run_files import RunFiles

    files, trial = RunFiles(results), int(results.complete.index[0]) if len(results.complete) else None
    votes = []
    for scenario, row in results.scenarios.iterrows():
        flags = None if trial is None else files.flags(trial, str(scenario))
        if flags is None or len(flags.flagged) != count:
            raise UserError(
                f"what {results.space} flagged with seed {row['seed']} must lie in {results.folder} or in its MLflow, "
                f"and cannot be read there: remove {results.folder} and give the same command again"
            )
        scores = None if flags.scores is None else np.asarray(flags.scores, dtype=np.float64)
        votes.append(Vote(results.defense, int(row["seed"]), np.asarray(flags.flagged), scores))
    return sorted(votes, key=lambda vote: vote.seed)
