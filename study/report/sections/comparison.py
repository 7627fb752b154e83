"""Two configurations side by side, as a section: who is better by which metric, or that the data do not tell."""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces import SEARCH_SPACES
from study.analysis.fixed_fields import load_fields
from study.analysis.paired_tests import ALPHA, Difference, Pairs
from study.analysis.selected_trial import SelectedTrial
from study.cli.numbers import format_number, format_value, several
from study.config.objectives import in_words
from study.planning.clean_reserve import reserve_size
from study.report.elements import Bars, Cell, Item, Note, Section, Table
from study.report.formatting import format_difference
from study.report.sections.compared_runs import REPEATS_FIRST, has_repeats, runs_of_both

_COMPARED_SETTINGS = (
    "preset",
    "dataset",
    "train_size",
    "test_size",
    "image_size",
    "target_label",
    "model",
    "width",
    "blocks",
    "precision",
    "until",
    "asr_floor",
    "clean_reserve",
)
_TESTED = ("95 % interval", "p", "corrected p")
_SHOWN = 12  # scenarios left out that are named


def section(
    a: SelectedTrial, b: SelectedTrial, pairs: Pairs, differences: Sequence[Difference], command: str = ""
) -> Section:
    """What the differences of two selected trials say.

    Args:
        pairs, differences: of `study.analysis.paired_tests`.
        command: that made them.
    """
    items: list[Item] = [_sides(a, b), *_configurations(a, b), *_warnings(a, b, pairs)]
    items += [Note(text, "warning") for text in _about_seeds(differences)]
    overall = [one for one in differences if one.stratum is None]
    strata = [one for one in differences if one.stratum is not None]
    if overall:
        alike = all(one.pairs == len(pairs.frame) for one in overall)
        over = _scenarios(pairs) if alike else "the scenarios that count for each metric"
        items.append(_table("differences", f"A minus B over {over}", overall))
    items += [Note(text, "warning") for text in _about_balance(pairs, overall)]
    items += [Note(text) for text in (*_about_tests(differences), *_about_intervals(differences))]
    items += runs_of_both(a, b, pairs, [one.metric for one in overall])
    if strata:
        items.append(_table("differences-by-stratum", "A minus B on each attack and rate", strata))
    items += [_bars(differences), _method(pairs, differences)]
    title, lead = f"{_name(a)} against {_name(b)}", _lead(a, b, differences)
    return Section("comparison", title, lead, tuple(items), command, uses_labels=True)


def settings_that_differ(a: SelectedTrial, b: SelectedTrial) -> dict[str, tuple[str, str]]:
    """Settings of data, scale and network in which two studies differ, by option."""
    sides = [_settings(selected) for selected in (a, b)]
    named = {"target_label": (a.results.manifest.target, b.results.manifest.target)}
    return {
        option: named.get(option, (str(sides[0][option]), str(sides[1][option])))
        for option in _COMPARED_SETTINGS
        if sides[0][option] != sides[1][option]
    }


def _settings(selected: SelectedTrial) -> Mapping[str, Any]:
    settings = selected.results.config.model_dump(mode="json")
    labels = {part.target_label for part in selected.results.manifest.parts} or {settings["target_label"]}
    model = settings["model"] or SEARCH_SPACES[selected.results.space].model
    reserve = reserve_size(selected.results.config)  # what a defense needs, where nobody set another
    # The label may be set by name or by number.
    return {**settings, "model": model, "target_label": labels, "clean_reserve": reserve}


def _name(selected: SelectedTrial) -> str:
    return f"{selected.results.name} ({selected.how})"


def _scenarios(pairs: Pairs) -> str:
    return several(len(pairs.frame), "scenario")


def _names(differences: Sequence[Difference]) -> str:
    return ", ".join(in_words(one.metric) for one in differences)


def _lead(a: SelectedTrial, b: SelectedTrial, differences: Sequence[Difference]) -> str:
    overall = [one for one in differences if one.stratum is None]
    if not overall:
        alone = "No seed has a result on every attack and rate, so nothing is said over all of them."
        return " ".join([alone, *_better(a, b, differences)])
    sentences = _better(a, b, overall)
    open_ = [one for one in overall if one.verdict in ("not separated", "not tested")]
    if open_:
        sentences.append(f"The data do not separate them by {_names(open_)}.")
    equal = [one for one in overall if one.verdict == "equal"]
    if equal:
        sentences.append(f"They are equal on every scenario by {_names(equal)}.")
    if max(one.seeds for one in overall) == 1:
        several_seeds = any(one.seeds > 1 for one in differences)
        only = "One seed only has every attack at work" if several_seeds else "One seed only"
        sentences.append(f"{only}: nothing tells how far another would move these numbers.")
    return " ".join(sentences)


