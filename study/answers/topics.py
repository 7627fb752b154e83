"""All that is told of a study, in the order for readers."""

from study.answers.curves import curves_section
from study.answers.importance import importance_section, importances
from study.answers.interactions import interactions_section
from study.answers.page import Section
from study.answers.region import region_section
from study.answers.results import Results
from study.answers.robustness import robustness_section


def sections(results: Results) -> list[Section]:
    """Every topic; one that a study cannot speak to says so and why."""
    found = importances(results)
    return [
        robustness_section(results),
        importance_section(results, found),
        curves_section(results),
        interactions_section(results, found),
        region_section(results),
    ]
