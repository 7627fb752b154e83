"""What a study ends with in a terminal: the best configuration beside the paper's, on every scenario.

The tables are sections of the same results that analyze, report and compare read.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from search_spaces import SEARCH_SPACES
from study.analysis.compared import DEFAULT, default_label
from study.analysis.failed_runs import FAILED_RUNS, count_failed, shows_failed
from study.analysis.finding import find
from study.analysis.fixed_fields import load_changes, load_fields
from study.analysis.repeats import spread_of_runs
from study.analysis.results import Results
from study.cli.numbers import format_number, format_objective, format_value, several
from study.config.objectives import aggregate, direction, in_words
from study.config.paper_deviations import changes_line
from study.report.elements import Cell, Table
from study.report.formatting import format_cell, over_what, spread_cell
from study.report.screen import legend, without_empty_columns, wrapped
from study.report.sections import ablations, against_papers, control_and_cost
from study.report.sections.summary import untold_lines
from study.report.text import table_lines
from study.scenarios.oracle_defenses import find_defense
from tracking import names

if TYPE_CHECKING:
    import pandas

HEADER = ("scenario", "model", *(name.upper() for name in names.HEADLINE))
_MOST_COLUMNS = 5  # of a front
_Row = tuple[Cell, ...]


class Evaluation(NamedTuple):
    """What a trial reached on a scenario; undefined metrics are None."""

    metrics: Mapping[str, float | None]
    attack_failed: bool


class Closing:
    """What is shown of a study that ended, or was stopped.

    Attributes:
        compared: label -> number of the trials that every scenario shows.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.scenarios = results.manifest.scenarios or tuple(map(str, results.scenarios.index))
        self.compared = self._compared()
        self._reached = _evaluations(results)

    @property
    def _several(self) -> bool:
        return len(self.results.goal.objectives) > 1

    @property
    def finished(self) -> bool:
        """Some trial is complete."""
        return self.results.best is not None

    def text(self) -> str:
        """The finding, the tables and the notes, as lines of text."""
        finding = find(self.results)
        if not self.finished:
            return "\n\n".join([wrapped(finding.sentence), *(["\n".join(notes)] if (notes := self.notes()) else [])])
        paper = bool(SEARCH_SPACES[self.results.space].paper)
        shown = self._paper_tables() if paper else self._search_tables()
        notes = [*map(wrapped, finding.caveats), *self.notes()]
        return "\n\n".join([wrapped(finding.sentence), *shown, *(["\n".join(notes)] if notes else [])])

    def _search_tables(self) -> list[str]:
        """The settings, then what they reach on every scenario."""
        settings = self._front_table() if self._several else self._point_table()
        table = self._scenario_table()
        return [
            *([settings] if settings else []),
            table_lines(table),
            "\n".join(filter(None, (wrapped(table.caption), legend(table.header)))),
            *beside_text({"": self.results}),
        ]

    def _paper_tables(self) -> list[str]:
        """Of a study that makes a paper's table or figure anew: that table, then the paper's numbers beside ours."""
        sections = [
            *ablations.sections(self.results),
            against_papers.section(self.results.over_repeats, self.results.space),
        ]
        tables = [item for section in sections if section for item in section.items if isinstance(item, Table)]
        shown = [f"{wrapped(table.caption)}\n{table_lines(_without_footnotes(table))}" for table in tables]
        words = tuple(word for table in tables for name in table.header for word in name.split())
        return [*shown, legend(words), *beside_text({"": self.results})]

    def values(self, trial: int) -> list[float]:
        """The objectives of a complete trial."""
        return [float(str(self.results.trials.at[trial, label])) for label in self.results.objective_columns]

    def _point_table(self) -> str:
        results, best = self.results, self.results.best
        assert best is not None
        if not results.ranges or best == results.default:
            return ""
        fields = load_fields(results)
        default = results.conditions.drop_idle({field: fields[field] for field in results.ranges})
        rows = tuple(
            (
                self._symbol(field),
                format_value(default.get(field)),
                format_value(results.trials.at[best, field]),
                str(searched),
            )
            for field, searched in results.ranges.items()
        )
        header = ("hyperparameter", "paper", f"trial {best}", "searched")
        return table_lines(Table("best", "", header, rows, left=1))

    def _front_table(self) -> str:
        """A column a trial: what it reached and where it lies; the first of a long front, and its knee."""
        shown = [one for at, one in enumerate(self.compared) if at < _MOST_COLUMNS or one[1] == self.results.best]
        labels = [DEFAULT if trial == self.results.default else f"#{trial}" for _, trial in shown]
        values = [list(map(format_objective, self.values(trial))) for _, trial in shown]
        settings = [self.point(trial) for _, trial in shown]
        goal = [(in_words(name), *each) for name, *each in zip(self.results.goal.objectives, *values, strict=True)]
        rows = (*goal, *((name, *each) for name, *each in zip(self.symbols(), *settings, strict=True)))
        more = len(self.compared) - len(shown)
        note = f"\n{more} more trials of the front are in the report." if more else ""
        return table_lines(Table("front", "", ("trial", *labels), rows, left=1)) + note

    def point(self, trial: int) -> list[str]:
        """A trial's searched fields."""
        return [format_value(self.results.trials.at[trial, field]) for field in self.results.ranges]

    def _symbol(self, field: str) -> str:
        return find_defense(self.results.defense).config_type.symbol(field)

    def symbols(self) -> list[str]:
        """Of the searched fields."""
        return list(map(self._symbol, self.results.ranges))

    def _compared(self) -> list[tuple[str, int]]:
        """The paper's default, then the best trial, or every one on the front."""
        results = self.results
        default = [(DEFAULT, results.default)] if results.default is not None else []
        if default and (not results.ranges or len(results.complete) == 1):
            # There is nothing else that could be better.
            return [(default_label(results), trial) for _, trial in default]
        best = results.front if self._several else [] if results.best is None else [results.best]
        name = "front" if self._several else "best"
        if results.default in best:
            default = [(f"{DEFAULT}, {'on the front' if self._several else 'the best'}", default[0][1])]
        return default + [(f"{name} (#{trial})", trial) for trial in best if trial != results.default]

    def _scenario_table(self) -> Table:
        rows = self.scenario_rows()
        if len(self.results.over_repeats.scenarios) > 1:
            label = "mean of all" if self.results.goal.how == "mean" else "worst of each"
            every = [(name, trial, _cells(self.together(trial))) for name, trial in self.compared]
            told = [(name, [*cells, *self._failed_cell(trial, self.scenarios)]) for name, trial, cells in every]
            rows += _block(label, told)
        return without_empty_columns(Table("scenarios", self.spread_words, self.header, tuple(rows), left=2))

    @property
    def header(self) -> tuple[str, ...]:
        """Of the lines that `scenario_rows` gives."""
        first = "attack and rate" if self._share_lines else "scenario"
        return (first, *HEADER[1:], *((FAILED_RUNS,) if self._tells_failed else ()))

    @property
    def _share_lines(self) -> bool:
        """Whether a line is the mean over several runs: seeds, repeats or both."""
        return len(self.results.seeds) > 1 or self.results.repeats > 1

    @property
    def spread_words(self) -> str:
        """What stands behind ± where there are repeats."""
        return f"{over_what(len(self.results.seeds), self.results.repeats)}." if self.results.repeats > 1 else ""

    @functools.cached_property
    def _tells_failed(self) -> bool:
        return shows_failed(self.results, [self._runs(trial, self.scenarios) for _, trial in self.compared])

    def _runs(self, trial: int, scenarios: Sequence[str]) -> "pandas.DataFrame":
        runs = self.results.evaluations
        return runs[(runs["trial"] == trial) & runs["scenario"].isin(scenarios)]

    def _failed_cell(self, trial: int | None, scenarios: Sequence[str]) -> list[Cell]:
        """How many runs failed, where the table tells that; of the undefended model a dash."""
        if not self._tells_failed:
            return []
        return [None if trial is None else count_failed(self._runs(trial, scenarios)).text]

    def scenario_rows(self) -> list[_Row]:
        """A line for each attack, rate and model that is compared on it, the trial that is best there among them.

        Several seeds and repeats share a line: their mean and standard deviation.
        """
        rows: list[_Row] = []
        for label, scenarios in self._groups():
            working = [name for name in scenarios if name not in self.attack_failures()]
            own = None if self._several else self.results.best_on(scenarios)
            numbers = {trial for _, trial in self.compared}
            used = working or scenarios
            undefended = self._spread(used, [self._undefended(name) for name in used])
            models = [("undefended", [*undefended, *self._failed_cell(None, used)])]
            shown = [*self.compared, *([("", own)] if own is not None and own not in numbers else [])]
            for name, trial in shown:
                reached = self._spread(used, [self._evaluation(trial, scenario) for scenario in used])
                reached += self._failed_cell(trial, used)
                if name or reached not in [cells for _, cells in models]:
                    models.append((name or f"best here (#{trial})", reached))
            rows += _block(label, models)
        return rows

    def _groups(self) -> list[tuple[str, list[str]]]:
        """The scenarios that share lines, with what the lines are called."""
        scenarios, failed = self.results.scenarios, self.attack_failures()
        if not self._share_lines:
            return [(name + (" (attack fails)" if name in failed else ""), [name]) for name in self.scenarios]
        known = scenarios.loc[[name for name in self.scenarios if name in scenarios.index]]
        groups = []
        for stratum, part in known.groupby("stratum", sort=False):
            names_of = list(map(str, part.index))
            broken = sum(name in failed for name in names_of)
            runs = "seeds" if self.results.repeats == 1 else "runs"
            of = "" if broken == len(names_of) else f" on {broken} of {len(names_of)} {runs}"
            groups.append((f"{stratum}{f' (attack fails{of})' if broken else ''}", names_of))
        return groups

    def _evaluation(self, trial: int, scenario: str) -> Mapping[str, float | None]:
        reached = self._reached.get((trial, scenario))
        return reached.metrics if reached else {}

    def _spread(self, scenarios: Sequence[str], reached: Sequence[Mapping[str, float | None]]) -> list[Cell]:
        """The headline metrics, over seeds and repeats where there are several.

        Args:
            reached: on each of the scenarios.
        """
        if not self._share_lines:
            return _cells(reached[0])
        if self.results.repeats == 1:
            return [_mean_and_deviation([metrics.get(name) for metrics in reached]) for name in names.HEADLINE]
        import pandas

        poisonings = self.results.scenarios.loc[list(scenarios), "poisoning"].tolist()
        rows = [{name: metrics.get(name) for name in names.HEADLINE} for metrics in reached]
        runs = pandas.DataFrame(rows, dtype=float).assign(poisoning=poisonings)
        spreads = [spread_of_runs(runs, name) for name in names.HEADLINE]
        seeds = len(self.results.seeds) > 1
        cells = [spread_cell(one.mean, one.poisonings, one.repeats, seeds) for one in spreads]
        return [cell.replace(" ", "") if isinstance(cell, str) else cell for cell in cells]  # as wide as a screen

    def _undefended(self, scenario: str) -> Mapping[str, float | None]:
        """CA and ASR without a defense, on which all trials agree."""
        scenarios = self.results.scenarios
        if scenario not in scenarios.index:
            return {}
        row = scenarios.loc[scenario]
        return {names.CA: _defined(row[names.CA_UNDEFENDED]), names.ASR: _defined(row[names.ASR_UNDEFENDED])}

    def together(self, trial: int) -> Mapping[str, float | None]:
        """A trial's metrics over all scenarios, as the study puts them together."""
        judged = [self._reached[trial, scenario] for scenario in self.scenarios]
        return aggregate(judged, self.results.goal.how).metrics

    def attack_failures(self) -> list[str]:
        """Names of the scenarios whose attack did not work."""
        scenarios = self.results.scenarios
        return [name for name in self.scenarios if name in scenarios.index and scenarios.loc[name, "attack_failed"]]

    def notes(self) -> list[str]:
        """What a reader should know besides."""
        results = self.results
        lines = []
        changes = load_changes(results) if SEARCH_SPACES[results.space].paper else ()
        if changes:
            line = changes_line(results.config.preset, changes)
            lines.append(f"{line[:1].upper()}{line[1:]}.")
        stopped = int((results.trials["state"] == "pruned").sum())
        if stopped:
            rule = results.config.pruner
            lines.append(f"{several(stopped, 'trial')} stopped early ({rule}): tried, but compared with nothing.")
        return [wrapped(line) for line in [*lines, *untold_lines(results), *self._failures()]]

    @property
    def failed(self) -> "pandas.DataFrame":
        """The trials that failed for good, by number."""
        trials = self.results.trials
        return trials[(trials["state"] == "fail") & (trials["reason"] != "")]

    def _failures(self) -> list[str]:
        """Trials that failed, and those whose records were damaged since."""
        trials, failed = self.results.trials, self.failed
        lines = []
        if len(failed):
            reason = str(failed["reason"].iloc[0]).strip().splitlines()[-1]
            first = f"trial {failed.index[0]}: {reason}"
            lines.append(f"{several(len(failed), 'trial')} failed{', the first' if len(failed) > 1 else ''}, {first}")
        damaged = trials.index[(trials["state"] == "complete") & ~trials.index.isin(self.results.complete.index)]
        if len(damaged):
            named = ", ".join(map(str, damaged))
            lines.append(f"The files of trial {named} cannot be read any more, so it is left out.")
        return lines

    def metrics(self) -> dict[str, float]:
        """What the study's own run shows in MLflow: what the best trial reached over all scenarios, and the default.

        Of a front it shows the size, and the best that it holds of each objective.
        """
        results = self.results
        told: dict[str, float] = {"trials": float(len(results.complete))}
        if results.config.pruner != "none":
            told["stopped_early"] = float((results.trials["state"] == "pruned").sum())
        shown = [("paper_default", results.default)]
        if self._several and results.front:
            told["front"] = float(len(results.front))
            values = list(map(self.values, results.front))
            for at, name in enumerate(results.goal.objectives):
                column = [of_trial[at] for of_trial in values]
                told[f"best/{names.objective(name)}"] = (min if direction(name) == "minimize" else max)(column)
        else:
            shown.append(("best", results.best))
        for prefix, trial in shown:
            if trial is not None:
                reached = {**dict(zip(results.goal.labels, self.values(trial), strict=True)), **self._headline(trial)}
                fpr_clean = results.clean_fpr_mean(trial)[0]
                reached |= {} if fpr_clean is None else {names.FPR_CLEAN: fpr_clean}
                told |= {f"{prefix}/{name}": value for name, value in reached.items()}
        return told

    def _headline(self, trial: int) -> dict[str, float]:
        together = self.together(trial)
        return {name: value for name in names.HEADLINE if (value := together.get(name)) is not None}


