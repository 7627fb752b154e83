"""The stability region: the box of settings inside which every trial keeps its limits on every attack."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.space import Choice, Int, Range
from study.analysis.discretise import Cells, Numbers
from study.analysis.prim import Bools, Box, peel_prim_box
from study.analysis.results import Results
from study.analysis.reused_settings import shared_fields
from study.analysis.upstream_fields import searched_upstream
from study.cli.numbers import format_value, several
from study.config.sampling import SPACE_FILLING
from study.report.elements import Item, Note, Section, Table
from tracking import names

if TYPE_CHECKING:
    import pandas

_WHOLE = " (the whole range)"
_NOWHERE = "only where it does nothing"
_LEAST = 5  # settings on each side: around fewer good ones a box says nothing, and fewer bad ones cut it anywhere


@dataclass(frozen=True)
class Region:
    """The box and what stands behind it.

    Attributes:
        trials, good: complete trials, and those within the limits on every scenario whose attack works.
        inside: good trials in the box; no other trial is in it.
        settings: of these, how many differ in a field that is bounded; the rest repeat one another.
        volume: of the box, as a share of the space of the bounded fields (log where a range is log), in [0, 1]; a field
            that acts at some points alone counts as if it did at all.
        bounds: by field, in words.
        default_inside: whether the paper's default lies in the box; None where no trial is the default.
    """

    trials: int
    good: int
    inside: int
    settings: int
    volume: float
    bounds: dict[str, str]
    default_inside: bool | None


def bounded_fields(results: Results) -> dict[str, Range]:
    """The searched fields that TPR or FPR can depend on: a bound on another one would say nothing."""
    defined = [name for name in (names.TPR, names.FPR) if results.compared[name].notna().any()]
    upstream = {field for metric in defined for field in searched_upstream(results, metric)}
    return {name: searched for name, searched in results.ranges.items() if name in upstream}


def stability_region(results: Results, min_tpr: float = 0.99, max_fpr: float = 0.01) -> Region | None:
    """Looks for the box, in the space of the fields that TPR and FPR can depend on.

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
    return build_region(bounded_fields(results), results.trials.loc[good.index], good.to_numpy(bool), results.trials)


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
        return Region(len(trials), int(good.sum()), 0, 0, 0.0, {}, None)
    bounds, volume = {}, 1.0
    for at, (name, scale) in enumerate(scales.items()):
        bounds[name], share = scale.bounds(box.low[at], box.high[at])
        volume *= share
    for at, (name, choice) in enumerate(choices.items()):
        known = [option for option, is_in in zip(choice.options, box.options[at], strict=True) if is_in]
        bounds[name] = ", ".join(map(str, known)) + (_WHOLE if len(known) == len(choice.options) else "") or _NOWHERE
        volume *= len(known) / len(choice.options) if known else 1.0
    ordered = {name: bounds[name] for name in ranges}
    inside = box.holds(numbers, options) & good
    rows = np.nan_to_num(np.column_stack([numbers, options]), nan=np.inf)  # no NaN equals another
    settings = len(np.unique(rows[inside], axis=0)) if inside.any() else 0
    default = _default_inside(box, everything, scales, choices)
    return Region(len(trials), int(good.sum()), int(inside.sum()), settings, volume, ordered, default)


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

    def bounds(self, low: float, high: float) -> tuple[str, float]:
        """In words, and as a share of the range; no trial in the box has a number of it where low is above high."""
        return (self.words(low, high), self.share(low, high)) if low <= high else (_NOWHERE, 1.0)

    def words(self, low: float, high: float) -> str:
        ends = (self._value(low), self._value(high))
        bottom, top = (str(int(end)) if self._half else format_value(end) for end in ends)
        whole = _WHOLE if (low, high) == self.ends else ""
        return f"{bottom} to {top}{whole}"


