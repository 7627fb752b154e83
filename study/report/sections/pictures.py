"""What an attack looks like and whom a defense flags, in pictures: the highest scores, false alarms and misses."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from study.analysis.compared import strata
from study.analysis.fixed_fields import default_in_words
from study.analysis.results import Results
from study.cli.numbers import format_number, several
from study.config.objectives import is_given
from study.report.elements import Item, Note, Picture, Section
from study.report.run_files import RunFiles
from study.report.sample_sheet import MOST, draw_preview, draw_sheet, read_picture
from study.report.stored_images import ImageSource, StoredImages
from tracking.artifacts import Flags

_SCENARIOS = 12  # that are shown: each has up to seven pictures
_TITLE = "What is flagged, in pictures"


def sections(results: Results) -> list[Section]:
    """One section; of several seeds of an attack and rate the first stands for all."""
    chosen = [str(scenarios[0]) for _, _, scenarios in strata(results)][:_SCENARIOS]
    source, files = ImageSource(results), RunFiles(results)
    items: list[Item] = []
    missing = 0
    for number, scenario in enumerate(chosen):
        stored = source.load(scenario)
        missing += stored is None
        own = list(_of_scenario(results, scenario, f"pictures-{number}", stored, files))
        items += [Note(scenario, "heading"), *own] if own else []
    if not items:
        why = "The attacks' pictures and the flags are neither in the study's folder nor in MLflow's files here"
        return [Section("pictures", _TITLE, f"{why}, so there is nothing to show.", answered=False)]
    if missing < len(chosen):
        items.insert(0, Note("Orange frame: poisoned; blue: benign. Below each image is its label as received."))
    if missing:
        which = "" if missing == len(chosen) else f"{missing} of {len(chosen)} scenarios of "
        text = (
            f"The store ({source.place}) does not have {which}this study's images: attacks' previews are shown alone."
        )
        items.insert(0, Note(text, "warning"))
    return [Section("pictures", _TITLE, _lead(results, len(chosen)), tuple(items), uses_labels=True)]


def _lead(results: Results, shown: int) -> str:
    total = len(results.scenarios)
    some = "" if shown == total else f" for {shown} of {total} scenarios (one seed of each attack and rate)"
    return (
        f"Each attack, and the samples with the highest scores, false alarms and misses of the {results.best_name} "
        f"trial{some}."
    )


def _of_scenario(
    results: Results, scenario: str, name: str, stored: StoredImages | None, files: RunFiles
) -> Iterator[Item]:
    best, default = results.best, results.default
    trials = [trial for trial in dict.fromkeys((best, default)) if trial is not None]
    attack = list(_attack(results, scenario, name, stored, files))
    shown: Flags | None = None
    for trial in trials:
        flags = files.flags(trial, scenario)
        if flags is None or (shown is not None and np.array_equal(shown.flagged, flags.flagged)):
            continue
        who = f"Trial {trial}, the {results.best_name}" if trial == best else default_in_words(results).capitalize()
        yield Note(f"{who}: {_counts(flags)}")
        yield from attack if shown is None else ()
        if stored is not None and stored.fingerprint == flags.fingerprint:
            yield from _sheets(f"{name}-trial-{trial}", flags, stored)
        shown = flags
    yield from attack if shown is None else ()


def _attack(
    results: Results, scenario: str, name: str, stored: StoredImages | None, files: RunFiles
) -> Iterator[Picture]:
    preview = stored.preview if stored is not None else _stored_preview(results, scenario, files)
    if preview is not None and preview.size:
        received = is_given(str(results.scenarios.loc[scenario, "attack"]))
        caption = "The attack: clean images, the same poisoned, and ten times their difference."
        if received:
            caption = "Images that the file marks as poisoned."
        yield Picture(f"{name}-attack", caption, *draw_preview(preview, rows=1 if received else 3))


def _stored_preview(results: Results, scenario: str, files: RunFiles) -> NDArray[np.uint8] | None:
    """The attack's picture as some trial left it: uint8 [h, w, 3]."""
    judged = results.evaluations.loc[results.evaluations["scenario"] == scenario, "trial"]
    contents = (files.preview(int(trial), scenario) for trial in judged)
    content = next((one for one in contents if one is not None), None)
    return None if content is None else read_picture(content)


def _counts(flags: Flags) -> str:
    flagged, total = int(flags.flagged.sum()), len(flags.flagged)
    if flags.is_poison is None:
        return f"{flagged} of {total} training images are flagged; nobody knows which are poisoned."
    poison = flags.is_poison
    hits, alarms = int((flags.flagged & poison).sum()), int((flags.flagged & ~poison).sum())
    alarmed = several(alarms, "false alarm") if alarms else "no false alarm"
    return f"{flagged} of {total} training images are flagged: {hits} of {int(poison.sum())} poisoned ones, {alarmed}."


def _sheets(name: str, flags: Flags, stored: StoredImages) -> Iterator[Item]:
    """A picture for each kind of sample that there is."""
    poison = flags.is_poison
    scores = np.zeros(len(flags.flagged)) if flags.scores is None else flags.scores
    kinds = {"flagged": ("Flagged, the highest scores first", flags.flagged, -scores)}
    if poison is not None:
        kinds["alarms"] = ("False alarms, the highest scores first", flags.flagged & ~poison, -scores)
        kinds["misses"] = ("Misses, the lowest scores first", poison & ~flags.flagged, scores)
    if flags.scores is None:
        kinds = {kind: (what.partition(",")[0], mask, order) for kind, (what, mask, order) in kinds.items()}
    for kind, (what, mask, order) in kinds.items():
        every = np.flatnonzero(mask)
        rows = every[np.argsort(order[every], kind="stable")][:MOST]
        if not len(rows):
            continue
        images = stored.rows(rows, flags.labels)
        if images is None:
            yield Note(f"{what}: the benign images of this dataset are not on this machine.", "footnote")
            continue
        known = [None if poison is None else bool(poison[row]) for row in rows]
        sheet = draw_sheet(images, [str(flags.labels[row]) for row in rows], known)
        yield Picture(f"{name}-{kind}", f"{what}: {len(rows)} of {len(every)}{_scored(flags, rows)}.", *sheet)


def _scored(flags: Flags, rows: NDArray[np.int64]) -> str:
    if flags.scores is None:
        return ""
    first, last = (format_number(float(flags.scores[row])) for row in (rows[0], rows[-1]))
    return f" (score {first})" if first == last else f" (scores {first} to {last})"
