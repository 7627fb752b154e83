"""The first screen: what a study found in one sentence, three numbers, the table, and what can be had together."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search_spaces import SEARCH_SPACES
from study.analysis.compared import ComparedConfiguration, compared_configurations
from study.analysis.failed_runs import FAILED_RUNS, RULE, count_failed, shows_failed
from study.analysis.finding import find
from study.analysis.fixed_fields import default_in_words
from study.analysis.result_tables import INTERRUPTED
from study.analysis.results import Results
from study.cli.numbers import format_number, format_objective, several
from study.config.objectives import in_words, meaning
from study.ledger.lock import holder
from study.planning.clean_reserve import needs_text
from study.report.elements import Cell, Fact, Facts, Item, Note, Section, Table
from study.report.formatting import spread_cell
from study.report.screen import without_empty_columns
from study.report.sections import control_and_cost
from study.report.sections.front_table import front_table, shown_metrics
from study.report.sections.trade_off import trade_off
from study.report.study_names import distinct_names
from study.scenarios.untold import untold
from tracking import names

if TYPE_CHECKING:
    import pandas

_NAMED = 4  # attacks that are named beside their number
TERMS = {
    names.TPR: "TPR: share of the poisoned training images that are flagged (1 is best)",
    names.FPR: "FPR: share of the benign training images that are flagged (0 is best)",
    names.AUROC: "AUROC: chance that a poisoned image scores higher than a benign one",
    names.CA: "CA: accuracy on clean test images",
    names.ASR: "ASR: share of test images with the trigger that get the attacker's label (0 is best)",
}
"""What the metrics mean, for the line below a page's first table."""


def sections(results: Results, headline: Section | None = None) -> list[Section]:
    """One section, the front page.

    Args:
        headline: the answer of a study that asks a question of its own (an ablation, a hold-out): its first table
            stands here in place of attacks by configurations.
    """
    finding = find(results)
    compared = compared_configurations(results)
    of_headline = None if headline is None else next((i for i in headline.items if isinstance(i, Table)), None)
    items: list[Item] = [Note(text, "footnote") for text in (*_of_state(results), *finding.caveats)]
    items += [Note(text, "footnote") for text in untold_lines(results)]
    items.append(_facts(results, finding.gain))
    if of_headline is not None:
        items.append(dataclasses.replace(of_headline, name="outcome"))
    elif headline is None:
        items.append(front_table(results, compared))
    beside = control_and_cost.table({"": results})
    shown = None if beside is None else without_empty_columns(beside)
    items += [] if shown is None else [shown]
    meant = "" if shown is None else f" {control_and_cost.terms(shown.header)}"
    items.append(Note(f"{_terms(results, compared)}{meant}", "footnote"))
    figure = trade_off(results) if headline is None else None
    items += [figure] if figure is not None else []
    lead = headline.lead if headline is not None and results.config.holdout else finding.sentence
    return [Section("summary", "Summary", lead, tuple(items), uses_labels=True)]


def overview(studies: Sequence[Results]) -> Section:
    """Several studies, a row each."""
    metrics = tuple(map(in_words, names.HEADLINE))
    beside = (in_words(names.FPR_CLEAN), *control_and_cost.COST_HEADER)
    told = any(shows_failed(results, _runs_of_trials(results)) for results in studies)
    lost = (FAILED_RUNS,) if told else ()
    over = " / over repeats on the same poisoned data" * any(results.repeats > 1 for results in studies)
    header = ("study", "configuration", *metrics, *lost, *beside, "trials", "attack works", "defense", "preset")
    rows: list[tuple[Cell, ...]] = []
    for name, results in zip(distinct_names([one.folder for one in studies]), studies, strict=True):
        scenarios = results.over_repeats.scenarios
        works = f"{int((~scenarios['attack_failed']).sum())} of {len(scenarios)}"
        needs = needs_text(SEARCH_SPACES[results.space], results.config)
        defense = f"{results.defense} ({needs})" if needs else results.defense
        about = (len(results.complete), works, defense, str(results.config.preset))
        for one in compared_configurations(results):
            if one.trial is not None:
                cells = [
                    spread_cell(one.mean(of), one.deviation(of), one.repeat_deviation(of), len(results.seeds) > 1)
                    for of in names.HEADLINE
                ]
                cells += [count_failed(one.counted).text] if told else []
                rows.append((name, one.label, *cells, *control_and_cost.cells(results, one.trial), *about))
    return Section(
        "overview",
        "Side by side",
        f"{len(studies)} studies: means over the scenarios whose attack works, ± the standard deviation over "
        f"seeds{over}. "
        "Studies with other scenarios or presets do not compare.",
        (
            Table("overview", "", header, tuple(rows), left=2),
            Note(f"{_words(names.HEADLINE)} {control_and_cost.terms(header)}", "footnote"),
        ),
        uses_labels=True,
    )


