"""What robustness costs: the best single configuration over all attacks beside each attack's own best."""

from typing import TYPE_CHECKING

from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import direction
from study.ledger.selection import Candidate, best_per_scenario
from study.report.elements import Cell, Note, Section, Table
from study.report.formatting import spread
from tracking import names

if TYPE_CHECKING:
    import pandas


def robustness_section(results: Results) -> Section:
    """The answer. Needs no trials that fill the space: any sampler will do."""
    title = "One configuration for all attacks, and what that costs"
    command = f"python -m study.analyze {results.name}"
    objective = results.goal.objectives[0]
    cells = results.compared[results.compared[objective].notna()]
    if cells.empty:
        why = "no trial is complete" if results.complete.empty else f"no attack works, so no {objective} counts"
        note = Note(f"No comparison: {why}.", "warning")
        return Section("robustness", title, "This study cannot tell.", (note,), command)
    single, default = results.best, results.default
    assert single is not None  # some cell of a complete trial counts, so some trial has a value
    label = "best single" if len(results.goal.objectives) == 1 else results.best_name
    shown = [*((at, "paper default") for at in (default,) if at is not None), (single, f"{label} (#{single})")]
    rows: list[tuple[Cell, ...]] = []
    costs: dict[str, float] = {}
    for stratum, (own, given_up) in _own_bests(results, cells).items():
        costs[stratum] = given_up.get(single, 0.0)
        for trial, configuration in [*shown, (own, f"its own best (#{own})")]:
            part = cells[(cells["stratum"] == stratum) & (cells["trial"] == trial)]
            reached = [spread(part[name]) for name in (objective, *_columns(objective))]
            rows.append((stratum, configuration, *reached, given_up.get(trial)))
    caption = f"By attack and rate, mean over seeds{' ± standard deviation' if len(results.seeds) > 1 else ''}"
    header = ("attack and rate", "configuration", objective, *_columns(objective), "cost")
    worst = max(costs, key=lambda name: costs[name])
    what = "best single configuration" if len(results.goal.objectives) == 1 else results.best_name
    lead = (
        f"The {what} (#{single}) gives up {format_number(sum(costs.values()) / len(costs))} of {objective} on "
        f"average against each attack's own best, at most {format_number(costs[worst])} ({worst})."
    )
    return Section(
        "robustness", title, lead, (*_notes(results), Table("robustness", caption, header, tuple(rows), 2)), command
    )


def _own_bests(results: Results, cells: "pandas.DataFrame") -> dict[str, tuple[int, dict[int, float]]]:
    """Attack and rate -> its own best trial, and what each trial gives up against it.

    By the first objective, over the seeds as the study puts scenarios together (their mean, or the worst).

    Args:
        cells: what counts, with a value of the objective each.
    """
    objective, worst = results.goal.objectives[0], results.goal.how == "worst"
    lowest = direction(objective) == "minimize"
    grouped = cells.groupby(["stratum", "trial"], sort=False)[objective]
    over_seeds = grouped.mean() if not worst else grouped.max() if lowest else grouped.min()
    reached: dict[int, dict[str, float]] = {}
    for stratum, trial, value in over_seeds.reset_index().itertuples(index=False):
        reached.setdefault(int(trial), {})[str(stratum)] = float(value)
    candidates = [
        Candidate(trial, "complete", scenarios={name: (value,) for name, value in of_trial.items()})
        for trial, of_trial in reached.items()
    ]
    sign = -1 if lowest else 1
    own_bests = {}
    for stratum, own in best_per_scenario(candidates, direction(objective), cells["stratum"].unique()).items():
        best = reached[own][stratum]
        costs = {trial: sign * (best - of_trial[stratum]) for trial, of_trial in reached.items() if stratum in of_trial}
        own_bests[stratum] = own, costs
    return own_bests


def _columns(objective: str) -> tuple[str, ...]:
    return tuple(name for name in names.HEADLINE if name != objective)


def _notes(results: Results) -> list[Note]:
    objective, seeds = results.goal.objectives[0], "" if results.goal.how == "mean" else ", each by its worst seed"
    if len(results.goal.objectives) == 1:
        chosen, single = f"Chosen by {objective}", f"best by the {results.goal.how} over all scenarios"
    else:
        chosen = f"Own bests are chosen by {objective}, the first of several objectives"
        single = f"knee of the Pareto front of {results.goal.text}; by the other objectives it may beat an own best"
    notes = [
        Note(
            f"{chosen}, an oracle that a defender does not have, on the same scenarios that are "
            "shown: an own best of few seeds is flattered. The cost is what a configuration gives up against the own "
            f"best{seeds}. The single one is the {single}."
        )
    ]
    if len(results.seeds) == 1:
        notes.append(
            Note("One seed only: differences that another seed would undo cannot be told from others.", "warning")
        )
    if len(results.complete) == 1:
        notes.append(Note("A single trial is complete: it is its own best everywhere, which says nothing.", "warning"))
    return notes
