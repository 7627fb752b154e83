"""The study: datasets, attacks, scenarios, search, judgement. The only package that knows ground truth."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.notebook import load_study

__all__ = ["load_study"]


def __getattr__(name: str) -> Any:
    """`load_study` when it is asked for: the commands that import this package need none of what it loads.

    Raises:
        AttributeError: there is no such name.
    """
    if name != "load_study":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from study.notebook import load_study

    return load_study