def _facts(results: Results, gain: float | None) -> Facts:
    """Three numbers: what was reached, where it counts, and how much was tried."""
    scenarios, config = results.over_repeats.scenarios, results.config
    working = int((~scenarios["attack_failed"]).sum())
    states = results.trials["state"].value_counts()
    others = [f"{int(states[state])} {word}" for state, word in _OTHER_STATES.items() if state in states]
    attacks = list(dict.fromkeys(str(name).partition(":")[0] for name in scenarios["attack"]))
    named = ", ".join(attacks) if len(attacks) <= _NAMED else f"{len(attacks)} attacks"
    seeds = len(results.seeds)
    repeats = [f"{results.repeats} repeats"] if results.repeats > 1 else []
    tried = [
        several(seeds, "seed"),
        *repeats,
        f"sampler {config.sampler}",
        f"preset {config.preset}",
        *others,
    ]
    return Facts(
        (
            _best_fact(results, gain),
            Fact(f"{working} of {len(scenarios)}", "scenarios whose attack works without a defense", named),
            Fact(str(len(results.complete)), "trials complete", ", ".join(tried)),
        )
    )


_OTHER_STATES = {"pruned": "stopped early", "fail": "failed", "running": "running", INTERRUPTED: INTERRUPTED}


def _best_fact(results: Results, gain: float | None) -> Fact:
    """What the best trial reaches, and what it gains."""
    goal, best, default = results.goal, results.best, results.default
    if best is None:
        return Fact("-", goal.words, "no trial has a value")

    def values(trial: int) -> str:
        reached = [float(str(results.trials.at[trial, name])) for name in results.objective_columns]
        return format_objective(reached[0]) if len(reached) == 1 else ", ".join(map(format_number, reached))

    if best == default:
        return Fact(values(best), goal.words, f"of {default_in_words(results)}, the {results.best_name}")
    of_trial = f"of trial {best}, the {results.best_name}"
    if default is None:
        return Fact(values(best), goal.words, of_trial)
    beside = f"{format_number(gain)} better than the paper's default" if gain else "the paper's default"
    return Fact(values(best), goal.words, f"{of_trial}; {beside}{',' if gain else ' has'} {values(default)}")


def _terms(results: Results, compared: Sequence[ComparedConfiguration]) -> str:
    """What the words on this page mean."""
    goal = results.goal
    scores = [f" The {in_words(name)} is {meaning(name)}." for name in goal.objectives if meaning(name)]
    return (
        f"{_words(shown_metrics(compared))}{''.join(scores)} A scenario is one attack at one poison rate with one "
        "seed; a trial is one setting of the hyperparameters on all scenarios; the preset sets the scale (here "
        f"{results.config.dataset}).{_repeat_terms(results)}"
    )


def _runs_of_trials(results: Results) -> "list[pandas.DataFrame]":
    """The runs of each trial that is compared."""
    return [one.counted for one in compared_configurations(results) if one.trial is not None]


def _repeat_terms(results: Results) -> str:
    """What a repeat and a failed run are, where the page tells of them."""
    told = f" A run has failed with {RULE}." if shows_failed(results, _runs_of_trials(results)) else ""
    return " A repeat is one more training on the same poisoned data, with other seeds." * (results.repeats > 1) + told


def _words(metrics: Sequence[str]) -> str:
    return "; ".join(TERMS[name] for name in metrics) + "."


def untold_lines(results: Results) -> list[str]:
    """What the files of given sets do not tell, and on which scenarios."""
    lines: dict[str, list[str]] = {}
    for name, cell in results.evaluations.groupby("scenario", sort=False).first().iterrows():
        metrics = {metric: None if math.isnan(cell[metric]) else float(cell[metric]) for metric in names.METRICS}
        for line in untold(str(cell["attack"]), metrics):
            lines.setdefault(line, []).append(str(name))
    return [f"{', '.join(scenarios)}: {line}" for line, scenarios in lines.items()]


def _of_state(results: Results) -> list[str]:
    """Whether the study is whole."""
    planned, finished = results.manifest.planned, results.trials["state"].isin(["complete", "pruned", "fail"])
    done = int(finished.sum())
    if holder(results.folder) not in (None, str(os.getpid())):  # this process writes the report as its last act
        return [f"The study is being run now: {done} of {planned} trials have finished, and these are shown."]
    running = int((results.trials["state"] == "running").sum())
    texts = []
    if running or (isinstance(planned, int) and done < planned and results.config.sampler != "grid"):
        texts.append(
            f"The study was stopped after {done} of {planned} trials; the command under Reproduce goes on with it."
        )
    if results.damaged:
        texts.append(f"{len(results.damaged)} files of results cannot be read and are left out; see the failures.")
    return texts