def _better(a: SelectedTrial, b: SelectedTrial, differences: Sequence[Difference]) -> list[str]:
    """Who is better by what; apart what holds on these scenarios alone, since other seeds may turn it over."""
    sentences = []
    for side, selected in (("A", a), ("B", b)):
        for holds, where in ((True, ""), (False, "on these scenarios, which leaves open what other seeds give, ")):
            better = [one for one in differences if one.verdict == side and bool(one.holds_over_seeds) is holds]
            if better:
                by = ", ".join(f"{in_words(one.metric)}{_on(one)} ({_both(one)})" for one in better)
                sentences.append(f"{side} ({selected.results.defense}, {selected.how}) is better {where}by {by}.")
    return sentences


def _on(one: Difference) -> str:
    return f" on {one.stratum}" if one.stratum is not None else ""


def _both(one: Difference) -> str:
    """The two means; where they look alike, how little they differ by."""
    shown = format_number(one.a), format_number(one.b)
    return f"{shown[0]} against {shown[1]}" if shown[0] != shown[1] else f"by {format_number(abs(one.mean))}"


def _sides(a: SelectedTrial, b: SelectedTrial) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            side,
            selected.results.name,
            selected.results.defense,
            selected.how,
            f"{selected.results.config.preset}, {selected.results.config.dataset}",
        )
        for side, selected in (("A", a), ("B", b))
    ]
    return Table("sides", "What is compared", ("", "study", "defense", "configuration", "scale"), tuple(rows), left=5)


def _configurations(a: SelectedTrial, b: SelectedTrial) -> list[Table]:
    """What two configurations of one defense set differently; two defenses share no hyperparameter."""
    if a.results.defense != b.results.defense:
        return []
    sides = [_fields(selected) for selected in (a, b)]
    rows: list[tuple[Cell, ...]] = [
        (field, *(format_value(side[field]) if field in side else None for side in sides))
        for field in dict.fromkeys((*sides[0], *sides[1]))
        if sides[0].get(field) != sides[1].get(field)
    ]
    if not rows:
        return []
    return [Table("configurations", "Hyperparameters that differ", ("hyperparameter", "A", "B"), tuple(rows))]


def _fields(selected: SelectedTrial) -> dict[str, Any]:
    """All fields of the defense as the trial had them, less the searched ones that do nothing there."""
    results = selected.results
    fixed = {field: value for field, value in load_fields(results).items() if field not in results.ranges}
    return {**fixed, **results.points[selected.trial]}


def _warnings(a: SelectedTrial, b: SelectedTrial, pairs: Pairs) -> list[Note]:
    notes = []
    for side, selected in (("A", a), ("B", b)):
        if selected.oracle:
            notes.append(
                f"{side} was picked with ground truth on these very scenarios, which flatters it: no defender could "
                "have picked it, and on scenarios it never saw it may do worse." + _luck(pairs)
            )
    if pairs.other_tests:
        notes.append(
            "CA and ASR are measured on other test images in A than in B, as where another clean reserve is set aside "
            f"of them ({several(len(pairs.other_tests), 'scenario')}). This is part of their difference."
        )
    for side, selected in (("A", a), ("B", b)):
        damaged = selected.results.damaged
        if damaged:
            notes.append(
                f"{several(len(damaged), 'file')} of {side} cannot be read and is left out, first {damaged[0]}."
            )
    different = settings_that_differ(a, b)
    if different:
        told = "; ".join(f"{option} {left} against {right}" for option, (left, right) in different.items())
        notes.append(
            f"The studies differ in more than what is compared (A against B): {told}. This is part of the difference."
        )
    if pairs.left_out:
        named = [f"{name} ({why})" for name, why in list(pairs.left_out.items())[:_SHOWN]]
        more = f" and {len(pairs.left_out) - _SHOWN} more" if len(pairs.left_out) > _SHOWN else ""
        notes.append(f"Left out: {', '.join(named)}{more}.")
    return [Note(text, "warning") for text in notes]


def _luck(pairs: Pairs) -> str:
    if pairs.picked_of < 2:
        return ""
    return f" Each p is taken {pairs.picked_of} times, once for each trial that it may owe its place to luck over."


def _about_seeds(differences: Sequence[Difference]) -> list[str]:
    overall = [one for one in differences if one.stratum is None]
    if not overall:
        return ["No seed has a result on every attack and rate, so nothing can be said over all of them."]
    if max(one.seeds for one in overall) > 1:
        return []
    more = several(min(one.more_seeds for one in overall), "more seed")
    if any(one.seeds > 1 for one in differences):
        return [
            "One seed only has a result on every attack and rate, so over all of them there is no interval and nothing "
            f"is tested. About {more} with all of them would be needed in both studies."
        ]
    return [
        "One seed only, so there is no interval and nothing is tested: its scenarios share their initial weights, and "
        f"nothing tells luck from a difference. About {more} would be needed in both studies."
    ]


