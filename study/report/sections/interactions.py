"""Two hyperparameters at a time: the pairs whose joint effect is largest, as contours of the objective."""

from typing import TYPE_CHECKING

import numpy as np

from search_spaces.space import Choice
from study.analysis.discretise import Numbers, load_default_point
from study.analysis.results import Results
from study.report.elements import AxisValue, Contour, Item, Note, Section, Table
from study.report.formatting import format_share
from study.report.sections.curves import binned
from study.report.sections.importance import Importances

if TYPE_CHECKING:
    import pandas

PAIRS = 3
_BINS = 8  # a side, at most
_CLEAR = 500
_ALIASES = (
    "{trials} trials are few for pairs: where one pair explained everything, another was given up to 0.24 of it with "
    "256 quasi-random trials, 0.06 with 512 and 0.01 with 1,024."
)
_PER_PLACE = 4  # trials, on average at least


def interactions_section(results: Results, computed: Importances) -> Section:
    """The answer, from the importances that were computed."""
    title = "Which hyperparameters depend on one another"
    command = f"python -m study.analyze {results.name}"
    objective = results.goal.objectives[0]
    whole = computed.of(objective)
    if computed.why_none or whole is None or whole.shares is None or len(computed.axes) < 2:
        why = computed.why_none or (
            "fewer than two hyperparameters vary"
            if len(computed.axes) < 2
            else f"{objective} is the same in all trials, or is not defined on enough of them"
        )
        note = Note(f"No interactions: {why}.", "warning")
        return Section("interactions", title, "This study cannot tell.", (note,), command)
    pairs = largest(whole.shares.pairs, PAIRS)
    fields = computed.fields
    rows = tuple((fields[one], fields[two], float(whole.shares.pairs[one, two])) for one, two in pairs)
    cells = results.compared[results.compared["trial"].isin(results.space_filling_trials.index)]
    means = cells.groupby("trial")[objective].mean().dropna()
    caption = f"fANOVA: share of the variance of {objective} (mean over scenarios) that two explain beyond each alone"
    few = len(means) < _CLEAR
    items: list[Item] = [
        *([Note(_ALIASES.format(trials=len(means)), "warning")] if few else []),
        Note(
            "Shares of pairs are corrected by the forest's out-of-bag residuals, in four bins a side. "
            f"Contours are means of {objective}, an oracle, in bins of equally many trials."
        ),
        Table("interactions", caption, ("hyperparameter", "and", "share of variance"), rows, left=2),
        *(_contour(results, means, computed.fields[one], computed.fields[two], objective) for one, two in pairs),
    ]
    first = rows[0]
    share = format_share(first[2])
    lead = f"Most of all {first[0]} and {first[1]}: {share} of the variance of {objective} is theirs together."
    if first[2] < 0.01:
        lead = (
            f"No two hyperparameters explain 0.01 or more of the variance of {objective} beyond what each does alone."
        )
    return Section("interactions", title, lead, tuple(items), command)


def largest(pairs: Numbers, count: int) -> list[tuple[int, int]]:
    """Pairs (lower position first) with the largest entries of a symmetric matrix, float64 [n, n], largest first."""
    ones, twos = np.triu_indices(len(pairs), k=1)
    order = np.argsort(-pairs[ones, twos], kind="stable")[:count]
    return [(int(ones[at]), int(twos[at])) for at in order]


def _contour(results: Results, means: "pandas.Series[float]", one: str, two: str, objective: str) -> Contour:
    trials = results.space_filling_trials.loc[means.index]
    side = int(np.clip(np.sqrt(len(trials) / _PER_PLACE), 2, _BINS))
    across, up = (binned(trials[field], results.ranges[field], side) for field in (one, two))
    sums, counts = np.zeros((len(up[0]), len(across[0]))), np.zeros((len(up[0]), len(across[0])))
    np.add.at(sums, (up[1], across[1]), means.to_numpy(float))
    np.add.at(counts, (up[1], across[1]), 1)
    values = tuple(
        tuple(float(total / n) if n else None for total, n in zip(*row, strict=True))
        for row in zip(sums, counts, strict=True)
    )
    default = load_default_point(results.ranges, results.trials)
    at = (tuple(_place(results, field, default[field]) for field in (one, two)),) if default else ()
    return Contour(
        f"contour-{one}-{two}",
        f"Mean {objective} over {one} and {two}",
        one,
        two,
        across[0],
        up[0],
        values,
        objective,
        tuple((x, y, "paper default") for x, y in at),
    )


def _place(results: Results, field: str, value: object) -> AxisValue:
    return str(value) if isinstance(results.ranges[field], Choice) else float(value)  # type: ignore[arg-type]