def _points(trials: "pandas.DataFrame", scales: dict[str, _Scale], choices: dict[str, Choice]) -> tuple[Numbers, Cells]:
    numbers = [scale.place(trials[name].to_numpy(float)) for name, scale in scales.items()]
    options = [
        [-1 if value is None else choice.options.index(value) for value in trials[name]]
        for name, choice in choices.items()
    ]
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
    command = results.command_for("analyze")
    limits = f"TPR at least {min_tpr:g} and FPR at most {max_fpr:g}"

    def unanswered(why: str) -> Section:
        return Section("region", title, why, (), command, answered=False)

    region = stability_region(results, min_tpr, max_fpr)
    if region is None:
        return unanswered("No complete trial has a TPR or FPR on a scenario whose attack works.")
    fields = bounded_fields(results)
    if not fields:
        return unanswered("This study varies no hyperparameter that TPR and FPR can depend on.")
    scenarios = results.compared["poisoning"].nunique()
    which = f"all {scenarios} scenarios whose attack works" if scenarios > 1 else "the one scenario that counts"
    where = f"on {which}" if results.repeats == 1 else f"in every repeat of {which}"
    if not region.good:
        return unanswered(f"None of {several(region.trials, 'complete trial')} keeps {limits} {where}.")
    if not region.inside:
        return unanswered(
            f"{several(region.good, 'trial')} of {region.trials} keep {limits} {where}, but others with the same "
            "settings do not."
        )
    bad = region.trials - region.good
    if region.settings < _LEAST or 0 < bad < _LEAST:
        few = "keep them" if region.settings < _LEAST else "do not"
        return unanswered(
            f"{region.good} of {several(region.trials, 'complete trial')} {'keeps' if region.good == 1 else 'keep'} "
            f"{limits} {where}: to bound a region, at "
            f"least {_LEAST} different settings that {few} are needed."
        )
    items = (*_table(results, region, fields, f"{limits} {where}"), *_notes(results, region, fields))
    return Section("region", title, _lead(region, limits, where), items, command, uses_labels=True)


def _lead(region: Region, limits: str, where: str) -> str:
    if region.good == region.trials:
        return f"All {region.trials} complete trials keep {limits} {where}, so nothing bounds the settings."
    return (
        f"{region.good} of {region.trials} complete trials keep {limits} {where}. The box below holds {region.inside} "
        f"of them and no other trial; it is {_percent(region.volume)} of the space.{_default_words(region)}"
    )


def _table(results: Results, region: Region, fields: Collection[str], keeps: str) -> list[Table]:
    if region.good == region.trials:
        return []
    rows = tuple((name, words, str(results.ranges[name])) for name, words in region.bounds.items() if name in fields)
    return [
        Table("region", f"A box in which every trial keeps {keeps}", ("hyperparameter", "within", "searched"), rows, 3)
    ]


def _default_words(region: Region) -> str:
    if region.default_inside is None:
        return ""
    return f" The paper's default lies {'inside' if region.default_inside else 'outside'}."


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-4 else "less than 0.01 %"


def _notes(results: Results, region: Region, fields: Collection[str]) -> list[Item]:
    left_out = [name for name in results.ranges if name not in fields]
    texts = []
    if left_out:
        texts.append(
            f"Neither TPR nor FPR depends on {', '.join(left_out)}: the stages before the flags do not read "
            f"{'it' if len(left_out) == 1 else 'them'}, so there is no bound."
        )
    some = [name for name in fields if results.complete[name].isna().any()]
    if some:
        texts.append(f"A bound on {', '.join(some)} counts where it acts: in other trials it does nothing.")
    if region.good < region.trials:
        texts.append(
            f"Empirical: {region.settings} different settings stand behind the box and none against it, which does not "
            f"exclude bad ones between them: at most {300 / region.settings:.0f} % of the box would be bad, had it "
            "been chosen beforehand (rule of three, 95 %). It was chosen to hold no bad trial, so the true share may "
            "be larger. The box is found by peeling (PRIM, Friedman & Fisher 1999), and not proven to be the largest."
        )
    shared = [name for name in shared_fields(results) if name in fields]
    if shared and region.good < region.trials:
        texts.append(
            f"Trials share settings of {', '.join(shared)}, and with each the luck of its training: as evidence they "
            "are fewer than their number says."
        )
    if results.config.sampler not in SPACE_FILLING:
        texts.append(
            f"The sampler {results.config.sampler!r} crowds where it found something good: elsewhere few trials could "
            "have spoken against the box."
        )
    if len(results.seeds) == 1:
        texts.append("One seed only: a setting that holds here may fail on another seed.")
    return [Note(text, "footnote") for text in texts]
