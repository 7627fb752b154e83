"""One hyperparameter at a time: what metrics do along it, whatever the others are, and how far seeds disagree."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.space import Choice, Range
from study.analysis.bins import PER_BIN, Span, binned, span
from study.analysis.discretise import Cells, load_default_point
from study.analysis.results import Results
from study.analysis.reused_settings import setting_numbers, shared_fields
from study.analysis.upstream_fields import searched_upstream
from study.cli.numbers import format_number, format_value, listed
from study.config.objectives import in_words
from study.report.elements import AxisValue, Cell, Curves, Item, Line, Note, Section, Table
from study.report.formatting import sentence
from tracking import names

if TYPE_CHECKING:
    import pandas

_LINE = 3  # bins, at least: a line of two would be no curve
_WIDEST = 400  # trials whose points are drawn; of more the bins say enough
_HEIGHT = 0.1  # of an axis of rates, at least: less would blow up what another seed would undo
_LEAST = 0.001  # of a difference that is named
_SAME = 1e-12  # a difference below it is rounding


def curves_section(results: Results) -> Section:
    """The answer: figures for every hyperparameter and metric, and a table of what the objective does."""
    title = "One hyperparameter at a time"
    command = results.command_for("analyze")
    trials = results.space_filling_trials
    fields = [name for name in results.ranges if len(trials) and trials[name].nunique() > 1]
    cells = results.compared[results.compared["trial"].isin(trials.index)]
    if not fields or cells.empty or len(trials) < 2 * PER_BIN:
        why = sentence(_why_none(results, len(trials), bool(len(cells))))
        return Section("curves", title, f"{why}.", (), command, answered=False)
    objective = results.goal.objectives[0]
    metrics = [m for m in dict.fromkeys([objective, *names.HEADLINE]) if _varies(cells[m])]
    upstream = {metric: searched_upstream(results, metric) for metric in {objective, *metrics}}
    figures: list[Item] = []
    spans: dict[str, tuple[tuple[AxisValue, ...], Span]] = {}
    means = cells.groupby("trial")[objective].mean().dropna()
    shared = shared_fields(results)
    settings = setting_numbers(results, shared)
    for field in fields:
        acting = trials[trials[field].notna()]
        if len(acting) < 2 * PER_BIN:
            continue
        places, bins = binned(acting[field], results.ranges[field])
        drawn = [metric for metric in metrics if field in upstream[metric]]
        own = cells[cells["trial"].isin(acting.index)]
        figures += _figures(results, field, drawn, (places, bins), own)
        known = acting.index.isin(means.index)
        if field in upstream[objective] and known.any():
            together = settings.loc[acting.index[known]] if field in shared else None
            spans[field] = places, _span(means.loc[acting.index[known]], bins[known], together, len(fields))
    lead = _lead(objective, len(means), spans)
    if not figures:
        lead = lead if len(means) else f"No metric varies over these {len(trials)} trials."
        return Section("curves", title, lead, (), command, answered=False, uses_labels=True)
    table = [_table(objective, spans)] if spans else []
    items = (*table, *figures, *_notes(results, fields, upstream), *_shared_note(results, shared))
    return Section("curves", title, lead, items, command, uses_labels=True)


def _varies(values: "pandas.Series[float]") -> bool:
    known = values.dropna()
    return bool(len(known)) and float(known.max() - known.min()) > _SAME


def _span(means: "pandas.Series[float]", bins: Cells, settings: "pandas.Series[int] | None", tests: int) -> Span:
    """Of a metric's means by trial, in bins of which some may be empty; see `study.analysis.bins.span`."""
    numbered = np.unique(bins, return_inverse=True)[1]
    together = None if settings is None else np.asarray(settings, np.int64)
    return span(np.asarray(means, np.float64), numbered, tests, settings=together)


def _why_none(results: Results, trials: int, cells: bool) -> str:
    if not results.ranges:
        return f"the space {results.space!r} has no hyperparameter to search"
    if not trials:
        return "curves need trials that fill the space, and this study has none (--sampler qmc gives them)"
    if not cells:
        return "no scenario's attack works"
    return f"{trials} trials are too few for bins of {PER_BIN}, or all have the same values"


