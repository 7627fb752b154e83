"""Holds a verdict against what the same methods flag of these data where nothing was planted.

A method can be wrong alike with every seed: activation clustering cuts a cluster of clean images off a class, and may
cut off the same ones each time. That runs agree is then no evidence; another look at these data is. The canaries have
it: a run on the images that are not suspected, with nothing planted, and runs with a planted attack that took, into
whose other images nobody planted anything either. The rule compares like with like:

- A run *claims as much* where the images that a verdict of the same kind would be about (those of the classes that its
  flagged images share; of a class that is flagged whole; or all that is flagged) are at least five, and the upper end
  of the 95 % interval of their share (Wilson) is not below the share here.
- The claim falls where half or more of the runs with nothing planted claim as much, or of those with an attack. Of the
  latter the class that was planted into does not count: what is flagged there was asked for.

A second backdoor of that size, which the first look did not find, cannot be told from this; what is said then says so.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.cleaning.intervals import wilson
from study.cleaning.verdict import LEAST, Verdict, shared_classes, whole_class
from study.cleaning.votes import Votes
from study.cli.numbers import format_number, listed

UNCHECKED = (
    "Not checked: without planted attacks nothing says whether as much is flagged of these data when nothing is "
    "poisoned in them."
)
_NOTHING_PLANTED = "when nothing was planted"
_AMONG_OTHERS = "among images into which nothing was planted"


@dataclass(frozen=True)
class Unplanted:
    """What a run flagged of images into which nobody planted anything.

    Attributes:
        planted: an attack was planted into others of its images.
        total: such images that there are.
        flagged: of them; shared: those of the classes that they share; whole: those of a class that is flagged whole.
        classes: numbers of the classes that the flagged ones share.
    """

    planted: bool
    total: int
    flagged: int
    shared: int
    whole: int
    classes: tuple[int, ...] = ()

    def about(self, outcome: str) -> int:
        """How many images a verdict of this kind would be about."""
        return {"poison": self.shared, "disagree": self.shared, "class": self.whole}.get(outcome, self.flagged)

    def claims(self, outcome: str, share: float) -> bool:
        """Whether it claims as much as a share of all images, in a verdict of this kind."""
        count = self.about(outcome)
        return count >= LEAST and wilson(count, self.total)[1] >= share


def unplanted(
    flagged: NDArray[np.bool_], planted: NDArray[np.bool_], labels: NDArray[np.int64], count: int
) -> Unplanted:
    """What a run flagged of images that nobody planted anything into, apart from the classes that were planted into.

    Args:
        flagged, planted: bool [N].
        labels: int64 [N], as the run had them.
        count: classes that there are.
    """
    left = ~np.isin(labels, np.unique(labels[planted]))
    alarms = flagged & left
    classes, whole = shared_classes(alarms, labels, count), whole_class(alarms, labels, count)
    return Unplanted(
        planted=bool(planted.any()),
        total=int(left.sum()),
        flagged=int(alarms.sum()),
        shared=int((alarms & np.isin(labels, classes)).sum()),
        whole=0 if whole is None else whole.flagged,
        classes=classes,
    )


def check(verdict: Verdict, votes: Votes, runs: Sequence[Unplanted], classes: Sequence[str]) -> Verdict:
    """A verdict, held against what is flagged where nothing was planted.

    Args:
        runs: on these data, with nothing planted or with an attack that took; none where no attacks were planted.
        classes: names of the classes.

    Returns:
        The verdict with what was checked, or, where its claim falls, one that says so and drops nothing.
    """
    if verdict.outcome == "nothing":
        return verdict
    if not runs:
        return dataclasses.replace(verdict, checked=UNCHECKED)
    hits, total = _about(verdict, votes, len(classes)), len(votes)
    quiet, attacked = ([run for run in runs if run.planted is planted] for planted in (False, True))
    for part, when in ((quiet, _NOTHING_PLANTED), (attacked, _AMONG_OTHERS)):
        claiming = [run for run in part if run.claims(verdict.outcome, hits / total)]
        if part and 2 * len(claiming) >= len(part):
            who = "this method flags" if len({vote.defense for vote in votes.votes}) == 1 else "these methods flag"
            usual = f"no more than {who} on your data {when}"
            return _fallen(verdict, hits, total, _largest(claiming, verdict), usual, classes)
    part, when = (quiet, _NOTHING_PLANTED) if quiet else (attacked, _AMONG_OTHERS)
    return dataclasses.replace(verdict, checked=_standing(verdict, hits, total, _largest(part, verdict), when))


def _about(verdict: Verdict, votes: Votes, count: int) -> int:
    """How many images a verdict is about; of runs that disagree the mean over those that find something."""
    if verdict.outcome != "disagree":
        chosen = np.isin(votes.labels, verdict.classes) if verdict.classes else np.ones(len(votes), dtype=bool)
        return int((votes.flagged & chosen).sum())
    nobody = np.zeros(len(votes), dtype=bool)
    shared = [unplanted(vote.flagged, nobody, votes.labels, count).shared for vote in votes.votes]
    return round(float(np.mean([one for one in shared if one] or [0])))


def _largest(runs: Sequence[Unplanted], verdict: Verdict) -> Unplanted:
    return max(runs, key=lambda run: run.about(verdict.outcome) / run.total)


def _fallen(verdict: Verdict, hits: int, total: int, run: Unplanted, usual: str, classes: Sequence[str]) -> Verdict:
    count, each = run.about(verdict.outcome), " by a run" if verdict.outcome == "disagree" else ""
    of = f" of class {_names(verdict.classes, classes)}" if verdict.classes else ""
    where = f", of class {_names(run.classes, classes)}" if run.classes else ""
    sentence = f"Nothing found that stands out: {hits:,} images{of} are flagged{each}, {usual}."
    checked = (
        f"Here {hits:,} of {total:,} images are flagged in this way, a share of {format_number(hits / total)}; there "
        f"{count:,} of {run.total:,}, {format_number(count / run.total)}{where}. That is what is flagged of these data "
        "in any case, or a second backdoor of that size: look at the pictures."
    )
    return dataclasses.replace(verdict, outcome="usual", sentence=sentence, classes=(), checked=checked)


def _standing(verdict: Verdict, hits: int, total: int, run: Unplanted, when: str) -> str:
    count = run.about(verdict.outcome)
    many = f"{count:,} of {run.total:,} images are" if count else "no image is"
    return f"Checked: {when} {many} flagged in this way, and here {hits:,} of {total:,}."


def _names(labels: Sequence[int], classes: Sequence[str]) -> str:
    return listed([classes[label] for label in labels])
