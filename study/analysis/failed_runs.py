"""Runs that failed, by one rule: whether a defense found the poison at all is often a matter of yes or no.

A run is one configuration on one scenario, trained once. It failed where its TPR is below 0.5 or its AUROC below 0.7.
Only runs whose attack works without a defense count. Where neither is defined (a defense that flags nothing, clean
data, poison that nobody knows) the rule says nothing, and the run counts neither way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.analysis.compared import ComparedConfiguration, compared_configurations
from study.analysis.fixed_fields import default_in_words
from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import in_words
from tracking import names

if TYPE_CHECKING:
    import pandas

LEAST_TPR, LEAST_AUROC = 0.5, 0.7
FAILED_RUNS = "failed runs"
"""What tables call their number."""
RULE = f"TPR below {LEAST_TPR:g} or AUROC below {LEAST_AUROC:g}"
_SHOWN = (names.TPR, names.FPR, names.ASR)


def failed(runs: "pandas.DataFrame") -> "pandas.Series[bool]":
    """Of the runs that the rule speaks of, whether each failed; the others are left out.

    Args:
        runs: rows of `study.analysis.results.Results.evaluations`.
    """
    spoken = ~runs["attack_failed"].astype(bool) & (runs[names.TPR].notna() | runs[names.AUROC].notna())
    counted = runs[spoken]
    return (counted[names.TPR] < LEAST_TPR) | (counted[names.AUROC] < LEAST_AUROC)


@dataclass(frozen=True)
class FailedRuns:
    """How many runs of a configuration failed, and what the two groups reached.

    Attributes:
        runs: that the rule speaks of.
        means: by metric, over the runs that failed and over the others; NaN where undefined.
    """

    failed: int
    runs: int
    means: dict[str, tuple[float, float]]

    @property
    def text(self) -> str | None:
        """``2 of 9``; None where the rule speaks of none."""
        return f"{self.failed} of {self.runs}" if self.runs else None

    @property
    def two_outcomes(self) -> bool:
        """Whether some runs failed and others did not, which a mean of all hides."""
        return 0 < self.failed < self.runs

    def sentence(self, who: str) -> str:
        """That the mean hides two outcomes, and what these are."""
        values = [[(in_words(name), pair[at]) for name, pair in self.means.items()] for at in (0, 1)]
        lost, held = (
            ", ".join(f"{name} {format_number(value)}" for name, value in each if value == value) for each in values
        )
        return (
            f"{who} failed in {self.failed} of {self.runs} runs ({RULE}), so its mean hides two outcomes: {lost} where "
            f"it failed, and {held} where it did not."
        )


def count_failed(runs: "pandas.DataFrame") -> FailedRuns:
    """How many of one configuration's runs failed.

    Args:
        runs: rows of `study.analysis.results.Results.evaluations`.
    """
    which = failed(runs)
    counted = runs.loc[which.index]
    means = {name: (float(counted.loc[which, name].mean()), float(counted.loc[~which, name].mean())) for name in _SHOWN}
    return FailedRuns(int(which.sum()), len(which), means)


def shows_failed(results: Results, runs: Sequence["pandas.DataFrame"]) -> bool:
    """Whether tables tell the share of failed runs: their lines are means over several runs, and there is something.

    With repeats they always do; over seeds alone where some run failed.

    Args:
        runs: of each configuration in the table.
    """
    if results.repeats > 1:
        return True
    return len(results.seeds) > 1 and any(count_failed(of_one).failed for of_one in runs)


def failure_caveats(results: Results) -> list[str]:
    """A sentence for each configuration in the study's last table whose mean hides two outcomes."""
    compared = [one for one in compared_configurations(results) if one.trial is not None]
    if not shows_failed(results, [one.cells for one in compared]):
        return []
    return [sentence for one in compared if (sentence := _sentence(results, one))]


def _sentence(results: Results, one: ComparedConfiguration) -> str:
    counts = count_failed(one.cells)
    who = default_in_words(results).capitalize() if one.trial == results.default else f"Trial {one.trial}"
    return counts.sentence(who) if counts.two_outcomes else ""
