"""A cleaning from its beginning to its end: read, look through, plant canaries, decide, and write all of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from study.cleaning import source
from study.cleaning.canaries import ATTACKS, Canaries
from study.cleaning.checked import check
from study.cleaning.options import CleanConfig, choose_preset
from study.cleaning.planting import (
    choose_plantings,
    planting_configs,
    planting_minutes,
    planting_rates,
    read_plantings,
)
from study.cleaning.settings import Settings, choose_settings
from study.cleaning.studies import read_votes, run_study, search_configs
from study.cleaning.verdict import Verdict, decide
from study.cleaning.votes import Vote, Votes
from study.cli.terminal import print_line, rough
from study.config.config import StudyConfig, resolve

if TYPE_CHECKING:
    from study.analysis.results import Results
    from study.datasets.own.data import OwnData


@dataclass(frozen=True)
class Work:
    """What a cleaning does, settled before anything is trained.

    Attributes:
        options: of all its studies.
        why: why these networks and epochs, in words.
    """

    config: CleanConfig
    data: "OwnData"
    settings: Settings
    options: Mapping[str, Any]
    why: str
    searches: tuple[StudyConfig, ...]


@dataclass(frozen=True)
class Look:
    """What was found out, before anything is written.

    Attributes:
        runs: the studies of the data as they are, one a method.
        canaries: None where none were planted.
        without_canaries: why not; empty where they were.
    """

    votes: Votes
    verdict: Verdict
    runs: tuple["Results", ...]
    canaries: Canaries | None
    without_canaries: str

    @property
    def kept(self) -> NDArray[np.bool_]:
        """What is proposed to be kept, bool [N]; all of it where nothing was found."""
        return ~self.votes.flagged if self.verdict.drops else np.ones(len(self.votes), dtype=bool)


def read(config: CleanConfig) -> "OwnData":
    """The data, decoded once.

    Raises:
        UserError: they cannot be read, or the folder for results is none.
    """
    from study.datasets.own.reading import read_own

    source.check_places(config)
    return read_own(source.own_spec(config), config.store_place)


def prepare(config: CleanConfig, of_studies: Mapping[str, Any]) -> Work:
    """Reads the data and settles what is done with them.

    Args:
        of_studies: given options of `OF_STUDIES`.

    Raises:
        UserError: anything that cannot work.
    """
    settings = choose_settings(config)
    resolve(StudyConfig, of_studies)  # refused before anything is decoded
    data = read(config)
    options, why = study_options(config, settings, of_studies, len(data.train.labels))
    given = source.whole(config, data)
    searches = search_configs(config, settings.spaces, given, options)
    _check_reserve(searches, data)
    return Work(config, data, settings, options, why, tuple(searches))


def study_options(
    config: CleanConfig, settings: Settings, of_studies: Mapping[str, Any], samples: int
) -> tuple[dict[str, Any], str]:
    """The options of all studies, and why these networks and epochs.

    Args:
        samples: that are looked through.
    """
    preset, why = choose_preset(config, samples, _has_gpu(of_studies))
    options: dict[str, Any] = {"preset": preset, **settings.options, **of_studies}
    fields = {**settings.options.get("set", {}), **of_studies.get("set", {})}
    if config.preset is not None:
        options["preset"] = config.preset
    elif "preset" in settings.options:
        why = f"preset {options['preset']}, as in the study"
    return {**options, "set": fields}, why


def _has_gpu(of_studies: Mapping[str, Any]) -> bool:
    from study.planning.devices import settle_device

    given = resolve(StudyConfig, {name: of_studies[name] for name in ("gpus_per_trial",) if name in of_studies})
    return settle_device(given.gpus_per_trial, remote=of_studies.get("address") is not None)[0] == "cuda"


def _check_reserve(searches: Sequence[StudyConfig], data: "OwnData") -> None:
    """Clean images come from the test set: stand-ins for one are no clean images."""
    from study.planning.clean_reserve import reserve_size

    for search in searches:
        needed = reserve_size(search)
        if needed and data.test is None:
            raise UserError(
                f"--defense {search.space} needs {needed} clean images, which are taken from the test set, and "
                f"{data.spec.path} has none: name another method, such as pipd, or add a test set"
            )


def look_through(work: Work) -> Look:
    """Runs every method with every seed, decides, and plants known attacks.

    Raises:
        UserError: something cannot be run or read.
        KeyboardInterrupt: it was stopped; what is finished is kept.
    """
    runs, ballot = [], list[Vote]()
    for search in work.searches:
        seeds = ", ".join(map(str, search.seeds))
        run = run_study(
            search, f"Looking through {len(work.data.train.labels):,} images: {search.space}, seeds {seeds}"
        )
        runs.append(run)
        ballot += read_votes(run, len(work.data.train.labels))
    votes = Votes(tuple(ballot), work.data.train.labels, work.config.agreement)
    verdict = decide(votes, work.data.classes)
    canaries, without = plant(work, votes, runs)
    verdict = check(verdict, votes, () if canaries is None else canaries.unplanted, work.data.classes)
    return Look(votes, verdict, tuple(runs), canaries, without)


def plant(work: Work, votes: Votes, runs: Sequence["Results"]) -> tuple[Canaries | None, str]:
    """Plants known attacks into the images that are not flagged. Gives what became of them, or why that was left out.

    Raises:
        UserError: something cannot be run or read.
    """
    config = work.config
    if config.canaries == "none":
        return None, "No known attacks were planted (--canaries none), so nothing says what would have been found here."
    given = source.unsuspected(config, work.data, votes.flagged)
    left = np.unique(given.labels)
    if len(left) < 2:
        what = f"all of class {work.data.classes[int(left[0])]}" if len(left) else "nothing"
        return None, (
            f"No known attacks were planted: what is not flagged is {what}, and a planting takes two classes. So "
            "nothing says what would have been found here."
        )
    attacked, at_once = len(ATTACKS) * len(planting_rates(len(given.labels))), lanes(work.searches[0])
    plantings, minutes = choose_plantings(
        config, lambda count: planting_minutes(runs, count * (1 + attacked), at_once, count * attacked)
    )
    if not plantings:
        text = (
            f"No known attacks were planted: that would take about {rough(60 * minutes)}, more than the limit of "
            f"{config.canary_limit:g} min (--canary-limit; --canaries run plants them in any case). So nothing says "
            "what would have been found here."
        )
        return None, text
    groups = planting_configs(config, work.settings.spaces, given, work.options, plantings)
    scenarios, about = plantings * (1 + attacked), rough(60 * minutes)
    print_line(decide(votes, work.data.classes).sentence)  # before what may take long
    print_line(f"Planting known attacks, to see what would have been found: {scenarios} runs, about {about}.")
    studies = [
        [run_study(one, f"{one.space} on planted attacks, seed {one.seeds[0]}") for one in group] for group in groups
    ]
    return read_plantings(studies, config.agreement, work.data.classes), ""


def lanes(search: StudyConfig) -> int:
    """How many runs there are at once on this machine; one where that is a cluster's to say."""
    from study.planning.devices import settle_device

    if search.address is not None:
        return 1
    device, gpus = settle_device(search.gpus_per_trial, remote=False)
    if device == "cuda":
        return max(1, int(1 / gpus)) if gpus < 1 else 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(cores / search.cpus))