def _lead(objective: str, trials: int, spans: Mapping[str, tuple[tuple[AxisValue, ...], Span]]) -> str:
    name = in_words(objective)
    if not trials:
        return f"{sentence(name)} is defined for none of these trials; what other metrics do stands below."
    if not any(one.difference for _, one in spans.values()):
        return f"The mean {name} is the same along every hyperparameter ({trials} trials)."
    field, (places, widest) = max(spans.items(), key=lambda pair: (pair[1][1].stands_out, pair[1][1].difference))
    if max(one.difference for _, one in spans.values()) < _LEAST:
        return f"No hyperparameter alone moves the mean {name} by {_LEAST:g} or more ({trials} trials)."
    if not widest.stands_out:
        return (
            f"No hyperparameter alone moves the mean {name} by more than chance would with {trials} trials (largest: "
            f"{field}, by {format_number(widest.difference)})."
        )
    return (
        f"Alone, {field} moves the mean {name} most: by {format_number(widest.difference)}, from "
        f"{format_number(widest.lowest)} at {format_value(places[widest.low])} to {format_number(widest.highest)} at "
        f"{format_value(places[widest.high])}."
    )


def _table(objective: str, spans: Mapping[str, tuple[tuple[AxisValue, ...], Span]]) -> Table:
    rows = tuple(_row(field, places, one) for field, (places, one) in spans.items())
    return Table(
        "curves-range",
        f"Mean {in_words(objective)} over attacks, rates and seeds, in the bins of each hyperparameter. By chance: "
        "below this all differences stay in 95 % of random orders of the same trials",
        ("hyperparameter", "lowest at", "mean", "highest at", "mean", "difference", "by chance"),
        rows,
        strong=tuple(at for at, (_, one) in enumerate(spans.values()) if one.stands_out),
    )


def _row(field: str, places: Sequence[AxisValue], one: Span) -> tuple[Cell, ...]:
    """Where the mean is lowest and highest along a hyperparameter; nowhere where it is the same."""
    if not one.difference:
        return field, None, one.lowest, None, one.highest, 0.0, one.by_chance
    low, high = format_value(places[one.low]), format_value(places[one.high])
    return field, low, one.lowest, high, one.highest, one.difference, one.by_chance


def _notes(results: Results, fields: Sequence[str], upstream: Mapping[str, Sequence[str]]) -> list[Item]:
    texts = [
        "Each mark is a trial, at its mean over the seeds of one attack and rate. A line joins the means of bins of "
        "equally many trials (or of an option), over all values of the other hyperparameters; there is none with fewer "
        f"than {_LINE} bins. The upright axis is at least {_HEIGHT:g} high, so that noise does not fill it."
    ]
    if len(results.seeds) > 1:
        texts.append(f"Bands: mean ± standard deviation over {len(results.seeds)} seeds of the scenarios.")
    else:
        texts.append("One seed only: the curves have no band, and how far another seed would differ is not known.")
    for field in fields:
        acts = int(results.space_filling_trials[field].notna().sum())
        if acts < len(results.space_filling_trials):
            few = "; too few for a curve" if acts < 2 * PER_BIN else ""
            texts.append(
                f"{field} acts where {' and '.join(map(str, results.ranges[field].when))}: {acts} of "
                f"{len(results.space_filling_trials)} trials{few}."
            )
        without = [in_words(metric) for metric, known in upstream.items() if field not in known]
        if without:
            texts.append(f"{', '.join(without)} cannot depend on {field}, so there is no figure of them.")
    return [Note(text, "footnote") for text in texts]


def _shared_note(results: Results, shared: tuple[str, ...]) -> list[Note]:
    """Of fields whose settings trials share, what chance is."""
    if not shared:
        return []
    count = setting_numbers(results, shared).nunique()
    text = (
        f"{count} settings of {listed(shared)} are shared by {len(results.space_filling_trials)} trials, and with each "
        "the luck of its training: by chance means here that whole settings change places, not single trials."
    )
    return [Note(text, "footnote")]