def _about_balance(pairs: Pairs, overall: Sequence[Difference]) -> list[str]:
    counts = [one.pairs for one in overall]
    if not counts or min(counts) == len(pairs.frame):
        return []
    used = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return [
        f"Over all: {used} of {_scenarios(pairs)}. Only a seed that every attack and rate has, and a scenario that "
        "defines the metric, can stand for all of them; the next table has the rest."
    ]


def _about_tests(differences: Sequence[Difference]) -> list[str]:
    """For each metric that is not separated overall: what would have to be there."""
    lines = []
    for one in differences:
        if one.stratum is not None or one.seeds < 2 or one.verdict not in ("not separated", "not tested"):
            continue
        have = f"{in_words(one.metric)}: {one.differing} of {several(one.pairs, 'pair')} differ"
        if one.more_seeds:
            lines.append(
                f"{have}, with which p cannot fall below {format_value(one.smallest_p)} before correction; about "
                f"{several(one.more_seeds, 'more seed')} would be needed for the test to be able to separate them."
            )
        else:
            lines.append(
                f"{have}, enough for the test to have separated them: their signs do not agree well enough. "
                "The data do not separate them."
            )
    return lines


def _about_intervals(differences: Sequence[Difference]) -> list[str]:
    """Where the test, which asks about these scenarios, and the interval, which asks about other seeds, part ways."""
    return [
        f"{in_words(one.metric)}: {one.verdict} is better on these scenarios, but the interval over {one.seeds} seeds "
        "still holds 0: what other seeds would give is open."
        for one in differences
        if one.stratum is None and one.verdict in ("A", "B") and one.holds_over_seeds is False
    ]


def _table(name: str, caption: str, differences: Sequence[Difference]) -> Table:
    by_stratum = any(one.stratum is not None for one in differences)
    tested = any(one.low is not None or one.p is not None for one in differences)
    header = ("metric", "pairs", "seeds", "A", "B", "A - B", *(_TESTED if tested else ()), "verdict")
    rows: list[tuple[Cell, ...]] = []
    for one in differences:
        cells: tuple[Cell, ...] = (
            in_words(one.metric),
            one.pairs,
            one.seeds,
            format_number(one.a),
            format_number(one.b),
            format_difference(one.mean),
            *((_interval(one), format_number(one.p), format_number(one.corrected)) if tested else ()),
            _word(one),
        )
        rows.append((one.stratum, *cells) if by_stratum else cells)
    if by_stratum:
        return Table(name, caption, ("attack and rate", *header), tuple(rows), left=2)
    return Table(name, caption, header, tuple(rows))


def _interval(one: Difference) -> str:
    if one.low is None or one.high is None:
        return "-"
    return f"[{format_difference(one.low)}, {format_difference(one.high)}]"


def _word(one: Difference) -> str:
    return f"{one.verdict} better" if one.verdict in ("A", "B") else one.verdict


def _bars(differences: Sequence[Difference]) -> Bars:
    labels = tuple(dict.fromkeys(one.stratum or "all" for one in differences))
    metrics = tuple(dict.fromkeys(one.metric for one in differences))
    by = {(one.metric, one.stratum or "all"): one for one in differences}

    def values(part: str) -> tuple[tuple[float | None, ...], ...]:
        return tuple(tuple(getattr(by.get((metric, label)), part, None) for label in labels) for metric in metrics)

    return Bars(
        name="paired-differences",
        caption="A minus B with 95 % intervals over seeds (none with one seed)",
        labels=labels,
        groups=tuple(map(in_words, metrics)),
        values=values("mean"),
        low=values("low"),
        high=values("high"),
        x_label="A minus B",
    )


def _method(pairs: Pairs, differences: Sequence[Difference]) -> Note:
    tests = sum(one.p is not None for one in differences)
    return Note(
        f"A pair is a scenario that both have: {_scenarios(pairs)}. Means: over the seeds of an attack and "
        "rate, then over these. Interval: Student's t over seeds. Test: sign-flip permutation test of the paired "
        "differences (exact up to 16 that differ; of more, 99,999 flips are drawn), which takes pairs of one seed as "
        "independent although they share their initial weights; with n "
        f"pairs that differ p cannot fall below 2^(1-n), and what cannot reach {ALPHA:g} is not tested. Correction: "
        f"Holm, over {several(tests, 'test')}.{REPEATS_FIRST * has_repeats(pairs)}",
        "footnote",
    )
