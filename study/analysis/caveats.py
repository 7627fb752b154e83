"""What limits a result whatever it says: flags that are none or too many, and epochs that were cut."""

from collections.abc import Iterable, Mapping
from typing import Any

from study.analysis.compared import DEFAULT, shown_trials
from study.analysis.results import Results
from study.cli.numbers import format_number, format_value, listed, several
from study.config.objectives import CLEAN, is_clean
from tracking import names

BUDGET = "budget_fraction"
MOST_FLAGGED = 0.5  # a defense that flags more takes most of the data for poison
_NAMED = 3  # scenarios that are named of a trial
_SET = 6  # fields that are named of those that the user set
_UNPOISONED = "the data unpoisoned"
_Where = dict[str, float]
"""Scenario -> the flagged share."""


def flags_nothing(share: float | None, attack: str) -> bool:
    """Whether nothing is flagged where something should be."""
    return share == 0 and not is_clean(attack)


def flags_too_much(share: float | None) -> bool:
    """Whether more than half of the samples is flagged."""
    return share is not None and share > MOST_FLAGGED


def flag_caveats(results: Results) -> list[str]:
    """A sentence each where trials flag nothing, or more than half of the samples; all complete trials count."""
    nothing: dict[int, _Where] = {}
    too_much: dict[int, _Where] = {}
    cells = results.evaluations[results.evaluations["trial"].isin(results.complete.index)]
    shares = cells[["trial", "scenario", "attack", names.FLAGGED_SHARE]].itertuples(index=False)
    runs = [(int(trial), str(scenario), str(attack), share) for trial, scenario, attack, share in shares]
    if not any(is_clean(attack) for _, _, attack, _ in runs):  # else they are the control
        controls = {trial: results.clean_fpr.get(trial, {}) for trial in map(int, results.complete.index)}
        runs += [(at, f"{_UNPOISONED}, seed {seed}", CLEAN, of[seed]) for at, of in controls.items() for seed in of]
    for trial, scenario, attack, share in runs:
        if flags_nothing(share, attack):
            nothing.setdefault(trial, {})[scenario] = share
        if flags_too_much(share):
            too_much.setdefault(trial, {})[scenario] = share
    poisoned = sum(not is_clean(attack) for _, _, attack, _ in runs)
    sentences = (("nothing", nothing, poisoned), ("more than half of the samples", too_much, len(runs)))
    return [
        f"{results.defense} flags {what} in {sum(map(len, where.values()))} of {several(total, 'run')}: "
        f"{_trials(results, where, shares=where is too_much)}."
        for what, where, total in sentences
        if where
    ]


def _trials(results: Results, where: dict[int, _Where], shares: bool) -> str:
    """The trials that are shown, with their scenarios; the others by their number."""
    shown = [trial for trial in shown_trials(results) if trial in where]
    parts = [f"{_name(results, trial)} on {_scenarios(where[trial], shares)}" for trial in shown]
    others = len(where) - len(shown)
    if others:
        count = several(others, f"{'other ' * bool(shown)}trial")
        parts.append(f"{count} of {len(results.complete)} on at least one scenario")
    return "; ".join(parts)


def _name(results: Results, trial: int) -> str:
    return f"the {DEFAULT}" if trial == results.default else f"trial {trial}"


def _scenarios(where: _Where, shares: bool) -> str:
    named = [f"{name} ({format_number(share)})" if shares else name for name, share in list(where.items())[:_NAMED]]
    more = len(where) - len(named)
    return listed([*named, *([f"{more} more"] if more else [])])


def set_caveat(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """That what is called the paper's default is not the paper's in fields that the user set; empty where it is.

    Args:
        changed: field -> the value of all trials, and the paper's.
    """
    if not changed:
        return ""
    told = [f"{name} {format_value(here)} (paper {format_value(paper)})" for name, (here, paper) in changed.items()]
    more = [f"{len(told) - _SET} more"] if len(told) > _SET else []
    values = listed([*told[:_SET], *more])
    return f"Every trial, the {DEFAULT} too, has values of --set that are not the paper's: {values}."


def budget_caveat(defense: str, fields: Iterable[tuple[str, object]]) -> str:
    """That a defense is trained for a part of its epochs; empty where it is not.

    Args:
        fields: of its Config, that no trial varies.
    """
    fraction = dict(fields).get(BUDGET)
    if not isinstance(fraction, float) or fraction >= 1:
        return ""
    return f"{defense} is run at {100 * fraction:.3g} % of its epochs ({BUDGET} {fraction:g})."
