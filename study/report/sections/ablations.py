"""An ablation's answer: the paper's table or figure with our numbers.

Every number is a mean over the seeds of the scenarios; what stands behind ± is their standard deviation.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces import SEARCH_SPACES
from study.analysis.failed_runs import FAILED_RUNS, count_failed, shows_failed
from study.analysis.fixed_fields import load_changes
from study.analysis.repeats import spread_of_runs
from study.analysis.results import Results
from study.cli.numbers import format_number, format_value
from study.config.objectives import in_words
from study.config.paper_deviations import changes_line
from study.report.elements import Cell, Curves, Item, Line, Note, Section, Table, slug
from study.report.formatting import over_what, spread_cell
from study.scenarios.oracle_defenses import ORACLE_DEFENSES
from tracking import names

if TYPE_CHECKING:
    import pandas

_UNDEFENDED = {names.CA: names.CA_UNDEFENDED, names.ASR: names.ASR_UNDEFENDED}
_FLAG_METRICS = (names.TPR, names.FPR)
_MODEL_METRICS = (names.CA, names.ASR)
_QUARANTINED = {
    "quarantine_training.tpr": "BQR: share of poison in quarantine",
    "quarantine_training.fpr": "CQR: share of clean samples in quarantine",
    "quarantine_training.released_classes": "classes released, poison included",
}
_NO_SHARES = ("loss", "classes")  # in a series' name: its values are not in [0, 1]


@dataclass(frozen=True)
class View:
    """What a table or figure shows.

    Attributes:
        metrics: columns of the table.
        series: ``stage.name`` -> what it is, a figure each for every attack; a name that ends in ``/`` stands for all
            that begin with it, a line each.
        over: a searched field over which the metrics are drawn as well, a line an attack.
        first: number of the first step of a series.
        step: what a step of a series is.
        undefended: the table shows plain training, too.
    """

    metrics: tuple[str, ...]
    series: Mapping[str, str] = field(default_factory=dict)
    over: str = ""
    first: int = 1
    step: str = "epoch"
    undefended: bool = False


VIEWS: Mapping[str, View] = {
    "pipd.table1": View(_MODEL_METRICS, undefended=True),
    "pipd.table2": View(_FLAG_METRICS),
    "pipd.fault_ratio": View(_FLAG_METRICS, over="fault_ratio"),
    "pipd.rounds": View((names.FPR, names.TPR, names.CA, names.ASR), over="rounds"),
    "pipd.selective_vs_unlearning": View(
        _MODEL_METRICS,
        {"cleaning.ca": "CA", "cleaning.asr": "ASR"},
        first=0,
        step="epochs of cleaning done",
        undefended=True,
    ),
    "pipd.poison_rate": View(_FLAG_METRICS),
    "pipd.clustering": View(_FLAG_METRICS),
    "pipd.channel_statistic": View((names.TPR, names.FPR, names.AUROC)),
    "qt.table1": View((names.AUROC,)),
    "qt.table2": View(_MODEL_METRICS, undefended=True),
    "qt.backdoor_class": View(
        (*_MODEL_METRICS, names.CLEAN_QUARANTINED),
        {
            "backdoor_class_training.loss/": "training loss",
            "backdoor_class_training.accuracy/": "training accuracy",
        },
    ),
    "qt.pre_quarantine": View(_FLAG_METRICS, _QUARANTINED),
    "qt.fixed_epsilon": View(_FLAG_METRICS, _QUARANTINED),
    "qt.poison_rate": View(_FLAG_METRICS, _QUARANTINED),
}
"""By space. Every ablation has one; a test holds it."""


def sections(results: Results) -> list[Section]:
    """The table or figure that a study makes anew; none for a space that is there to search.

    What the paper prints stands in `study.report.sections.against_papers`.
    """
    view = VIEWS.get(results.space)
    if view is None:
        return []
    runs, cells = _cells(results), _cells(results.over_repeats)
    items: list[Item] = []
    working = cells[~cells["attack_failed"]]
    if not working.empty:
        items += [_table(results, view, runs), *_over(results, view, working)]
        items += _figures(results, view, working)
    items += _notes(results)
    title = f"{SEARCH_SPACES[results.space].paper}: {SEARCH_SPACES.describe(results.space)}"
    lead = _lead(results, view, working)
    return [Section(slug(results.space), title, lead, tuple(items), results.command, uses_labels=True)]


def _cells(results: Results) -> "pandas.DataFrame":
    """The cells of complete trials, in order, with their ``setting`` and ``attack_name`` (its rate too, of several)."""
    cells = results.evaluations[results.evaluations["trial"].isin(results.complete.index)].copy()
    rates = cells.groupby("attack")["poison_rate"].nunique()
    cells["attack_name"] = [
        f"{_bare(attack)} at {rate:g}" if rates[attack] > 1 and not _by_rate(results) else _bare(attack)
        for attack, rate in zip(cells["attack"], cells["poison_rate"], strict=True)
    ]
    order = _order(results)
    cells["position"] = [order.index(trial) for trial in cells["trial"]]
    cells = cells.sort_values(["position", "poison_rate", "seed"], kind="stable")
    cells["setting"] = [
        _setting(results, trial, rate) for trial, rate in zip(cells["trial"], cells["poison_rate"], strict=True)
    ]
    return cells


def _order(results: Results) -> list[int]:
    """Complete trials in the order of the space's options, not in the one in which they were run."""
    options = {name: list(getattr(searched, "options", ())) for name, searched in results.ranges.items()}

    def places(trial: int) -> list[int]:
        row = results.trials.loc[trial]
        return [options[name].index(row[name]) if row[name] in options[name] else -1 for name in options]

    return sorted((int(trial) for trial in results.complete.index), key=places)


