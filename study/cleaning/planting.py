"""Plants canaries: the studies that do so, what they cost, and what became of each planting."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from defenses.registry import UserError
from defenses.seeds import derive_seed
from study.cleaning.canaries import ATTACKS, RATES, Canaries, Planted
from study.cleaning.checked import look
from study.cleaning.options import CleanConfig
from study.cleaning.source import StudyData
from study.cleaning.studies import AS_RECEIVED, study_config
from study.cleaning.verdict import LEAST, shared_classes
from study.cleaning.votes import Vote, Votes
from study.config.config import StudyConfig
from study.config.objectives import CLEAN
from tracking import names

if TYPE_CHECKING:
    from study.analysis.results import Results


def planting_rates(samples: int) -> tuple[float, ...]:
    """The rates that plant enough images to tell anything, of so many; a larger one where none of the usual does."""
    rates = tuple(rate for rate in RATES if rate * samples >= LEAST)
    return rates or (min(0.5, math.ceil(1000 * LEAST / samples) / 1000),)


def target_of(seed: int, labels: NDArray[np.int64]) -> int:
    """The class that the planting of a seed wants, drawn from those that there are.

    Args:
        labels: int64 [N], of the images into which is planted.
    """
    present = np.unique(labels)
    return int(present[derive_seed("canary target", seed) % len(present)])


def planting_configs(
    config: CleanConfig,
    spaces: Sequence[str],
    data: StudyData,
    options: Mapping[str, Any],
    plantings: int,
) -> list[list[StudyConfig]]:
    """For each planting seed the studies of all methods, which are all given the same planted images.

    Args:
        data: without what is suspected.
        options: of all studies.
        plantings: of each attack, with the first seeds.
    """
    seeds = config.seeds[:plantings]
    own = {"until": "isolate", **AS_RECEIVED, "poison_rates": planting_rates(len(data.labels))}
    attacks = (CLEAN, *ATTACKS)
    return [
        [
            study_config(
                config,
                space,
                data,
                options,
                name=f"canaries-{seed}-{space}",
                attacks=attacks,
                seeds=(seed,),
                target_label=target_of(seed, data.labels),
                **own,
            )
            for space in spaces
        ]
        for seed in seeds
    ]


def choose_plantings(config: CleanConfig, minutes: Callable[[int], float]) -> tuple[int, float]:
    """How often each attack is planted, and how long that takes; 0 times where that takes longer than it may.

    As often as was asked for, else once with each seed, or as often as the limit allows.

    Args:
        minutes: that a number of plantings takes.
    """
    most = config.plantings or len(config.seeds)
    counts = [most] if config.plantings or config.canaries == "run" else [*range(most, 0, -1)]
    for count in counts:
        if config.canaries == "run" or minutes(count) <= config.canary_limit:
            return count, minutes(count)
    return 0, minutes(counts[-1])


def planting_minutes(runs: Sequence["Results"], scenarios: int, lanes: int, attacked: int = 0) -> float:
    """What planting will take, by what the data themselves took.

    Args:
        runs: the studies of the data as they are, one a method.
        scenarios: of each method.
        lanes: how many run at once.
        attacked: scenarios among them whose attack is seen to work by a model without a defense.
    """
    each = sum(float(run.evaluations["built_seconds"].mean()) for run in runs)
    beside = attacked * _undefended_seconds(runs) if attacked else 0.0
    return (scenarios * each + beside) / lanes / 60


def _undefended_seconds(runs: Sequence["Results"]) -> float:
    """What training without a defense will take beside the methods; 0 where one of them trains that model itself."""
    from defenses import DEFENSES
    from search_spaces import SEARCH_SPACES

    if any((run.stages["stage"] == "undefended").any() for run in runs):
        return 0.0
    first = runs[0]
    trained = first.stages[first.stages["epoch_equivalents"] > 0]
    epochs = float(trained["epoch_equivalents"].sum())
    plain = DEFENSES["no_defense"].config_type.from_mapping(SEARCH_SPACES["no_defense"].preset(first.config.preset))
    seconds = float(trained["built_seconds"].sum()) / epochs if epochs else 0.0
    return seconds * float(vars(plain)["epochs"])


def read_plantings(studies: Sequence[Sequence["Results"]], agreement: float, classes: Sequence[str]) -> Canaries:
    """What became of every planting; several methods vote, as on the data themselves.

    Args:
        studies: for each planting seed those of all methods.
        classes: names of the classes.

    Raises:
        UserError: some of it cannot be read.
    """
    planted: list[Planted] = []
    shares: list[float] = []
    shared: dict[str, None] = {}
    ballots: dict[tuple[str, float], list[tuple[Votes, NDArray[np.bool_]]]] = {}
    for runs in studies:
        for scenario, row in runs[0].scenarios.iterrows():
            votes, truth, marked = _ballot(runs, str(scenario), int(row["seed"]), agreement, row["attack"] != CLEAN)
            flagged, kind = votes.flagged, (str(row["attack"]), float(row["poison_rate"]))
            if row["attack"] == CLEAN:
                shares.append(float(flagged.mean()))
                shared |= dict.fromkeys(classes[at] for at in shared_classes(flagged, votes.labels, len(classes)))
                ballots.setdefault(kind, []).append((votes, truth))
                continue
            parts = runs[0].manifest.scenario_parts(str(scenario))
            asr = float(row[names.ASR_UNDEFENDED])
            took = not bool(row["attack_failed"]) and not math.isnan(asr)
            if took:
                ballots.setdefault(kind, []).append((votes, marked))
            planted.append(
                Planted(
                    attack=kind[0],
                    rate=kind[1],
                    seed=int(row["seed"]),
                    target="" if parts is None else parts.target,
                    asr=None if math.isnan(asr) else asr,
                    took=took,
                    hits=int((flagged & truth).sum()),
                    planted=int(truth.sum()),
                    alarms=int((flagged & ~marked).sum()),
                    others=int((~marked).sum()),
                )
            )
    order = {attack: at for at, attack in enumerate(ATTACKS)}
    planted.sort(key=lambda one: (one.rate, order.get(one.attack, len(order)), one.seed))
    looks = tuple(one for runs in ballots.values() if (one := look(runs, len(classes))) is not None)
    return Canaries(tuple(planted), float(np.mean(shares)) if shares else None, tuple(shared), looks)


def _ballot(
    runs: Sequence["Results"], scenario: str, seed: int, agreement: float, planted: bool
) -> tuple[Votes, NDArray[np.bool_], NDArray[np.bool_]]:
    """The votes of all methods on one planting, which images were poisoned, and which carry a trigger: bool [N].

    The latter are the poisoned ones and the covers, into which something was planted as well.

    Args:
        planted: whether any were: of data in which nothing was, nobody knows what is poisoned.
    """
    from study.report.run_files import RunFiles

    votes: list[Vote] = []
    labels, truth, marked = np.empty(0, dtype=np.int64), np.empty(0, dtype=bool), np.empty(0, dtype=bool)
    for run in runs:
        trial = int(run.complete.index[0]) if len(run.complete) else None
        flags = None if trial is None else RunFiles(run).flags(trial, scenario)
        if flags is None or (flags.is_poison is None and planted):
            raise UserError(
                f"what {run.space} flagged of the canaries must lie in {run.folder} or in its MLflow, and cannot be "
                f"read there: remove {run.folder} and give the same command again"
            )
        votes.append(Vote(run.defense, seed, np.asarray(flags.flagged), flags.scores))
        labels = flags.labels
        truth = np.zeros(len(labels), dtype=bool) if flags.is_poison is None else flags.is_poison
        marked = truth if flags.is_cover is None else truth | flags.is_cover
    return Votes(tuple(votes), labels, agreement), truth, marked
