"""Every trial as a row, to be sorted and filtered."""

from typing import Any

from study.analysis.compared import default_label
from study.analysis.results import Results
from study.cli.numbers import format_number, format_objective, format_value, several
from study.config.objectives import in_words
from study.report.elements import Cell, Section, Table
from study.report.sections import control_and_cost
from study.scenarios.oracle_defenses import find_defense
from tracking import names

_MOST = 2000  # rows: a page of more is slow
_STATES = {"complete": "", "pruned": "stopped early", "fail": "failed"}


def section(results: Results) -> Section:
    """One table, the best trials first, those without a result last."""
    means = results.evaluations[~results.evaluations["attack_failed"]].groupby("trial")[list(names.HEADLINE)].mean()
    metrics = [name for name in names.HEADLINE if name in means and means[name].notna().any()]
    single = [name for name in results.goal.objectives if len(results.goal.objectives) == 1]
    beside = _beside(results)
    symbol = find_defense(results.defense).config_type.symbol
    order = _order(results)
    scenarios = _Scenarios(results)
    trials = {int(str(number)): row for number, row in results.trials.to_dict("index").items()}
    rows = [
        (
            number,
            _state(results, number, str(trials[number]["state"])),
            scenarios.judged(number),
            *(_objective(trials[number]["value"]) for _ in single),
            *(scenarios.bracketed(number, _number(means[name].get(number))) for name in metrics),
            *(column.get(number) for column in beside.values()),
            *(_value(trials[number][field]) for field in results.ranges),
        )
        for number in order[:_MOST]
    ]
    measured = (*map(in_words, single), *map(in_words, metrics), *beside)
    header = ("trial", "state", "scenarios", *measured, *map(symbol, results.ranges))
    top = [at for at, number in enumerate(order[:_MOST]) if number == results.best]
    less = f" The first {_MOST} of {len(order)}." if len(order) > _MOST else ""
    table = Table(
        "trials",
        f"Means over the scenarios whose attack works; the best trial is first.{scenarios.explained()}{less}",
        header,
        tuple(rows),
        left=2,
        strong=tuple(top),
        sortable=True,
    )
    lead = f"{several(len(order), 'trial')} with metrics and hyperparameters, to sort and to filter."
    return Section("trials", "All trials", lead, (table,), uses_labels=True)


class _Scenarios:
    """On how many scenarios each trial has a result: means over some of them do not compare with those over all."""

    def __init__(self, results: Results) -> None:
        self._judged = results.evaluations.groupby("trial").size()
        self._planned = len(results.manifest.scenarios) or len(results.scenarios)
        self._trials = results.trials.index

    def judged(self, number: int) -> str:
        """As text: ``2 of 21``."""
        return f"{self._judged.get(number, 0)} of {self._planned}"

    def bracketed(self, number: int, mean: float | None) -> Cell:
        """A mean of a trial, in brackets where scenarios are missing in it."""
        whole = mean is None or self._judged.get(number, 0) == self._planned
        return mean if whole else f"({format_number(mean)})"

    def explained(self) -> str:
        """What brackets mean, where there are some."""
        partly = any(0 < self._judged.get(number, 0) < self._planned for number in self._trials)
        return " In brackets: over the scenarios that a trial has come to, which are not all." if partly else ""


def _beside(results: Results) -> dict[str, dict[int, Cell]]:
    """Columns of what stands beside the metrics, each a cell a trial; those without any cell are left out."""
    costs = control_and_cost.costs_of(results)
    columns: dict[str, dict[int, Cell]] = {in_words(names.FPR_CLEAN): {**control_and_cost.clean_fprs(results)}}
    for unit, word in (("epochs", control_and_cost.EPOCHS), ("seconds", control_and_cost.SECONDS)):
        for which in ("built", "spent"):
            of_trials = {trial: cost[f"defense_{which}_{unit}"] for trial, cost in costs.items()}
            columns[f"{word} {which}"] = {
                trial: format_number(value, 1) for trial, value in of_trials.items() if value is not None
            }
    return {name: column for name, column in columns.items() if column}


def _order(results: Results) -> list[int]:
    """Trials with a value from the best one on, then the others by number."""
    sign = 1 if results.goal.directions[0] == "minimize" else -1
    complete = set(results.complete.index)

    def place(number: int) -> tuple[bool, float, int]:
        value: Any = results.trials.at[number, results.objective_columns[0]]
        known = number in complete and value == value
        return (not known, sign * float(value) if known else 0.0, number)

    first = [results.best] if results.best is not None else []
    return [*first, *sorted((n for n in map(int, results.trials.index) if n not in first), key=place)]


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _objective(value: Any) -> Cell:
    """The objective with the decimals that trials are ranked by."""
    known = _number(value)
    return None if known is None else format_objective(known)


def _value(value: Any) -> Cell:
    """A hyperparameter as text: a trial's setting is no rate with three decimals."""
    return None if value is None or value != value else format_value(value)


def _state(results: Results, number: int, state: str) -> str:
    words = [
        default_label(results) if number == results.default else "",
        results.best_name if number == results.best else "",
        _STATES.get(state, state),
    ]
    return ", ".join(filter(None, words)) or "complete"
