"""All trials over all searched fields at once: parallel coordinates, and what they reached."""

from typing import Any

from search_spaces.space import Choice, Float, Range
from study.analysis.results import Results
from study.config.objectives import in_words
from study.report.elements import Axis, AxisValue, Parallel, Section
from study.report.sections.axis_ends import axis_ends
from study.scenarios.oracle_defenses import find_defense

_MOST = 400  # lines; more are a grey area


def sections(results: Results) -> list[Section]:
    """One section; none before two trials are complete, or where fewer than two fields are searched."""
    numbers = _drawn(results)
    if len(numbers) < 2 or len(results.ranges) < 2:
        return []
    config = find_defense(results.defense).config_type
    column, objective = results.objective_columns[0], results.goal.objectives[0]
    values = [float(str(results.trials.at[number, column])) for number in numbers]
    axes = [
        _axis(config.symbol(field), own, results.trials.loc[numbers, field]) for field, own in results.ranges.items()
    ]
    low, high = axis_ends(values, least=0.01)
    axes.append(Axis(in_words(objective), (low, high)))
    places = tuple(
        (*(_place(own, results.trials.at[number, field]) for field, own in results.ranges.items()), value)
        for number, value in zip(numbers, values, strict=True)
    )
    special = {results.default: "paper default"}
    special |= {} if results.best == results.default else {results.best: results.best_name}
    marked = tuple((numbers.index(trial), name) for trial, name in special.items() if trial in numbers)
    figure = Parallel(
        name="parallel",
        caption=_caption(results, len(numbers)),
        axes=tuple(axes),
        labels=tuple(f"Trial {number}" for number in numbers),
        places=places,
        good="low" if results.goal.directions[0] == "minimize" else "high",
        marked=marked,
    )
    lead = f"Each trial as a line through its {len(results.ranges)} hyperparameters to its {in_words(objective)}."
    if any(axis.absent for axis in axes):
        lead += " A line passes below an axis whose hyperparameter does nothing in that trial."
    return [Section("parallel", "Hyperparameters of all trials", lead, (figure,), uses_labels=True)]


def _drawn(results: Results) -> list[int]:
    """The complete trials with a value, by number; of too many some, evenly by what they reached."""
    complete = results.complete
    known = complete[complete[results.objective_columns[0]].notna()].sort_values(results.objective_columns[0])
    fields = list(results.ranges)
    whole = [results.conditions.is_whole(results.points[number], fields) for number in known.index]
    numbers = [int(str(number)) for number in known.index[whole]]
    if len(numbers) > _MOST:
        step = len(numbers) / _MOST
        kept = {numbers[int(at * step)] for at in range(_MOST)} | {results.best, results.default}
        numbers = [number for number in numbers if number in kept]
    return sorted(numbers)


def _axis(label: str, searched: Range, values: Any) -> Axis:
    """An axis from end to end of what was searched, or farther where a trial lies outside."""
    drawn = values.dropna()
    absent = len(drawn) < len(values)
    if isinstance(searched, Choice):
        return Axis(label, tuple(dict.fromkeys([*map(str, searched.options), *map(str, drawn)])), absent=absent)
    low, high = min([float(searched.low), *map(float, drawn)]), max([float(searched.high), *map(float, drawn)])
    log = searched.log and low > 0
    whole = not isinstance(searched, Float)
    return Axis(label, (round(low), round(high)) if whole else (low, high), log, absent)


def _place(searched: Range, value: Any) -> AxisValue | None:
    if value is None:
        return None
    return str(value) if isinstance(searched, Choice) else float(value)


def _caption(results: Results, drawn: int) -> str:
    total = len(results.complete)
    some = f" {drawn} of {total} trials, spread evenly over what they reached." if drawn < total else ""
    return f"The stronger a line, the better the trial by {in_words(results.goal.objectives[0])}.{some}"
