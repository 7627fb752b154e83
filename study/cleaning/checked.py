"""Holds a verdict against what the same methods flag of these data where nothing was planted.

A method can be wrong alike with every seed: activation clustering cuts a cluster of clean images off a class, and may
cut off the same ones each time. That runs agree is then no evidence; another look at these data is. The canaries have
it: the images that are not suspected, with nothing planted, and with a planted attack that took, into whose other
images nobody planted anything either. The rule compares like with like:

- A look is all runs of one kind together, with each of the seeds that were planted with, as on the data themselves:
  what more than `--agreement` of them flag. False alarms that change with the seed claim nothing.
- A look *claims as much* where the images that a verdict of the same kind would be about (those of the classes that its
  flagged images share; of a class that is flagged whole; or all that is flagged) are at least five, and the upper end
  of the 95 % interval of their share (Wilson) is not below the share here.
- The claim falls where the look with nothing planted claims as much, or half or more of those with an attack at a
  rate. Of the latter the classes that were planted into do not count: what is flagged there was asked for.
- That the runs disagree claims nothing, and is said as it is.

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
    """What a look flagged of images into which nobody planted anything.

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
        return {"poison": self.shared, "class": self.whole}.get(outcome, self.flagged)

    def claims(self, outcome: str, share: float) -> bool:
        """Whether a verdict of this kind on it would be about as large a share of all images."""
        count = self.about(outcome)
        return count >= LEAST and wilson(count, self.total)[1] >= share


def look(runs: Sequence[tuple[Votes, NDArray[np.bool_]]], count: int) -> Unplanted | None:
    """What several plantings of one kind flag together, apart from the classes that were planted into.

    Args:
        runs: the votes on each planting, and which images were planted, bool [N]; all into the same images.
        count: classes that there are.

    Returns:
        None where every class was planted into.
    """
    labels = runs[0][0].labels
    ballot = Votes(tuple(vote for votes, _ in runs for vote in votes.votes), labels, runs[0][0].agreement)
    left = np.ones(len(labels), dtype=bool)
    for votes, planted in runs:
        left &= ~np.isin(labels, np.unique(votes.labels[planted])) & ~planted
    if not left.any():
        return None
    alarms = ballot.flagged & left
    # A class counts as large as what of it was left alone: else one that is flagged whole would seem to be in part.
    classes = shared_classes(alarms[left], labels[left], count)
    whole = whole_class(alarms[left], labels[left], count)
    return Unplanted(
        planted=any(bool(planted.any()) for _, planted in runs),
        total=int(left.sum()),
        flagged=int(alarms.sum()),
        shared=int((alarms & np.isin(labels, classes)).sum()),
        whole=0 if whole is None else whole.flagged,
        classes=classes,
    )


def check(verdict: Verdict, votes: Votes, runs: Sequence[Unplanted], classes: Sequence[str]) -> Verdict:
    """A verdict, held against what is flagged where nothing was planted.

    Args:
        runs: looks at these data, with nothing planted or with an attack that took; none where none were planted.
        classes: names of the classes.

    Returns:
        The verdict with what was checked, or, where its claim falls, one that says so and drops nothing.
    """
    if verdict.outcome in ("nothing", "disagree"):
        return verdict
    if not runs:
        return dataclasses.replace(verdict, checked=UNCHECKED)
    about = votes.flagged & np.isin(votes.labels, verdict.classes) if verdict.classes else votes.flagged
    hits, total = int(about.sum()), len(votes)
    quiet, attacked = ([run for run in runs if run.planted is planted] for planted in (False, True))
    for part, when in ((quiet, _NOTHING_PLANTED), (attacked, _AMONG_OTHERS)):
        claiming = [run for run in part if run.claims(verdict.outcome, hits / total)]
        if part and 2 * len(claiming) >= len(part):
            who = "this method flags" if len({vote.defense for vote in votes.votes}) == 1 else "these methods flag"
            usual = f"no more than {who} on your data {when}"
            return _fallen(verdict, hits, total, _largest(claiming, verdict), usual, classes)
    part, when = (quiet, _NOTHING_PLANTED) if quiet else (attacked, _AMONG_OTHERS)
    return dataclasses.replace(verdict, checked=_standing(verdict, hits, total, _largest(part, verdict), when))


def _largest(runs: Sequence[Unplanted], verdict: Verdict) -> Unplanted:
    return max(runs, key=lambda run: run.about(verdict.outcome) / run.total)


def _fallen(verdict: Verdict, hits: int, total: int, run: Unplanted, usual: str, classes: Sequence[str]) -> Verdict:
    count = run.about(verdict.outcome)
    of = f" of class {_names(verdict.classes, classes)}" if verdict.classes else ""
    where = f", of class {_names(run.classes, classes)}" if run.classes else ""
    sentence = f"Nothing found that stands out: {hits:,} images{of} are flagged, {usual}."
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
