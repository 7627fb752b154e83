"""What robustness costs: the best single configuration over all attacks beside each attack's own best."""

from typing import TYPE_CHECKING

import numpy as np

from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import direction
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
    sign = -1 if direction(objective) == "minimize" else 1
    single, default = results.best, results.default
    assert single is not None  # some cell of a complete trial counts, so some trial has a value
    by_stratum = cells.groupby(["stratum", "trial"], sort=False)[objective].mean()
    rows: list[tuple[Cell, ...]] = []
    costs = {}
    for stratum, means in by_stratum.groupby(level="stratum", sort=False):
        of = means.droplevel("stratum")
        own = _best(sign * of.sort_index())
        costs[str(stratum)] = sign * float(of[own] - of[single]) if single in of.index else 0.0
        shown = [*((at, "paper default") for at in (default,) if at is not None), (single, f"best single (#{single})")]
        for trial, label in [*shown, (own, f"its own best (#{own})")]:
            part = cells[(cells["stratum"] == stratum) & (cells["trial"] == trial)]
            cost = sign * float(of[own] - of[trial]) if trial in of.index else None
            rows.append(
                (str(stratum), label, *(spread(part[name]) for name in (objective, *_columns(objective))), cost)
            )
    caption = f"By attack and rate, mean over seeds{' ± standard deviation' if len(results.seeds) > 1 else ''}"
    header = ("attack and rate", "configuration", objective, *_columns(objective), "cost")
    worst = max(costs, key=lambda name: costs[name])
    lead = (
        f"The best single configuration (#{single}) gives up {format_number(sum(costs.values()) / len(costs))} of "
        f"{objective} on average against each attack's own best, at most {format_number(costs[worst])} ({worst})."
    )
    return Section(
        "robustness", title, lead, (*_notes(results), Table("robustness", caption, header, tuple(rows), 2)), command
    )


def _best(values: "pandas.Series[float]") -> int:
    """The trial with the highest value; of equals the first."""
    return int(values.index[int(np.argmax(values.to_numpy(float)))])


def _columns(objective: str) -> tuple[str, ...]:
    return tuple(name for name in names.HEADLINE if name != objective)


def _notes(results: Results) -> list[Note]:
    several = ", the first of several objectives" if len(results.goal.objectives) > 1 else ""
    objective = results.goal.objectives[0]
    found = [
        Note(
            f"Chosen by {objective}{several}, an oracle that a defender does not have, on the same scenarios that are "
            "shown: an own best of few seeds is flattered. The cost is what a configuration gives up against the own "
            f"best. The single one is the best by the {results.goal.how} over all scenarios."
        )
    ]
    if len(results.seeds) == 1:
        found.append(
            Note("One seed only: differences that another seed would undo cannot be told from others.", "warning")
        )
    if len(results.complete) == 1:
        found.append(Note("A single trial is complete: it is its own best everywhere, which says nothing.", "warning"))
    return found
