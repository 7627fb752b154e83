"""Fields that start a training, of which many trials share a setting: what can be said of them, and of which not.

Trials of one setting share its training, and with it the training's luck: of such a field there are as many
independent observations as settings, however many trials. In a nested design (`--reuse`) settings are drawn as the
space is and come equally often, each beside other fields that are drawn freely: a metric's variance over trials then
splits without bias into what settings explain and what the other fields do. Which field of a setting it is, and what
is luck, takes as many settings as there are trials needed elsewhere; with fewer they count as one hyperparameter.
"""

import dataclasses
from typing import TYPE_CHECKING

from search_spaces.space import Choice, Range
from study.analysis.results import Results
from study.planning.field_costs import expensive_fields
from study.scenarios.oracle_defenses import find_defense

if TYPE_CHECKING:
    import pandas

SETTINGS = "first training"
"""The name of the fields that settings are made of, where they count as one hyperparameter."""
LEAST_SETTINGS = 40
"""For each of these fields: with as many trials a share was wrong by 0.07 at most (`importances.ERRORS`)."""


def shared_fields(results: Results) -> tuple[str, ...]:
    """The varied fields that start a training which others follow, where trials share settings of them."""
    trials = results.space_filling_trials
    fields = expensive_fields(results.ranges, find_defense(results.defense), results.config.until)
    varied = tuple(name for name in fields if trials[name].nunique() > 1)
    return varied if varied and setting_numbers(results, varied).nunique() < len(trials) else ()


def setting_numbers(results: Results, fields: tuple[str, ...]) -> "pandas.Series[int]":
    """By trial that fills the space, which setting of some fields it has, from 0 on; 0 of no fields."""
    trials = results.space_filling_trials
    if not fields:
        return trials.index.to_series().map(lambda _: 0)
    return trials.groupby([*fields], sort=False, dropna=False).ngroup()


def grouped_fields(results: Results) -> tuple[str, ...]:
    """The fields that count as one, since too few settings of them were drawn; none where each counts by itself."""
    fields = shared_fields(results) if results.config.reuse is not None else ()
    few = fields and setting_numbers(results, fields).nunique() < LEAST_SETTINGS * len(fields)
    return fields if few else ()


def group_reused(results: Results) -> Results:
    """The results with such fields as one, whose values number the settings; the same where there are none."""
    fields = grouped_fields(results)
    if not fields:
        return results
    numbers = results.trials.groupby([*fields], sort=False, dropna=False).ngroup() + 1
    named = numbers.map(lambda number: f"setting {number}")
    drawn = named.loc[results.space_filling_trials.index]
    why = "the settings of the fields that start a training"
    ranges: dict[str, Range] = {SETTINGS: Choice(tuple(dict.fromkeys(drawn.tolist())), why)}
    ranges |= {name: own for name, own in results.ranges.items() if name not in fields}
    trials = results.trials.assign(**{SETTINGS: named})
    return dataclasses.replace(results, ranges=ranges, trials=trials)
