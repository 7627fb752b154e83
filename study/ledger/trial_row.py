"""A trial as the ledger tells it, and what became of it as the ledger is told."""

from dataclasses import dataclass
from typing import Any

from study.ledger.pruning import Stopped

Outcome = tuple[float | tuple[float | None, ...] | None, str] | Stopped
"""An objective (of several, a tuple), or None and why there is none; or what a stopped trial had reached."""


@dataclass(frozen=True)
class TrialRow:
    """One trial of the ledger.

    Attributes:
        values: the objectives; empty unless the trial is complete.
    """

    number: int
    state: str
    point: dict[str, Any]
    key: str
    values: tuple[float, ...]
    reason: str
    paper_default: bool

    @property
    def value(self) -> float | None:
        """The objective, the first of several; None unless the trial is complete."""
        return self.values[0] if self.values else None

    @property
    def stopped_early(self) -> bool:
        """It fell behind others and was stopped before its last scenario."""
        return self.state == "pruned"

    @property
    def comparable(self) -> bool:
        """It was judged on every scenario. Whatever compares trials (tables, fronts, importance) takes these alone."""
        return self.state == "complete"
