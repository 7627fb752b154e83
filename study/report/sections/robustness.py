"""What robustness costs: the best single configuration over all attacks beside each attack's own best."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from study.analysis.failed_runs import FAILED_RUNS, count_failed, shows_failed
from study.analysis.repeats import spread_of_runs
from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import direction, in_words
from study.ledger.selection import Candidate, best_per_scenario
from study.report.elements import Cell, Item, Note, Section, Table
from study.report.formatting import over_what, sentence, spread_cell
from tracking import names

if TYPE_CHECKING:
    import pandas

_SAME = 1e-12  # a difference below it is rounding


def robustness_section(results: Results) -> Section:
    """The answer. Needs no trials that fill the space: any sampler will do."""
    title = "One configuration for all attacks, and what that costs"
    command = results.command_for("analyze")
    objective, merged = results.goal.objectives[0], results.over_repeats
    cells = merged.compared[merged.compared[objective].notna()]
    if cells.empty:
        undefined = f"{sentence(in_words(objective))} is defined on no scenario whose attack works."
        no_attack = f"No attack works, so no {in_words(objective)} counts."
        why = undefined if len(results.compared) else no_attack
        why = "No trial is complete." if results.complete.empty else why
        return Section("robustness", title, why, (), command, answered=False)
    if len(results.complete) == 1:
        why = "A single trial is complete: it is its own best everywhere, which says nothing."
        return Section("robustness", title, why, (), command, answered=False)
    single, default = results.best, results.default
    assert single is not None  # some cell of a complete trial counts, so some trial has a value
    label = "best single" if len(results.goal.objectives) == 1 else results.best_name
    shown = [*((at, "paper default") for at in (default,) if at is not None), (single, f"{label} (#{single})")]
    runs, seeds = results.compared, len(results.seeds)
    own_bests = _own_bests(results, cells)
    numbers = {trial for trial, _ in shown} | {own for own, _ in own_bests.values()}
    told = shows_failed(results, [runs[runs["trial"] == trial] for trial in numbers])
    rows: list[tuple[Cell, ...]] = []
    costs: dict[str, float] = {}
    for stratum, (own, given_up) in own_bests.items():
        costs |= {stratum: given_up[single]} if single in given_up else {}
        if single in given_up and abs(given_up[single]) <= _SAME:
            own = single  # another trial that reaches the same is no better
        for trial, configuration in [*shown, (own, f"its own best (#{own})")]:
            part = runs[(runs["stratum"] == stratum) & (runs["trial"] == trial)]
            spreads = [spread_of_runs(part, name) for name in (objective, *_columns(objective))]
            reached = [spread_cell(one.mean, one.poisonings, one.repeats, seeds > 1) for one in spreads]
            lost = (count_failed(part).text,) if told else ()
            rows.append((stratum, configuration, *reached, *lost, given_up.get(trial)))
    over = over_what(seeds, results.repeats)
    usual = f"mean over seeds{' ± standard deviation' if seeds > 1 else ''}"
    caption = f"By attack and rate, {usual if results.repeats == 1 else over[:1].lower() + over[1:]}"
    shown_metrics = map(in_words, (objective, *_columns(objective)))
    header = ("attack and rate", "configuration", *shown_metrics, *((FAILED_RUNS,) if told else ()), "cost")
    items: tuple[Item, ...] = (Table("robustness", caption, header, tuple(rows), 2), *_notes(results))
    return Section("robustness", title, _lead(results, single, costs), items, command, uses_labels=True)


def _lead(results: Results, single: int, costs: Mapping[str, float]) -> str:
    """What the one configuration gives up against each attack's own best, by attack and rate."""
    name = in_words(results.goal.objectives[0])
    what = "best single configuration" if len(results.goal.objectives) == 1 else results.best_name
    if not costs:
        return f"The {what} (#{single}) has no {name} on any attack, so it gives up nothing that can be told."
    if len(costs) == 1:
        if next(iter(costs.values())) <= _SAME:
            return f"Only one attack at one rate counts, so the {what} (#{single}) is its own best."
        return f"Only one attack at one rate counts; by {name} alone another trial than the {what} (#{single}) is best."
    if max(map(abs, costs.values())) <= _SAME:
        return f"One configuration, trial {single}, is as good as each attack's own best, by {name}."
    worst = max(costs, key=lambda stratum: costs[stratum])
    mean = sum(costs.values()) / len(costs)
    if costs[worst] <= _SAME:
        return f"The {what} (#{single}) is at least as good as each attack's own best, by {name}."
    return (
        f"The {what} (#{single}) gives up {format_number(mean)} of {name} on average against each attack's own best, "
        f"at most {format_number(costs[worst])} ({worst})."
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
    seeds = "" if results.goal.how == "mean" else ", each by its worst seed"
    first = in_words(results.goal.objectives[0])
    if len(results.goal.objectives) == 1:
        chosen, single = f"Chosen by {first}", f"best by the {results.goal.how} over all scenarios"
    else:
        chosen = f"Own bests are chosen by {first}, the first of several objectives"
        single = f"knee of the Pareto front of {results.goal.words}; by the other objectives it may beat an own best"
    notes = [
        f"{chosen}, on the same scenarios that are shown: an own best of few seeds is flattered. The cost is what a "
        f"configuration gives up against the own best{seeds}. The single one is the {single}."
    ]
    if len(results.seeds) == 1:
        notes.append("One seed only: differences that another seed would undo cannot be told from others.")
    return [Note(text, "footnote") for text in notes]
