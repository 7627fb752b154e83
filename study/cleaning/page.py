"""The page of a cleaning: the verdict, pictures of what is flagged, and how far all of it is to be trusted."""

import time
from dataclasses import dataclass

import numpy as np

from study.cleaning.canaries import Canaries
from study.cleaning.pictures import Sheets, concerned_sheets, histogram
from study.cleaning.verdict import Concerned, Verdict, concerned
from study.cleaning.votes import Votes
from study.cli.numbers import format_number
from study.code_version import code_version
from study.report.elements import Curves, Fact, Facts, Item, Line, Note, Section, Table
from study.report.html import Chapter, page

_MOST_CLASSES = 12  # rows of the table of classes
_MOST_PICTURED = 3  # classes with contact sheets of their own
_MOST_LEFT_OUT = 2000  # rows of that table
_CUTS = (-2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class CleaningPage:
    """All that the page is made of.

    Attributes:
        name: of the data.
        canaries: None where none were planted.
        without_canaries: why not; empty where they were.
        done: what was read and run, a line (what, how) each.
        notes: what was converted and what the reader should know, in sentences.
        left_out: names and reasons of what was not used.
        command: that made it.
    """

    name: str
    classes: tuple[str, ...]
    votes: Votes
    verdict: Verdict
    sheets: Sheets
    canaries: Canaries | None
    without_canaries: str
    done: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    command: str


def build_page(told: CleaningPage) -> str:
    """The page, as HTML that needs nothing else."""
    sections = (front(told), pictures(told), scores(told), canaries_section(told), untold(told), done(told))
    title = f"Is {told.name} poisoned?"
    subtitle = (
        f"{len(told.votes):,} images looked through, {time.strftime('%Y-%m-%d %H:%M')}, framework {code_version()}"
    )
    return page(title, subtitle, [Chapter(told.name, sections)])


def front(told: CleaningPage) -> Section:
    """The verdict, its evidence, and the pictures that show it."""
    votes, verdict = told.votes, told.verdict
    quoted = [told.canaries.sentence] if told.canaries is not None else [told.without_canaries]
    items: list[Item] = [Note(text) for text in (verdict.checked, *quoted) if text]
    if told.canaries is not None and told.canaries.caution and verdict.outcome != "usual":  # `checked` says it there
        items.append(Note(told.canaries.caution, "warning"))
    items.append(_facts(told))
    for label in verdict.classes[:1]:
        items += filter(None, (told.sheets.flagged(label, 12), told.sheets.difference(label)))
    rows = concerned(votes.flagged, votes.labels, len(told.classes))
    if rows:
        items.append(_class_table(told))
    items += [Note(reason) for reason in verdict.reasons]
    return Section("verdict", "Verdict", verdict.sentence, tuple(items))


def _facts(told: CleaningPage) -> Facts:
    votes, verdict = told.votes, told.verdict
    runs = len(votes.votes)
    facts = [
        Fact(
            f"{int(votes.flagged.sum()):,}",
            "images flagged by most runs" if runs > 1 else "images flagged",
            f"of {len(votes):,}, by {votes.needed} or more of {runs} runs",
        ),
        Fact(
            format_number(verdict.agreement, 2),
            "agreement of the runs",
            "mean overlap of what two seeds flag; 1 is the same images",
        ),
    ]
    if told.canaries is not None and (rates := told.canaries.counted):
        best, worst = (pick(rate.tpr or 0.0 for rate in rates) for pick in (max, min))
        value = format_number(best, 2) if best == worst else f"{format_number(worst, 2)} to {format_number(best, 2)}"
        facts.append(Fact(value, "of planted poison was found", f"in {len(rates)} attacks planted into these data"))
    return Facts(tuple(facts))


def _class_table(told: CleaningPage) -> Table:
    votes = told.votes
    rows = concerned(votes.flagged, votes.labels, len(told.classes))
    strong = tuple(at for at, row in enumerate(rows[:_MOST_CLASSES]) if row.label in told.verdict.classes)
    more = f" The first {_MOST_CLASSES} of {len(rows)}." if len(rows) > _MOST_CLASSES else ""
    return Table(
        "classes",
        f"Classes with flagged images.{more}",
        ("class", "flagged", "images", "share", "times the others' share"),
        tuple(
            (told.classes[row.label], row.flagged, row.total, row.flagged / row.total, _lift(row, votes))
            for row in rows[:_MOST_CLASSES]
        ),
        strong=strong,
    )


def _lift(row: Concerned, votes: Votes) -> str | None:
    """How much more often a class is flagged; None where no other is."""
    return f"{row.lift:.1f}" if row.flagged < int(votes.flagged.sum()) else None


def pictures(told: CleaningPage) -> Section:
    """Contact sheets: flagged, kept and borderline."""
    votes, sheets = told.votes, told.sheets
    rows = concerned(votes.flagged, votes.labels, len(told.classes))
    labels = [*told.verdict.classes, *(row.label for row in rows if row.label not in told.verdict.classes)]
    shown: list[Item] = []
    for label in labels[:_MOST_PICTURED]:
        shown.append(Note(f"Class {told.classes[label]}", "heading"))
        shown += concerned_sheets(sheets, [label])
        difference = sheets.difference(label)
        shown += [] if difference is None or label in told.verdict.classes[:1] else [difference]
    border = sheets.borderline()
    if border is not None:
        shown += [Note("Next to the cut", "heading"), border]
    frames = Note(
        "Orange frame: flagged; blue: kept; none: borderline. Below each image is its rank, as in the tables, or, "
        "where classes are mixed, its class as received."
    )
    lead = "What is flagged, beside what is kept of the same class." if rows else "Nothing is flagged."
    return Section("pictures", "In pictures", lead, (frames, *shown), unfolded=True)


def scores(told: CleaningPage) -> Section:
    """The histogram of scores, and what other cuts would flag."""
    votes = told.votes
    middles, kept, hits = histogram(votes.scores, votes.flagged)
    x = tuple(map(float, middles))
    lines = (
        Line("kept", x, tuple(np.log10(kept + 1).tolist())),
        Line("flagged", x, tuple(np.log10(hits + 1).tolist())),
    )
    curve = Curves(
        "histogram",
        "How many images have which score; the cut is at 0. The height is the logarithm of the count plus 1: 1 is 9 "
        "images, 2 is 99.",
        "score, in standard deviations above the cut (mean over all runs)",
        "images, log10(count + 1)",
        lines,
        at=((0.0, "cut"),),
    )
    table = Table(
        "cuts",
        "What a larger or a smaller cut would flag.",
        _CUT_HEADER,
        tuple(_cut_rows(told)),
        strong=(_CUTS.index(0.0),),
    )
    lead = f"{int((votes.scores > 0).sum()):,} images lie above the mean cut of all runs."
    return Section("scores", "Scores and cuts", lead, (curve, table), unfolded=True)


_CUT_HEADER = ("cut", "images above it", "share", "class with most of them", "its share of them")


def _cut_rows(told: CleaningPage) -> list[tuple[str | float | int | None, ...]]:
    votes = told.votes
    rows: list[tuple[str | float | int | None, ...]] = []
    for cut in _CUTS:
        mask = votes.scores > cut
        top = concerned(mask, votes.labels, len(told.classes))[:1]
        name, share = (told.classes[top[0].label], top[0].flagged / int(mask.sum())) if top else (None, None)
        rows.append((f"{cut:+g}" if cut else "0, as it is", int(mask.sum()), float(mask.mean()), name, share))
    return rows


def canaries_section(told: CleaningPage) -> Section:
    """What would have been found here, and what was flagged that nobody planted."""
    title = "Would it have been found? Known attacks, planted into these data"
    if told.canaries is None:
        return Section("canaries", title, told.without_canaries)
    return Section("canaries", title, told.canaries.sentence, told.canaries.items(), unfolded=True)


def untold(told: CleaningPage) -> Section:
    """What no such look can tell."""
    notes = [
        "No method sees every backdoor. “Nothing found” says that these methods, with these settings, see none; the "
        "planted attacks say how far that goes on these data, and nothing about attacks of other kinds.",
        "What stands out need not be poison: images from another source, with a frame, a logo or a date in them, share "
        "something as well. Look at them.",
        "The images of a backdoor with many target classes share no class: they are reported where all runs agree.",
        "Poison of less than a few images cannot be told from chance.",
    ]
    lead = "No method sees every backdoor, and what stands out need not be one."
    return Section("untold", "What this cannot tell", lead, tuple(map(Note, notes)))


def done(told: CleaningPage) -> Section:
    """What was read and run."""
    items: list[Item] = [Table("done", "", ("what", "how"), told.done, left=2), *map(Note, told.notes)]
    if told.left_out:
        caption, header = "What was not used, and why.", ("what", "reason")
        items.append(Table("left-out", caption, header, told.left_out[:_MOST_LEFT_OUT], left=2, sortable=True))
    unused = f"{len(told.left_out):,} files or samples were not used"
    lead = f"{len(told.votes.votes)} runs on {len(told.votes):,} images; {unused}."
    return Section("done", "What was done", lead, tuple(items), command=told.command)
