"""What the votes say in words, from evidence that takes no ground truth.

Every method cuts its scores somewhere, and some cut off a tenth of any data. That something is flagged is therefore no
evidence. What is: that runs with other seeds flag the same images, and that these share a class far more often than
chance has it, as the images of a backdoor do, which all are called what the attacker wants, while others of that class
are not flagged. Where nothing is poisoned a method often takes a class whole: then nothing tells its images apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from study.cleaning.votes import Vote, Votes, mean_overlap
from study.cli.numbers import format_number, listed

LEAST = 5  # images that can share something
AGREE = 0.5  # mean Jaccard overlap from which runs agree
FOCUS = 0.6  # share of the flagged in a class from which they share it
CLEAR_AGREE = 0.8  # overlap from which images of all classes are worth a look
SWALLOWED = 0.85  # flagged share of a class from which it is the class itself that stands out
OVER_CHANCE = 3.0  # times that a class is flagged more often than all others together

Outcome = Literal["nothing", "usual", "poison", "class", "unusual", "disagree"]


@dataclass(frozen=True)
class Concerned:
    """One class among the flagged.

    Attributes:
        label: its number.
        flagged, total: images.
        lift: its flagged share over that of all other classes.
    """

    label: int
    flagged: int
    total: int
    lift: float


@dataclass(frozen=True)
class Verdict:
    """What is said first, and why.

    Attributes:
        outcome: ``poison``: flagged images share a class; ``class``: a class is flagged whole by all runs; ``unusual``:
            runs agree on images of many classes; ``disagree``: some runs find what others do not; ``nothing``;
            ``usual``: as much is flagged where nothing was planted (`study.cleaning.checked`).
        sentence: the verdict.
        reasons: sentences of evidence.
        classes: that the flagged share; empty unless the outcome is ``poison``.
        agreement: mean Jaccard overlap between runs; None for a single run.
        checked: how it was held against images into which nothing was planted; empty where it claims nothing.
    """

    outcome: Outcome
    sentence: str
    reasons: tuple[str, ...]
    classes: tuple[int, ...]
    agreement: float | None
    checked: str = ""

    @property
    def drops(self) -> bool:
        """Whether the flagged are proposed to be dropped: a whole class, or what may be false alarms, is not."""
        return self.outcome not in ("nothing", "usual", "class")


def concerned(flagged: NDArray[np.bool_], labels: NDArray[np.int64], count: int) -> list[Concerned]:
    """The classes of flagged images, the one with most of them first.

    Args:
        flagged: bool [N].
        labels: int64 [N].
        count: classes that there are.
    """
    hits, sizes = np.bincount(labels[flagged], minlength=count), np.bincount(labels, minlength=count)
    rows = []
    for label in np.argsort(-hits, kind="stable").tolist():
        if hits[label] == 0:
            break
        others, left = int(hits.sum() - hits[label]), int(sizes.sum() - sizes[label])
        elsewhere = max(others, 0.5) / max(left, 1)  # half an image, where there is none
        rows.append(
            Concerned(label, int(hits[label]), int(sizes[label]), float(hits[label] / sizes[label] / elsewhere))
        )
    return rows


def shared_classes(flagged: NDArray[np.bool_], labels: NDArray[np.int64], count: int) -> tuple[int, ...]:
    """The classes that stand out among flagged images; empty where they are spread over all.

    One class with most of them, or a few that together have most, each far more often flagged than the rest; none that
    is flagged whole, whose images have nothing that others of the class lack.

    Args:
        flagged: bool [N].
        labels: int64 [N].
        count: classes that there are.
    """
    total = int(flagged.sum())
    if total < LEAST:
        return ()
    sizes, chosen, left = np.bincount(labels, minlength=count), [], flagged.copy()
    for _ in range(max(1, count // 4)):
        rows = concerned(left, labels, count)
        if not rows or rows[0].lift < OVER_CHANCE or rows[0].flagged < LEAST:
            break
        if rows[0].flagged >= SWALLOWED * rows[0].total:
            return ()
        chosen.append(rows[0].label)
        left &= labels != rows[0].label
        share = 1 - int(left.sum()) / total
        if share >= max(FOCUS, min(0.95, 2 * sizes[chosen].sum() / sizes.sum())):
            return tuple(chosen)
    return ()


def whole_class(flagged: NDArray[np.bool_], labels: NDArray[np.int64], count: int) -> Concerned | None:
    """The class that has most of the flagged images and is flagged almost whole; None where there is none.

    Args:
        flagged: bool [N].
        labels: int64 [N].
        count: classes that there are.
    """
    top = concerned(flagged, labels, count)[:1]
    most = [row for row in top if row.flagged >= FOCUS * int(flagged.sum()) and row.flagged >= LEAST]
    return next((row for row in most if row.flagged >= SWALLOWED * row.total), None)


def decide(votes: Votes, classes: Sequence[str]) -> Verdict:
    """The verdict on all votes.

    Args:
        classes: names of the classes.
    """
    flagged, labels, count = votes.flagged, votes.labels, len(classes)
    own = [shared_classes(vote.flagged, labels, count) for vote in votes.votes]
    finders = sum(bool(shared) for shared in own)
    shared, overlap = shared_classes(flagged, labels, count), _overlap(votes)
    reasons = _reasons(votes, own, classes)
    several = len(votes.votes) > 1
    if shared and finders * 2 > len(own) and (overlap is None or overlap >= AGREE):
        hits = int((flagged & np.isin(labels, shared)).sum())
        return Verdict("poison", _poison_sentence(hits, shared, classes), reasons, shared, overlap)
    if several and finders:
        return Verdict("disagree", _disagree_sentence(votes, own, classes, overlap), reasons, (), overlap)
    whole = whole_class(flagged, labels, count)
    if whole is not None and (overlap is None or overlap >= AGREE):
        sentence = (
            f"Class {classes[whole.label]} is flagged almost whole, {whole.flagged:,} of {whole.total:,} images: most "
            "of it is poison, or the class as such stands out. Look at it."
        )
        return Verdict("class", sentence, reasons, (whole.label,), overlap)
    if several and flagged.sum() >= LEAST and overlap is not None and overlap >= CLEAR_AGREE:
        sentence = (
            f"{int(flagged.sum()):,} images of many classes are flagged again and again: look at them. They share no "
            "class, so they may be merely unusual."
        )
        return Verdict("unusual", sentence, reasons, (), overlap)
    sentence, why = _nothing(votes)
    return Verdict("nothing", sentence, (*why, *reasons), (), overlap)


def _poison_sentence(hits: int, shared: tuple[int, ...], classes: Sequence[str]) -> str:
    names = [str(classes[label]) for label in shared]
    named = listed(names)
    what = f"class {named} share" if len(names) == 1 else f"classes {named} share"
    return f"{hits:,} images of {what} something that others lack: look at them."


def _disagree_sentence(
    votes: Votes, own: Sequence[tuple[int, ...]], classes: Sequence[str], overlap: float | None
) -> str:
    """Whether it is the methods that disagree, one or more of them sure by itself, or the seeds of one."""
    methods = votes.methods
    runs = {
        name: [shared for vote, shared in zip(votes.votes, own, strict=True) if vote.defense == name]
        for name in methods
    }
    finders = {name: sum(bool(shared) for shared in of_method) for name, of_method in runs.items()}
    agreed = {name: votes.agreement_of(name) for name in methods}
    sure = [
        name
        for name in methods
        if 2 * finders[name] > len(runs[name]) and ((alike := agreed[name]) is None or alike >= AGREE)
    ]
    if len(methods) > 1 and sure:
        told = [_found_by(name, finders[name], runs[name], classes) for name in methods]
        return (
            f"The methods disagree: {listed(told)}. Methods see different attacks: look at what {sure[0]} flags by "
            f"itself (--defense {sure[0]})."
        )
    others = "the runs do not flag the same ones" if overlap is None or overlap < AGREE else "the others find none"
    return (
        f"The seeds disagree: do not trust this. {sum(finders.values())} of {len(own)} runs find images that share a "
        f"class, and {others}."
    )


def _found_by(name: str, finders: int, runs: Sequence[tuple[int, ...]], classes: Sequence[str]) -> str:
    if not finders:
        return f"{name} finds none that share a class in any of {len(runs)}"
    of_class = listed([str(classes[label]) for label in dict.fromkeys(label for shared in runs for label in shared)])
    return f"{name} finds images of {of_class} in {finders} of {len(runs)} runs"


def _nothing(votes: Votes) -> tuple[str, tuple[str, ...]]:
    """That nothing was found, and why what is flagged is taken for false alarms."""
    if not votes.counts.any():
        return "Nothing found: no run flags any image.", ()
    share = format_number(float(np.mean([vote.flagged.mean() for vote in votes.votes])))
    least, most = (pick(int(vote.flagged.sum()) for vote in votes.votes) for pick in (min, max))
    many, runs = f"{least:,}" if least == most else f"{least:,} to {most:,}", len(votes.votes)
    classes = int(votes.labels.max()) + 1
    whole = sum(whole_class(vote.flagged, votes.labels, classes) is not None for vote in votes.votes)
    again = f", of which {int(votes.flagged.sum()):,} are the same in most runs" if runs > 1 else ""
    what = f"{whole} of {runs} runs take one class almost whole" if whole else "they are spread over the classes"
    always = "as methods do that flag something of any data"
    why = f"Each run flags {many} images, a share of {share}{again}; {what}, {always}."
    return f"Nothing found: the {many} images that each run flags look like false alarms.", (why,)


def _overlap(votes: Votes) -> float | None:
    """Agreement of seeds, over methods; of single runs of several methods, theirs."""
    by_defense = [votes.agreement_of(name) for name in votes.methods]
    known = [value for value in by_defense if value is not None]
    return float(np.mean(known)) if known else mean_overlap([vote.flagged for vote in votes.votes])


def _reasons(votes: Votes, own: Sequence[tuple[int, ...]], classes: Sequence[str]) -> tuple[str, ...]:
    overlap = _overlap(votes)
    reasons = []
    if overlap is not None:
        reasons.append(
            f"Of the images that two runs with other seeds flag, they share {format_number(overlap)} on average "
            "(Jaccard overlap; 1 is the same images, 0 none)."
        )
    if len(votes.votes) == 1:
        reasons.append("There is a single run, so nothing says whether another seed would flag the same images.")
    total = int(votes.flagged.sum())
    rows = concerned(votes.flagged, votes.labels, len(classes))
    if rows:
        top = rows[0]
        reasons.append(
            f"Of the {total:,} flagged images {top.flagged:,} are called {classes[top.label]}, of which there are "
            f"{top.total:,} in all; {sum(bool(shared) for shared in own)} of {len(own)} runs find a class that its "
            "flagged images share."
        )
    gaps = [gap for vote in votes.votes if (gap := cut_gap(vote)) is not None]
    if gaps:
        clear = sum(gap > 0.5 for gap in gaps)
        reasons.append(
            f"The scores have a gap at the cut in {clear} of {len(gaps)} runs (half a standard deviation or more "
            "without any image)."
        )
    return tuple(reasons)


def cut_gap(vote: Vote) -> float | None:
    """How far the lowest flagged score lies above the highest kept one, in standard deviations; None without either."""
    flagged = vote.flagged
    if vote.scores is None or not flagged.any() or flagged.all():
        return None
    return float(vote.standing[flagged].min() - vote.standing[~flagged].max())
