"""All that is told of a study, in the order for readers."""

import dataclasses

from study.analysis.results import Results
from study.report.elements import Section, Table
from study.report.sections import (
    ablations,
    against_papers,
    costs,
    failures,
    heatmap,
    history,
    holdout,
    label_free,
    parallel,
    pareto,
    pictures,
    reported_elsewhere,
    reproduce,
    settings,
    studied,
    summary,
    trials,
)
from study.report.sections.curves import curves_section
from study.report.sections.importance import importance_section, importances
from study.report.sections.interactions import interactions_section
from study.report.sections.region import region_section
from study.report.sections.repeat_noise import noise_notes
from study.report.sections.robustness import robustness_section


def sections(results: Results) -> list[Section]:
    """Everything, for the report. The first is the front page.

    What compares settings reads the means over repeats; the front page, and what tells of runs, reads each of them. An
    ablation asks one question: its own table is the front page's, and nothing is told of a search.
    """
    asked = [*unseen(results), *papers(results)]
    front = summary.sections(results, asked[0] if asked else None)
    asked[:1] = [rest for section in asked[:1] if (rest := _beside_front(results, section)).items]
    if results.space in ablations.VIEWS:
        body = [*asked, trials.section(results), *pictures.sections(results.over_repeats)]
    else:
        beside = reported_elsewhere.section([results.over_repeats])
        body = [*asked, *_trials(results), *_looks(results), *answers(results), *([beside] if beside else [])]
    return [*front, *body, *_ends(results)]


def _beside_front(results: Results, section: Section) -> Section:
    """What is left of a section whose first table, and whose lead in a hold-out, stand on the front page."""
    first = next((item for item in section.items if isinstance(item, Table)), None)
    lead = "How the table above came about, and what limits it." if results.config.holdout else section.lead
    return dataclasses.replace(section, lead=lead, items=tuple(item for item in section.items if item is not first))


def answers(results: Results) -> list[Section]:
    """What a study says about hyperparameters, for the terminal; a topic that it cannot speak to says so and why.

    An ablation asks one question, and its own table is the answer: its few points are not asked what matters.
    """
    merged = results.over_repeats
    told = label_free.section(merged)
    chosen = [robustness_section(results), *([told] if told else [])]
    if results.space in ablations.VIEWS:
        return [*chosen, region_section(results)]
    computed = importances(merged)
    return [
        *chosen,
        importance_section(merged, computed, noise_notes(results)),
        curves_section(merged),
        interactions_section(merged, computed),
        region_section(results),
    ]


def unseen(results: Results) -> list[Section]:
    """The headline of a study that holds out; of any other nothing."""
    by = results.config.holdout
    return [holdout.section(results, results.holdout_results, by)] if by and results.holdout_results is not None else []


def papers(results: Results) -> list[Section]:
    """An ablation's table or figure, and the paper's numbers beside ours; of any other study nothing."""
    if results.space not in ablations.VIEWS:
        return []
    beside = against_papers.section(results.over_repeats, results.space)
    return [*ablations.sections(results), *([beside] if beside else [])]


def _trials(results: Results) -> list[Section]:
    return [
        *settings.sections(results),
        *history.sections(results),
        *parallel.sections(results),
        trials.section(results),
    ]


def _looks(results: Results) -> list[Section]:
    merged = results.over_repeats
    return [*pictures.sections(merged), *heatmap.sections(merged), *pareto.sections(merged)]


def _ends(results: Results) -> list[Section]:
    topics = [section for topic in (costs, failures, reproduce) for section in topic.sections(results)]
    return [*topics, studied.section(results)]
