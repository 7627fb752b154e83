"""One hyperparameter at a time: what metrics do along it, whatever the others are, and how far seeds disagree."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.space import Choice, Range
from study.analysis.discretise import Cells, load_default_point
from study.analysis.results import Results
from study.cli.numbers import format_number, format_value
from study.report.elements import AxisValue, Curves, Item, Line, Note, Section, Table
from tracking import names

if TYPE_CHECKING:
    import pandas

_BINS = 10  # of a curve, at most
_PER_BIN = 10  # trials, at least
_HOW = (
    "Each point is the mean of the trials in a bin of equally many trials along one hyperparameter (or of one option), "
    "over all values of the others, for one attack and rate; it stands at the bin's median. Metrics are oracles."
)


def curves_section(results: Results) -> Section:
    """The answer: figures for every hyperparameter and metric, and a table of what the objective does."""
    title = "One hyperparameter at a time"
    command = f"python -m study.analyze {results.name}"
    trials = results.space_filling_trials
    fields = [name for name in results.ranges if len(trials) and trials[name].nunique() > 1]
    cells = results.compared[results.compared["trial"].isin(trials.index)]
    if not fields or cells.empty or len(trials) < 2 * _PER_BIN:
        why = _why_none(results, len(trials), bool(len(cells)))
        return Section("curves", title, "This study cannot tell.", (Note(f"No curves: {why}.", "warning"),), command)
    objective = results.goal.objectives[0]
    metrics = [m for m in dict.fromkeys([objective, *names.HEADLINE]) if cells[m].notna().any()]
    figures: list[Item] = []
    rows = []
    for field in fields:
        places, bins = binned(trials[field], results.ranges[field])
        means = _means(cells, dict(zip(trials.index, bins, strict=True)), metrics)
        figures += [_figure(results, field, metric, places, means) for metric in metrics]
        rows.append(_row(field, places, means[objective]))
    table = Table(
        "curves-range",
        f"Mean {objective} (an oracle) over attacks, rates and seeds, in the bins of each hyperparameter",
        ("hyperparameter", "lowest at", "mean", "highest at", "mean", "difference"),
        tuple(rows),
    )
    widest = max(rows, key=lambda row: float(row[-1]))
    lead = (
        f"Alone, {widest[0]} moves the mean {objective} most: by {format_number(widest[-1])}, highest at {widest[3]}."
    )
    return Section("curves", title, lead, (Note(_HOW), *_band_note(results), table, *figures), command)


def _why_none(results: Results, trials: int, cells: bool) -> str:
    if not results.ranges:
        return f"the space {results.space!r} has no hyperparameter to search"
    if not trials:
        return "they need trials that fill the space, and this study has none (--sampler qmc gives them)"
    if not cells:
        return "no scenario's attack works"
    return f"{trials} trials are too few for bins of {_PER_BIN}, or all have the same values"


def _band_note(results: Results) -> list[Item]:
    if len(results.seeds) > 1:
        return [Note(f"Bands: mean ± standard deviation over {len(results.seeds)} seeds of the scenarios.")]
    return [
        Note("One seed only: the curves have no band, and how far another seed would differ is not known.", "warning")
    ]


def binned(values: "pandas.Series[Any]", searched: Range, most: int = _BINS) -> tuple[tuple[AxisValue, ...], Cells]:
    """Bins of equal count along a hyperparameter, or one for each option, or for each value where there are few.

    Returns:
        Where each bin stands: its median or its option; and the bin of every value, int64 [n].
    """
    import pandas

    if isinstance(searched, Choice):
        options = [option for option in searched.options if (values == option).any()]
        return tuple(map(str, options)), np.array([options.index(value) for value in values], np.int64)
    count = int(np.clip(len(values) // _PER_BIN, 2, most))
    levels = np.unique(values.to_numpy(float))
    if len(levels) <= max(count, 2):
        return tuple(levels.tolist()), np.searchsorted(levels, values.to_numpy(float)).astype(np.int64)
    # Equal values stay together, or a bin would hold a part of a value's trials.
    bins = pandas.qcut(values.astype(float), count, labels=False, duplicates="drop").to_numpy(np.int64)
    return tuple(float(values[bins == at].median()) for at in np.unique(bins)), np.unique(bins, return_inverse=True)[1]


def _means(cells: "pandas.DataFrame", bins: dict[Any, Any], metrics: list[str]) -> "pandas.DataFrame":
    """Means by stratum, seed and bin."""
    placed = cells.assign(bin=cells["trial"].map(bins))
    means: pandas.DataFrame = placed.groupby(["stratum", "seed", "bin"], sort=False)[metrics].mean()
    return means


def _figure(
    results: Results, field: str, metric: str, places: Sequence[AxisValue], means: "pandas.DataFrame"
) -> Curves:
    searched = results.ranges[field]
    default = load_default_point(results.ranges, results.trials).get(field)
    at = () if default is None else ((_place(searched, default), "paper default"),)
    return Curves(
        f"curve-{field}-{metric}",
        f"{metric} over {field}",
        field,
        metric,
        tuple(
            _line(str(stratum), places, part)
            for stratum, part in means[metric].groupby(level="stratum", sort=False)
            if part.notna().any()
        ),
        x_log=not isinstance(searched, Choice) and searched.log,
        at=at,
    )


def _place(searched: Range, value: Any) -> AxisValue:
    return str(value) if isinstance(searched, Choice) else float(value)


def _line(label: str, places: Sequence[AxisValue], part: "pandas.Series[float]") -> Line:
    """A stratum's curve: mean over seeds in each bin that every seed has, and their spread where there are several."""
    seeds = part.unstack("seed").sort_index().dropna()
    x = tuple(places[int(at)] for at in seeds.index.get_level_values("bin"))
    middle = seeds.mean(axis=1)
    if seeds.shape[1] == 1:
        return Line(label, x, tuple(middle.tolist()))
    spread = seeds.std(axis=1, ddof=1)
    return Line(label, x, tuple(middle.tolist()), tuple((middle - spread).tolist()), tuple((middle + spread).tolist()))


def _row(
    field: str, places: Sequence[AxisValue], means: "pandas.Series[float]"
) -> tuple[str, str, float, str, float, float]:
    """Where the mean over strata and seeds is lowest and highest along a hyperparameter."""
    along = means.groupby(level="bin").mean().dropna().sort_index()
    bottom, top = float(along.min()), float(along.max())
    at = [int(place) for place in along.index.to_numpy()]
    low, high = at[int(np.argmin(along))], at[int(np.argmax(along))]
    return field, format_value(places[low]), bottom, format_value(places[high]), top, top - bottom
