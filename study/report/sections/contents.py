"""All that is told of a study, in the order for readers."""

from study.analysis.results import Results
from study.report.elements import Section
from study.report.sections import (
    ablations,
    against_papers,
    costs,
    failures,
    heatmap,
    holdout,
    label_free,
    pareto,
    reproduce,
    summary,
)
from study.report.sections.curves import curves_section
from study.report.sections.importance import importance_section, importances
from study.report.sections.interactions import interactions_section
from study.report.sections.region import region_section
from study.report.sections.robustness import robustness_section


def sections(results: Results) -> list[Section]:
    """Everything, for the report."""
    return [*_headline(results), *_looks(results), *answers(results), *_ends(results)]


def answers(results: Results) -> list[Section]:
    """What a study says about hyperparameters, for the terminal; a topic that it cannot speak to says so and why.

    An ablation asks one question, and its own table is the answer: its few points are not asked what matters.
    """
    told = label_free.section(results)
    chosen = [robustness_section(results), *([told] if told else [])]
    if results.space in ablations.VIEWS:
        return [*chosen, region_section(results)]
    computed = importances(results)
    return [
        *chosen,
        importance_section(results, computed),
        curves_section(results),
        interactions_section(results, computed),
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
    beside = against_papers.section(results, results.space)
    return [*ablations.sections(results), *([beside] if beside else [])]


def _headline(results: Results) -> list[Section]:
    return [*summary.sections(results), *unseen(results), *papers(results)]


def _looks(results: Results) -> list[Section]:
    return [*heatmap.sections(results), *pareto.sections(results)]


def _ends(results: Results) -> list[Section]:
    return [section for topic in (costs, failures, reproduce) for section in topic.sections(results)]
