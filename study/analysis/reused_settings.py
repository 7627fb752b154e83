"""Nested designs: what can be said of fields of which a study tried a few settings, shared by many trials.

Settings are drawn as the space is and come equally often, each beside other fields that are drawn freely: a metric's
variance over trials then splits without bias into what settings explain and what the other fields do. Which field of a
setting it is takes as many settings as there are trials needed elsewhere; with fewer they count as one hyperparameter.
"""

import dataclasses

from search_spaces.space import Choice, Range
from study.analysis.results import Results
from study.config.sampling import LEAST_TRIALS
from study.planning.field_costs import expensive_fields
from study.scenarios.oracle_defenses import find_defense

SETTINGS = "first training"
"""The name of the fields that settings are made of, where they count as one hyperparameter."""


def grouped_fields(results: Results) -> tuple[str, ...]:
    """The fields that count as one, since too few settings of them were tried; none where each counts by itself."""
    if results.config.reuse is None:
        return ()
    fields = expensive_fields(results.ranges, find_defense(results.defense), results.config.until)
    varied = [name for name in fields if results.space_filling_trials[name].nunique() > 1]
    settings = len(results.space_filling_trials[varied].drop_duplicates()) if varied else 0
    return tuple(varied) if len(varied) > 1 and settings < LEAST_TRIALS * len(varied) else ()


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
