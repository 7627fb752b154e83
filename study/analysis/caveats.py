"""What limits a result whatever it says: flags that are none or too many, and epochs that were cut."""

from collections.abc import Iterable

from study.analysis.compared import DEFAULT, shown_trials
from study.analysis.results import Results
from study.cli.numbers import format_number, listed
from study.config.objectives import CLEAN
from tracking import names

BUDGET = "budget_fraction"
MOST_FLAGGED = 0.5  # a defense that flags more takes most of the data for poison
_NAMED = 3  # scenarios that are named of a trial
_UNPOISONED = "the data unpoisoned"
_Where = dict[str, float]
"""Scenario -> the flagged share."""


def flags_nothing(share: float | None, attack: str) -> bool:
    """Whether nothing is flagged where something should be."""
    return share == 0 and attack.partition(":")[0] != CLEAN


def flags_too_much(share: float | None) -> bool:
    """Whether more than half of the samples is flagged."""
    return share is not None and share > MOST_FLAGGED


def flag_caveats(results: Results) -> list[str]:
    """A sentence each where trials flag nothing, or more than half of the samples; all complete trials count."""
    nothing: dict[int, _Where] = {}
    too_much: dict[int, _Where] = {}
    cells = results.evaluations[results.evaluations["trial"].isin(results.complete.index)]
    for trial, scenario, attack, share in cells[["trial", "scenario", "attack", names.FLAGGED_SHARE]].itertuples(
        index=False
    ):
        if flags_nothing(share, str(attack)):
            nothing.setdefault(int(trial), {})[scenario] = share
        if flags_too_much(share):
            too_much.setdefault(int(trial), {})[scenario] = share
    for trial in results.complete.index:
        share = results.clean_fpr_mean(trial)[0]
        if flags_too_much(share) and share is not None:
            too_much.setdefault(int(trial), {})[_UNPOISONED] = share
    sentences = {"nothing": nothing, "more than half of the samples": too_much}
    return [
        f"{results.defense} flags {what}: {_trials(results, where, shares=where is too_much)}."
        for what, where in sentences.items()
        if where
    ]


def _trials(results: Results, where: dict[int, _Where], shares: bool) -> str:
    """The trials that are shown, with their scenarios; the others by their number."""
    shown = [trial for trial in shown_trials(results) if trial in where]
    parts = [f"{_name(results, trial)} on {_scenarios(where[trial], shares)}" for trial in shown]
    others = len(where) - len(shown)
    if others:
        parts.append(f"{others} {'other ' * bool(shown)}trial{'s' * (others != 1)} of {len(results.complete)}")
    return "; ".join(parts)


def _name(results: Results, trial: int) -> str:
    return f"the {DEFAULT}" if trial == results.default else f"trial {trial}"


def _scenarios(where: _Where, shares: bool) -> str:
    named = [f"{name} ({format_number(share)})" if shares else name for name, share in list(where.items())[:_NAMED]]
    more = len(where) - len(named)
    return listed([*named, *([f"{more} more"] if more else [])])


def budget_caveat(defense: str, fields: Iterable[tuple[str, object]]) -> str:
    """That a defense is trained for a part of its epochs; empty where it is not.

    Args:
        fields: of its Config, that no trial varies.
    """
    fraction = dict(fields).get(BUDGET)
    if not isinstance(fraction, float) or fraction >= 1:
        return ""
    return f"{defense} is run at {100 * fraction:.3g} % of its epochs ({BUDGET} {fraction:g})."
