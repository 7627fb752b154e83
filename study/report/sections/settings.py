"""The best trial's hyperparameters beside the paper's, and where was searched."""

import math
from typing import Any

from search_spaces.space import Choice, Range
from study.analysis.compared import DEFAULT
from study.analysis.results import Results
from study.cli.numbers import format_value
from study.report.elements import Section, Table
from study.scenarios.oracle_defenses import find_defense

_EDGE = 0.02  # of a range: closer to its end, the best may lie beyond


def sections(results: Results) -> list[Section]:
    """One section; none for a study that searches nothing, or has no best trial."""
    if not results.ranges or results.best is None:
        return []
    at_edge = [
        field
        for field, searched in results.ranges.items()
        if _is_at_edge(searched, results.trials.at[results.best, field])
    ]
    if results.best == results.default:
        lead = f"The paper's default is the {results.best_name}."
    else:
        lead = f"What trial {results.best}, the {results.best_name}, sets beside the paper."
    if at_edge:
        lead += f" At the edge of its range: {', '.join(at_edge)}; a wider range may hold better values."
    return [Section("settings", "Best hyperparameters", lead, (_table(results, at_edge),))]


def _table(results: Results, at_edge: list[str]) -> Table:
    config = find_defense(results.defense).config_type
    top, first = results.best, results.default
    columns = [number for number in (first, top) if number is not None]
    name = results.best_name
    labels = {first: DEFAULT, top: f"{name} (#{top})"} if top != first else {first: f"{DEFAULT}, the {name}"}
    trials = results.trials.to_dict("index")
    rows = tuple(
        (
            config.symbol(field),
            *(format_value(trials[number][field]) for number in dict.fromkeys(columns)),
            f"{searched}{f', {name} at the edge' if field in at_edge else ''}",
        )
        for field, searched in results.ranges.items()
    )
    header = ("hyperparameter", *(labels[number] for number in dict.fromkeys(columns)), "searched")
    return Table("settings", "", header, rows)


def _is_at_edge(searched: Range, value: Any) -> bool:
    """Whether a value lies at the end of what was searched."""
    if value is None or isinstance(searched, Choice) or searched.high <= searched.low:
        return False
    low, high, at = float(searched.low), float(searched.high), float(value)
    if searched.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    share = (at - low) / (high - low)
    return share <= _EDGE or share >= 1 - _EDGE
