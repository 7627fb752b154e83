"""The configurations that are set side by side: no defense, the paper's default, the best of all, each scenario's own.

All that picks the best uses ground truth, which a defender does not have.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.analysis.fixed_fields import is_set_whole
from study.analysis.repeats import spread_of_runs
from study.analysis.results import Results
from study.ledger.selection import best_per_scenario
from tracking import names

if TYPE_CHECKING:
    import pandas

_MOST_OF_FRONT = 4
_AS_SET = "as set"  # instead of the default's where nothing is searched and --set gives other values than the paper's
UNDEFENDED, DEFAULT, OWN_BEST = "undefended", "paper default", "each scenario's own best"


@dataclass(frozen=True)
class ComparedConfiguration:
    """One configuration on all scenarios.

    Attributes:
        cells: a row a scenario with `names.HEADLINE`, ``stratum``, ``attack``, ``poison_rate``, ``seed`` and
            ``attack_failed``, ``poisoning`` and ``repeat``.
        trial: its number; None where it is no single trial.
    """

    label: str
    cells: "pandas.DataFrame"
    trial: int | None = None

    @property
    def counted(self) -> "pandas.DataFrame":
        """The scenarios whose attack works."""
        return self.cells[~self.cells["attack_failed"]]

    def mean(self, metric: str) -> float | None:
        """Over the scenarios whose attack works and that define the metric; None where there is none."""
        return spread_of_runs(self.counted, metric).mean

    def deviation(self, metric: str) -> float | None:
        """Standard deviation (n - 1) over seeds of the mean over a seed's scenarios; None for fewer than two seeds."""
        of_seeds = self.counted.groupby("seed")[metric].mean().dropna()
        return float(of_seeds.std()) if len(of_seeds) > 1 else None

    def repeat_deviation(self, metric: str) -> float | None:
        """Standard deviation over the repeats of one poisoned set, pooled; None where there is one of each."""
        return spread_of_runs(self.counted, metric).repeats


def compared_configurations(results: Results) -> list[ComparedConfiguration]:
    """What is compared, in order; what a study does not have is left out."""
    compared = [ComparedConfiguration(UNDEFENDED, _undefended(results))]
    default, best = results.default, results.best
    if default is not None:
        compared.append(ComparedConfiguration(default_label(results), _trial_cells(results, default), default))
    if best is not None and best != default:
        compared.append(ComparedConfiguration(f"{results.best_name} (#{best})", _trial_cells(results, best), best))
    own = own_best(results)
    if own is not None and len(results.scenarios) > 1:
        compared.append(ComparedConfiguration(OWN_BEST, own))
    return compared


def default_label(results: Results) -> str:
    """What the trial with the paper's values of all searched fields is called where it is shown."""
    return _AS_SET if is_set_whole(results) else DEFAULT


def shown_trials(results: Results) -> list[int]:
    """The trials that a study's last table shows: the paper's default, then the best, or some of the front.

    Of a front these are the knee, then the first, four in all.
    """
    front = list(dict.fromkeys([results.best, *results.front]))[:_MOST_OF_FRONT]
    chosen = front if len(results.goal.objectives) > 1 else [results.best]
    return list(dict.fromkeys(trial for trial in (results.default, *chosen) if trial is not None))


def _trial_cells(results: Results, trial: int) -> "pandas.DataFrame":
    return results.evaluations[results.evaluations["trial"] == trial].set_index("scenario")


def _undefended(results: Results) -> "pandas.DataFrame":
    scenarios = results.scenarios
    nothing = dict.fromkeys((names.TPR, names.FPR, names.AUROC), float("nan"))
    return scenarios.assign(
        **nothing, **{names.CA: scenarios[names.CA_UNDEFENDED], names.ASR: scenarios[names.ASR_UNDEFENDED]}
    )


def own_best(results: Results) -> "pandas.DataFrame | None":
    """For each scenario the cell of the complete trial that is best there; of a single objective alone.

    Which is best is decided by the mean over repeats, and the cells of all repeats are given. A scenario whose attack
    failed has one too, which counts neither for nor against a defense.
    """
    if len(results.goal.objectives) > 1:
        return None
    own = best_per_scenario(results.over_repeats.candidates, results.goal.directions[0])
    if not own:
        return None
    cells = results.evaluations.set_index(["trial", "poisoning"], drop=False)
    return cells.loc[[(trial, poisoning) for poisoning, trial in own.items()]].set_index("scenario")


def strata(results: Results) -> Iterator[tuple[str, str, "pandas.Index[str]"]]:
    """Attack and rate: a label for people, the stratum and its scenarios; by attack in the study's order, then rate."""
    scenarios = results.scenarios
    order = {attack: at for at, attack in enumerate(dict.fromkeys(scenarios["attack"]))}
    rows = scenarios.assign(order=scenarios["attack"].map(order)).sort_values(["order", "poison_rate"], kind="stable")
    for stratum, group in rows.groupby("stratum", sort=False):
        rate = float(group["poison_rate"].iloc[0])
        label = f"{group['attack'].iloc[0]}" if rate != rate else f"{group['attack'].iloc[0]} at {rate:g}"
        yield label, str(stratum), group.index
