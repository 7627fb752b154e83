"""The stability region: the box of settings inside which every trial keeps its limits on every attack."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.space import Choice, Int, Range
from study.analysis.discretise import Cells, Numbers
from study.analysis.prim import Bools, Box, peel_prim_box
from study.analysis.results import Results
from study.cli.numbers import format_value
from study.config.config import SPACE_FILLING
from study.report.elements import Item, Note, Section, Table
from tracking import names

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Region:
    """What was found.

    Attributes:
        trials, good: complete trials, and those within the limits on every scenario whose attack works.
        inside: good trials in the box; no other trial is in it.
        volume: of the box, as a share of the space (log where a range is log), in [0, 1].
        bounds: by field, in words.
        default_inside: whether the paper's default lies in the box; None where no trial is the default.
    """

    trials: int
    good: int
    inside: int
    volume: float
    bounds: dict[str, str]
    default_inside: bool | None


def stability_region(results: Results, min_tpr: float = 0.99, max_fpr: float = 0.01) -> Region | None:
    """Looks for the box.

    Args:
        min_tpr, max_fpr: limits, inclusive, that a trial keeps on every scenario whose attack works and that defines
            them.

    Returns:
        None where no such scenario defines TPR or FPR.
    """
    cells = results.compared
    judged = cells[cells[names.TPR].notna() | cells[names.FPR].notna()]
    if judged.empty:
        return None
    kept = ~(
        (judged[names.TPR] < min_tpr) | (judged[names.FPR] > max_fpr)
    )  # a metric that is undefined breaks no limit
    good = kept.groupby(judged["trial"]).all()
    return build_region(results.ranges, results.trials.loc[good.index], good.to_numpy(bool), results.trials)


def build_region(
    ranges: Mapping[str, Range], trials: "pandas.DataFrame", good: Bools, everything: "pandas.DataFrame"
) -> Region:
    """The box around good trials, and how large it is.

    Args:
        trials: those that were judged.
        good: which of them kept the limits, bool [trials].
        everything: where the paper's default is looked up.
    """
    scales = {name: _Scale(searched) for name, searched in ranges.items() if not isinstance(searched, Choice)}
    choices = {name: searched for name, searched in ranges.items() if isinstance(searched, Choice)}
    numbers, options = _points(trials, scales, choices)
    box = peel_prim_box(
        numbers, options, good, [scale.ends for scale in scales.values()], [len(c.options) for c in choices.values()]
    )
    if box is None:
        return Region(len(trials), int(good.sum()), 0, 0.0, {}, None)
    bounds, volume = {}, 1.0
    for at, (name, scale) in enumerate(scales.items()):
        bounds[name] = scale.words(box.low[at], box.high[at])
        volume *= scale.share(box.low[at], box.high[at])
    for at, (name, choice) in enumerate(choices.items()):
        known = [option for option, is_in in zip(choice.options, box.options[at], strict=True) if is_in]
        bounds[name] = ", ".join(map(str, known))
        volume *= len(known) / len(choice.options)
    ordered = {name: bounds[name] for name in ranges}
    inside = int((box.holds(numbers, options) & good).sum())
    return Region(
        len(trials), int(good.sum()), inside, volume, ordered, _default_inside(box, everything, scales, choices)
    )


class _Scale:
    """A range of numbers on a scale on which volume is even; a whole number is as wide as Optuna draws it."""

    def __init__(self, searched: Any) -> None:
        self._found, self._half = searched, 0.5 if isinstance(searched, Int) else 0.0
        self.ends = (self.place(float(searched.low)), self.place(float(searched.high)))

    def place(self, value: Any) -> Any:
        return np.log(value) if self._found.log else value

    def _value(self, place: float) -> float:
        value = float(np.exp(place)) if self._found.log else float(place)
        return float(round(value)) if self._half else value

    def share(self, low: float, high: float) -> float:
        def length(bottom: float, top: float) -> float:
            return float(self.place(top + self._half) - self.place(bottom - self._half))

        return length(self._value(low), self._value(high)) / length(self._found.low, self._found.high)

    def words(self, low: float, high: float) -> str:
        ends = (self._value(low), self._value(high))
        bottom, top = (str(int(end)) if self._half else format_value(end) for end in ends)
        whole = " (the whole range)" if (low, high) == self.ends else ""
        return f"{bottom} to {top}{whole}"


def _points(trials: "pandas.DataFrame", scales: dict[str, _Scale], choices: dict[str, Choice]) -> tuple[Numbers, Cells]:
    numbers = [scale.place(trials[name].to_numpy(float)) for name, scale in scales.items()]
    options = [[choice.options.index(value) for value in trials[name]] for name, choice in choices.items()]
    return (
        np.array(numbers, float).reshape(len(scales), len(trials)).T,
        np.array(options, np.int64).reshape(len(choices), len(trials)).T,
    )


def _default_inside(
    box: Box, everything: "pandas.DataFrame", scales: dict[str, _Scale], choices: dict[str, Choice]
) -> bool | None:
    if not everything["paper_default"].any():
        return None
    numbers, options = _points(everything[everything["paper_default"]].iloc[:1], scales, choices)
    return bool(box.holds(numbers, options)[0])


def region_section(results: Results, min_tpr: float = 0.99, max_fpr: float = 0.01) -> Section:
    """The answer."""
    title = "Settings that hold on every attack"
    command = f"python -m study.analyze {results.name}"
    limits = f"TPR at least {min_tpr:g} and FPR at most {max_fpr:g}"
    region = stability_region(results, min_tpr, max_fpr)
    if region is None:
        why = "no complete trial has a TPR or FPR on a scenario whose attack works"
        note = Note(f"No region: {why}.", "warning")
        return Section("region", title, "This study cannot tell.", (note,), command)
    scenarios = results.compared["scenario"].nunique()
    where = f"on all {scenarios} scenarios whose attack works" if scenarios > 1 else "on the one scenario that counts"
    if not region.inside:
        why = f"None of {region.trials} complete trials keeps {limits} {where}"
        if region.good:
            why = f"{region.good} trials keep {limits} {where}, but others with the same settings do not"
        return Section("region", title, f"{why}: there is no such region.", (), command)
    lead = (
        f"{region.good} of {region.trials} complete trials keep {limits} {where}. The box below holds {region.inside} "
        f"of them and no other trial; it is {_percent(region.volume)} of the space.{_default_words(region)}"
    )
    rows = tuple((name, words, str(results.ranges[name])) for name, words in region.bounds.items())
    caption = f"A box in which every trial keeps {limits} {where}"
    table = Table("region", caption, ("hyperparameter", "within", "searched"), rows, left=3)
    return Section("region", title, lead, (*_notes(results, region), table), command)


def _default_words(region: Region) -> str:
    if region.default_inside is None:
        return ""
    return f" The paper's default lies {'inside' if region.default_inside else 'outside'}."


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-4 else "less than 0.01 %"


def _notes(results: Results, region: Region) -> list[Item]:
    share = min(1.0, 3 / region.inside)
    bound = f"; at most {share:.0%} of the box, had it been chosen beforehand"
    notes: list[Item] = [
        Note(
            f"Empirical: {region.inside} trials stand behind the box and none against it, which does not exclude bad "
            f"settings between them{bound} (rule of three, 95 %). The box was chosen to hold no bad trial, so the true "
            "share is larger. Found by peeling (PRIM, Friedman & Fisher 1999), not proven to be the largest. TPR and "
            "FPR are oracles."
        )
    ]
    if results.config.sampler not in SPACE_FILLING:
        notes.append(
            Note(
                f"The sampler {results.config.sampler!r} crowds where it found something good: elsewhere few "
                "trials could have spoken against the box.",
                "warning",
            )
        )
    if len(results.seeds) == 1:
        notes.append(Note("One seed only: a setting that holds here may fail on another seed.", "warning"))
    return notes