def _setting(results: Results, trial: int, rate: float) -> str:
    row: Any = results.trials.loc[trial]
    values = {name: row[name] for name in results.ranges if row[name] is not None}
    if len(results.ranges) == 1:
        (only,) = values.values()
        return str(getattr(only, "item", lambda: only)())
    if values:
        return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())
    return str(rate) if _by_rate(results) else results.defense


def _by_rate(results: Results) -> bool:
    """Whether the poison rate is what the table varies."""
    return results.space.endswith(".poison_rate")


def _varied(results: Results) -> str:
    if len(results.ranges) == 1:
        return next(iter(results.ranges))
    return "poison rate" if _by_rate(results) and not results.ranges else "setting"


def _bare(attack: str) -> str:
    return attack.partition(":")[0]


def _table(results: Results, view: View, cells: "pandas.DataFrame") -> Table:
    own = [part for _, part in cells.groupby("trial")]
    told = names.TPR in view.metrics and shows_failed(results, own)
    header = ["attack", _varied(results), *map(in_words, view.metrics), *((FAILED_RUNS,) if told else ())]
    rows: list[tuple[Cell, ...]] = []
    seeds = len(results.seeds)
    for attack, of_attack in cells.groupby("attack_name", sort=False):
        groups: list[tuple[str, pandas.DataFrame, Mapping[str, str]]] = [
            (str(setting), rows_of_setting, {}) for setting, rows_of_setting in of_attack.groupby("setting", sort=False)
        ]
        if view.undefended:
            first = of_attack[of_attack["position"] == of_attack["position"].iloc[0]]
            groups.insert(0, ("no_defense", first, _UNDEFENDED))
        for setting, rows_of_setting, columns in groups:
            counted = rows_of_setting[~rows_of_setting["attack_failed"]]
            spreads = [spread_of_runs(counted, columns.get(metric, metric)) for metric in view.metrics]
            values = [spread_cell(one.mean, one.poisonings, one.repeats, seeds > 1) for one in spreads]
            lost = (None if columns else count_failed(counted).text,) if told else ()
            rows.append((str(attack), setting, *values, *lost))
    over = _over_seeds(seeds) if results.repeats == 1 else over_what(seeds, results.repeats)
    caption = f"{SEARCH_SPACES[results.space].paper}. {over}; shares in [0, 1]"
    return Table(f"{slug(results.space)}-table", caption, tuple(header), tuple(rows), left=2)


def _over_seeds(seeds: int) -> str:
    return "One seed" if seeds == 1 else f"Mean and standard deviation over {seeds} seeds"


def _over(results: Results, view: View, working: "pandas.DataFrame") -> Iterator[Curves]:
    """Each metric over the searched field, a line an attack."""
    if not view.over or list(results.ranges) != [view.over]:
        return
    series = {attack: at for at, attack in enumerate(working["attack_name"].unique())}
    for metric in view.metrics:
        lines = []
        for attack, of_attack in working.dropna(subset=[metric]).groupby("attack_name", sort=False):
            by_setting = of_attack.groupby("setting")[metric]
            groups = [(float(str(setting)), list(values)) for setting, values in by_setting]
            places, values = zip(*sorted(groups), strict=True)
            lines.append(dataclasses.replace(_line(str(attack), places, values), series=series[attack]))
        if lines:
            caption = f"{in_words(metric)} by {view.over}, {_over_seeds(len(results.seeds)).lower()}"
            yield Curves(
                f"{slug(results.space)}-{metric}",
                caption,
                view.over,
                in_words(metric),
                tuple(lines),
                y_range=(0.0, 1.0),
            )


