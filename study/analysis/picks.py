"""The configurations that are set side by side: no defense, the paper's default, the best of all, each scenario's own.

All that picks the best uses ground truth: an oracle, which a defender does not have.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.analysis.results import Results
from study.config.objectives import direction, pareto_front
from tracking import names

if TYPE_CHECKING:
    import pandas

UNDEFENDED, DEFAULT, OWN_BEST = "undefended", "paper default", "each scenario's own best"


@dataclass(frozen=True)
class Pick:
    """One configuration on all scenarios.

    Attributes:
        cells: a row a scenario with `names.HEADLINE`, ``stratum``, ``attack``, ``poison_rate``, ``seed`` and
            ``attack_failed``.
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
        value = self.counted[metric].mean()
        return None if value != value else float(value)

    def deviation(self, metric: str) -> float | None:
        """Standard deviation (n - 1) over seeds of the mean over a seed's scenarios; None for fewer than two seeds."""
        of_seeds = self.counted.groupby("seed")[metric].mean().dropna()
        return float(of_seeds.std()) if len(of_seeds) > 1 else None


def objectives(results: Results) -> "pandas.DataFrame":
    """A row a complete trial, a column an objective: over scenarios whose attack works, the mean or the worst."""
    grouped = results.compared.groupby("trial")[list(results.goal.objectives)]
    if results.goal.how == "mean":
        return grouped.mean()
    low, high = grouped.min(), grouped.max()
    return low.assign(**{name: high[name] for name in results.goal.objectives if direction(name) == "minimize"})


def front(results: Results) -> list[int]:
    """Numbers of the complete trials that no other beats in every objective."""
    found = objectives(results).dropna()
    return [int(found.index[at]) for at in pareto_front(found.to_numpy().tolist(), results.goal.directions)]


def best(results: Results) -> int | None:
    """The best single configuration by the study's objective, of equals the first; None where no trial is complete.

    Of several objectives: the trial of the Pareto front with the smallest sum of ranks over the objectives.
    """
    found = objectives(results).dropna()
    if found.empty:
        return None
    if len(results.goal.objectives) == 1:
        (name,) = results.goal.objectives
        column = found[name]
        return _number(column.idxmin() if direction(name) == "minimize" else column.idxmax())
    on_front = found.loc[front(results)]
    ranks = on_front.apply(lambda column: column.rank(ascending=direction(str(column.name)) == "minimize"))
    return _number(ranks.sum(axis=1).idxmin())


def _number(label: object) -> int:
    """A row's label as what it is: a trial's number."""
    return int(str(label))


def picks(results: Results) -> list[Pick]:
    """What is compared, in order; what a study does not have is left out."""
    found = [Pick(UNDEFENDED, _undefended(results))]
    first, top = results.default, best(results)
    if first is not None:
        found.append(Pick(DEFAULT, _cells_of(results, first), first))
    if top is not None and top != first:
        several = len(results.goal.objectives) > 1
        found.append(Pick(f"{'balanced' if several else 'best'} (#{top})", _cells_of(results, top), top))
    own = own_best(results)
    if own is not None and len(results.scenarios) > 1:
        found.append(Pick(OWN_BEST, own))
    return found


def _cells_of(results: Results, trial: int) -> "pandas.DataFrame":
    return results.evaluations[results.evaluations["trial"] == trial].set_index("scenario")


def _undefended(results: Results) -> "pandas.DataFrame":
    found = results.scenarios
    nothing = dict.fromkeys((names.TPR, names.FPR, names.AUROC), float("nan"))
    return found.assign(**nothing, **{names.CA: found[names.CA_UNDEFENDED], names.ASR: found[names.ASR_UNDEFENDED]})


def own_best(results: Results) -> "pandas.DataFrame | None":
    """For each scenario the cell of the complete trial that is best there; of a single objective alone.

    A scenario whose attack failed has one too, which counts neither for nor against a defense.
    """
    if len(results.goal.objectives) > 1:
        return None
    (name,) = results.goal.objectives
    judged = results.evaluations[results.evaluations["trial"].isin(results.complete.index)].dropna(subset=[name])
    if judged.empty:
        return None
    grouped = judged.groupby("scenario", sort=False)[name]
    return judged.loc[grouped.idxmin() if direction(name) == "minimize" else grouped.idxmax()].set_index("scenario")


def strata(results: Results) -> Iterator[tuple[str, str, "pandas.Index[str]"]]:
    """Attack and rate: a label for people, the stratum and its scenarios; by attack in the study's order, then rate."""
    found = results.scenarios
    order = {attack: at for at, attack in enumerate(dict.fromkeys(found["attack"]))}
    rows = found.assign(order=found["attack"].map(order)).sort_values(["order", "poison_rate"], kind="stable")
    for stratum, group in rows.groupby("stratum", sort=False):
        rate = float(group["poison_rate"].iloc[0])
        label = f"{group['attack'].iloc[0]}" if rate != rate else f"{group['attack'].iloc[0]} at {rate:g}"
        yield label, str(stratum), group.index
