"""The report's own topics, in the order in which they are read."""

from study.answers import costs, failures, fronts, heat, reproduce, summary
from study.answers.page import Section
from study.answers.results import Results


def first(results: Results) -> list[Section]:
    """What comes before all other answers."""
    return [section for topic in (summary, heat, fronts) for section in topic.sections(results)]


def last(results: Results) -> list[Section]:
    """What comes behind them."""
    return [section for topic in (costs, failures, reproduce) for section in topic.sections(results)]


def sections(results: Results) -> list[Section]:
    """All of them."""
    return [*first(results), *last(results)]