def _figures(
    results: Results,
    field: str,
    metrics: Sequence[str],
    bins: tuple[Sequence[AxisValue], Cells],
    cells: "pandas.DataFrame",
) -> list[Curves]:
    """A figure for each metric; lines are named where they are not those of the figure before."""
    figures: list[Curves] = []
    before: list[str] = []
    for metric in metrics:
        figure = _figure(results, field, metric, bins, cells)
        named = [line.label for line in figure.lines]
        figures.append(dataclasses.replace(figure, legend=named != before))
        before = named
    return figures


def _figure(
    results: Results,
    field: str,
    metric: str,
    bins: tuple[Sequence[AxisValue], Cells],
    cells: "pandas.DataFrame",
) -> Curves:
    """A line and points for each attack and rate, which looks the same in every figure of the section."""
    searched, trials = results.ranges[field], results.space_filling_trials.dropna(subset=[field])
    default = load_default_point(results.ranges, results.trials).get(field)
    at = () if default is None else ((_place(searched, default), "paper default"),)
    number = dict(zip(trials.index, bins[1], strict=True))
    series = {stratum: at for at, stratum in enumerate(results.compared["stratum"].unique())}
    lines = tuple(
        dataclasses.replace(
            _line(str(stratum), bins[0], part.assign(bin=part["trial"].map(number)), metric, trials[field], searched),
            series=series[stratum],
        )
        for stratum, part in cells[cells[metric].notna()].groupby("stratum", sort=False)
    )
    return Curves(
        f"curve-{field}-{metric}",
        f"{sentence(in_words(metric))} over {field}",
        field,
        in_words(metric),
        lines,
        x_log=not isinstance(searched, Choice) and searched.log,
        at=at,
        y_range=_y_range(lines),
        options=_options(searched, bins[0], default),
    )


def _options(searched: Range, places: Sequence[AxisValue], default: Any) -> tuple[str, ...]:
    """The options on the axis in the order of the space: those that were drawn, and the default."""
    if not isinstance(searched, Choice):
        return ()
    return tuple(name for option in searched.options if (name := str(option)) in places or option == default)


def _place(searched: Range, value: Any) -> AxisValue:
    return str(value) if isinstance(searched, Choice) else float(value)


def _line(
    label: str,
    places: Sequence[AxisValue],
    part: "pandas.DataFrame",
    metric: str,
    values: "pandas.Series[Any]",
    searched: Range,
) -> Line:
    """A stratum's trials, and its curve: the mean over seeds in each bin that every seed has, with their spread."""
    of_trials = part.groupby("trial", sort=False)[metric].mean()
    shown = of_trials if len(of_trials) <= _WIDEST else of_trials.iloc[:0]
    at = values.loc[shown.index].tolist()
    points = tuple((_place(searched, value), float(mean)) for value, mean in zip(at, shown.tolist(), strict=True))
    seeds = part.groupby(["bin", "seed"])[metric].mean().unstack("seed").sort_index().dropna()
    if len(seeds) < _LINE and not isinstance(searched, Choice):
        return Line(label, (), (), points=points)
    x = tuple(places[int(at)] for at in seeds.index)
    middle = seeds.mean(axis=1)
    if seeds.shape[1] == 1:
        return Line(label, x, tuple(middle.tolist()), points=points)
    spread = seeds.std(axis=1, ddof=1)
    low, high = tuple((middle - spread).tolist()), tuple((middle + spread).tolist())
    return Line(label, x, tuple(middle.tolist()), low, high, points)


def _y_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Ends of the axis: around all that is drawn, and never so close that noise fills it.

    Rates end at 0 and 1, where half a twentieth is left for the points.
    """
    drawn = [
        y for line in lines for y in (*line.y, *(line.low or ()), *(line.high or ()), *(y for _, y in line.points))
    ]
    low, high = min(drawn, default=0.0), max(drawn, default=1.0)
    room = max(_HEIGHT - (high - low), 0.1 * (high - low)) / 2
    below, above = low - room, high + room
    if above > 1.0 >= high:  # all is at the top, so the room is wanted below
        below, above = min(below, 1.0 - _HEIGHT), 1.0 + (above - below) / 40
    if below < 0.0 <= low:
        below, above = 0.0 - (above - below) / 40, max(above, _HEIGHT)
    return below, above