def _line(label: str, places: Sequence[float], values: Sequence[Sequence[float]]) -> Line:
    """Means of values at each place; a band of a standard deviation where every place has several values."""
    means = tuple(sum(of_step) / len(of_step) for of_step in values)
    if min(len(of_step) for of_step in values) < 2:
        return Line(label, tuple(places), means)
    import numpy

    spreads = [float(numpy.std(of_step, ddof=1)) for of_step in values]
    low = tuple(mean - spread for mean, spread in zip(means, spreads, strict=True))
    high = tuple(mean + spread for mean, spread in zip(means, spreads, strict=True))
    return Line(label, tuple(places), means, low, high)


def _figures(results: Results, view: View, working: "pandas.DataFrame") -> Iterator[Curves]:
    """The series of each attack, step by step."""
    for attack, of_attack in working.groupby("attack_name", sort=False) if view.series else ():
        series = _load_series(results, of_attack)
        for wanted, what in view.series.items():
            lines = [
                _line(label, [float(view.first + step) for step in range(len(values))], values)
                for label, values in _build_lines(series, wanted)
            ]
            if lines:
                name = f"{slug(results.space)}-{slug(str(attack))}-{wanted.rpartition('.')[2].strip('/')}"
                y_range = None if any(word in wanted for word in _NO_SHARES) else (0.0, 1.0)
                caption = f"{attack}: {what}, {_over_seeds(len(results.seeds)).lower()}"
                yield Curves(name, caption, view.step, what, tuple(lines), y_range=y_range)


def _load_series(results: Results, cells: "pandas.DataFrame") -> dict[str, list[dict[str, list[float]]]]:
    """Setting -> the series of its seeds."""
    series: dict[str, list[dict[str, list[float]]]] = {}
    for trial, scenario, setting in zip(cells["trial"], cells["scenario"], cells["setting"], strict=True):
        series.setdefault(setting, []).append(results.series(int(trial), scenario))
    return series


def _build_lines(
    series: Mapping[str, Sequence[Mapping[str, list[float]]]], wanted: str
) -> Iterator[tuple[str, list[list[float]]]]:
    """A label and, for each step, the values of the seeds. Series of unlike length are cut to the shortest."""
    for setting, seeds in series.items():
        known = list(dict.fromkeys(name for seed in seeds for name in seed))
        for name in (name for name in known if name == wanted or (wanted.endswith("/") and name.startswith(wanted))):
            values = [list(step) for step in zip(*(seed[name] for seed in seeds if name in seed), strict=False)]
            if values:
                yield (name.removeprefix(wanted) if wanted.endswith("/") else setting), values


def _lead(results: Results, view: View, working: "pandas.DataFrame") -> str:
    if working.empty:
        return "No complete trial has an attack that works, so there is nothing to compare."
    said = []
    for setting, of_setting in working.groupby("setting", sort=False):
        means = {metric: of_setting[metric].mean() for metric in view.metrics if of_setting[metric].notna().any()}
        told = ", ".join(f"{in_words(metric)} {format_number(mean)}" for metric, mean in means.items())
        named = f"{_varied(results)} {setting}" if str(setting)[:1].isdigit() else str(setting)
        said.append(f"{named}: {told}")
    attacks = working["attack"].map(_bare).nunique()
    return f"Mean over {attacks} attack{'s' if attacks > 1 else ''} by {_varied(results)}. {'; '.join(said)}."


def _notes(results: Results) -> Iterator[Note]:
    if results.defense in ORACLE_DEFENSES:
        yield Note(
            f"{results.defense} is an experiment of the paper that knows which samples are poisoned: no defense."
        )
    changes = changes_line(results.config.preset, load_changes(results))
    if changes:
        yield Note(f"Not at the paper's scale: {changes}.", "warning")
    if len(results.seeds) == 1:
        yield Note("One seed only: there is no spread, and a small difference may be chance.", "warning")
    failed = results.scenarios[results.scenarios["attack_failed"]].index
    if len(failed):
        yield Note(
            f"The attack failed (undefended ASR below {results.config.asr_floor:g}) on {', '.join(failed)}: these "
            "scenarios count neither way and are left out.",
            "warning",
        )
    rest = len(results.trials) - len(results.complete)
    if rest:
        yield Note(f"{rest} of {len(results.trials)} trials are not complete and are left out.", "warning")