def beside_text(studies: Mapping[str, Results]) -> list[str]:
    """What configurations flag of clean data and cost, and what that means; nothing where nobody knows.

    Args:
        studies: what stands before the configurations of each.
    """
    table = control_and_cost.table(studies)
    if table is None:
        return []
    shown = without_empty_columns(table)
    return [table_lines(shown), wrapped(control_and_cost.terms(shown.header))]


def _without_footnotes(table: Table) -> Table:
    """The table less its empty columns, and less the numbers of footnotes, which stand in the report."""
    if table.header[-1] != "see":
        return without_empty_columns(table)
    rows = tuple(row[:-1] for row in table.rows)
    return without_empty_columns(dataclasses.replace(table, header=table.header[:-1], rows=rows))


def _block(label: str, models: Sequence[tuple[str, Sequence[Cell]]]) -> list[_Row]:
    """Rows under one label; models that read the same share one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, cells in models:
        alike.setdefault(tuple(map(format_cell, cells)), []).append(name)
    return [("" if at else label, ", ".join(sharing), *cells) for at, (cells, sharing) in enumerate(alike.items())]


def _evaluations(results: Results) -> dict[tuple[int, str], Evaluation]:
    """Trial and scenario -> what was reached."""
    return {
        (int(row["trial"]), str(row["scenario"])): Evaluation(
            {name: _defined(row[name]) for name in names.METRICS}, bool(row["attack_failed"])
        )
        for row in results.evaluations.to_dict("records")
    }


def _mean_and_deviation(values: Sequence[float | None]) -> str | None:
    """``0.958±0.003`` of what is defined; None where nothing is."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    mean = format_number(statistics.fmean(defined))
    return mean if len(defined) < 2 else f"{mean}±{statistics.stdev(defined):.3f}"


def _defined(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _cells(metrics: Mapping[str, float | None]) -> list[Cell]:
    return [metrics.get(name) for name in names.HEADLINE]
