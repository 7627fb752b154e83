"""What a tuned setting is worth on an attack (a rate, a seed) that its search never saw.

A setting tuned with an attack's ground truth proves nothing about the defense: a defender commits first. So each group
of scenarios is held out once; the setting that is best on the others is run on it, with seeds that no search saw,
beside the paper's default and the setting that was tuned on the group itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from study.analysis.failed_runs import FAILED_RUNS, count_failed, shows_failed
from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import direction, in_words
from study.report.elements import Cell, Note, Section, Table
from study.report.formatting import spread
from tracking import names

if TYPE_CHECKING:
    import pandas

By = Literal["attack", "rate", "seed"]

_NEW_SEEDS = "new seeds"
_TUNED = "tuned without it"
_SAME = 1e-12  # a difference below it is rounding


@dataclass(frozen=True)
class Fold:
    """One group held out.

    Attributes:
        held_out: the attack, the rate, or that all scenarios get new seeds.
        tuned: the trial that is best on all other groups (with new seeds: on all), by the study's objective.
        oracle: the trial that is best on the group's own scenarios of the search.

    Both are None where no scenario that they are chosen on has an attack that works.
    """

    held_out: str
    tuned: int | None
    oracle: int | None


def build_groups(scenarios: "pandas.DataFrame", by: By) -> "pandas.Series":
    """The group of each scenario, by its name.

    Args:
        scenarios: as `Results.scenarios`.
    """
    if by == "attack":
        return scenarios["attack"].astype(str)
    if by == "rate":
        return scenarios["poison_rate"].map("{:g}".format)
    return scenarios["attack"].map(lambda _: _NEW_SEEDS)


def folds(search: Results, by: By) -> list[Fold]:
    """Every group held out once, in the order of the study."""
    search = search.over_repeats
    groups = build_groups(search.scenarios, by)
    held_out = []
    for group in groups.unique():
        own = groups.index[groups == group]
        others = own if by == "seed" else groups.index[groups != group]
        held_out.append(Fold(str(group), search.best_on(others), search.best_on(own)))
    return held_out


def to_judge(search: Results, by: By) -> list[int]:
    """The trials whose points are judged: the paper's default, then whatever a fold chose, each once."""
    chosen = [trial for fold in folds(search, by) for trial in (fold.tuned, fold.oracle)]
    return [trial for trial in dict.fromkeys([search.default, *chosen]) if trial is not None]


def section(search: Results, judged: Results, by: By) -> Section:
    """The answer: a table by group, and what it comes to."""
    held = folds(search, by)
    table = _Judgement(search, judged, by)
    rows: list[tuple[Cell, ...]] = []
    strong = []
    for fold in held:
        strong.append(len(rows))
        rows += table.rows(fold)
    means = table.means(held)
    strong.append(len(rows))
    rows += [(f"mean of {len(table.counted(held))}" if not place else "", *row) for place, row in enumerate(means)]
    objective = search.goal.objectives[0]
    lost = (FAILED_RUNS,) if table.tells_failed else ()
    return Section(
        "holdout",
        {"attack": "An attack it never saw", "rate": "A poison rate it never saw", "seed": "Seeds it never saw"}[by],
        table.lead(held),
        (
            Table(
                "holdout",
                f"Settings run on seeds {_listed(judged.seeds)} after a search on seeds {_listed(search.seeds)}, mean "
                f"over scenarios whose attack works{_spread_note(judged)}. Seen: {in_words(objective)} of the same "
                "setting on the groups it was tuned on, with the new seeds. Gap: seen minus unseen, turned so that "
                "more is worse",
                ("held out", "setting", *map(in_words, table.metrics), *lost, in_words(objective), "seen", "gap"),
                tuple(rows),
                left=2,
                strong=tuple(strong),
            ),
            *_notes(search, judged, by, held, table),
        ),
        search.command,
        uses_labels=True,
    )


class _Judgement:
    """Looks up what settings reached on groups."""

    def __init__(self, search: Results, judged: Results, by: By) -> None:
        self.objective = search.goal.objectives[0]
        self.sign = 1.0 if direction(self.objective) == "maximize" else -1.0
        merged, runs = judged.over_repeats, judged.compared
        self.scenarios = merged.scenarios.assign(group=build_groups(merged.scenarios, by))
        self._cells = merged.compared.assign(group=merged.compared["scenario"].map(self.scenarios["group"]))
        self._runs = runs.assign(group=runs["poisoning"].map(self.scenarios["group"]))
        self.tells_failed = shows_failed(judged, [part for _, part in runs.groupby("trial")])
        self._number = _numbers(search, judged)
        self._default = search.default
        self._by = by
        # With `--until isolate` no setting has a model, and CA and ASR are those of the undefended one alone.
        self.metrics = [name for name in names.HEADLINE if self._cells[name].notna().any()]

    def counted(self, held: Sequence[Fold]) -> list[Fold]:
        """The folds that say something: there was something to tune on, and the objective is defined on them."""
        return [fold for fold in held if fold.tuned is not None and self.value(fold.tuned, fold) is not None]

    def settings(self, fold: Fold) -> dict[str, int | None]:
        """Label -> trial of the search."""
        tuned = "tuned on other seeds" if self._by == "seed" else _TUNED
        chosen = {tuned: fold.tuned, "paper default": self._default}
        return chosen if self._by == "seed" else {**chosen, "tuned on it": fold.oracle}

    def cells(self, trial: int | None, fold: Fold, seen: bool = False) -> "pandas.DataFrame":
        """Of a setting on the group that is held out, or on the others."""
        of_trial = self._cells[self._cells["trial"] == self._number.get(trial, -1)]
        return of_trial[(of_trial["group"] != fold.held_out) == seen]

    def failed(self, chosen: Sequence[tuple[Fold, int | None]]) -> tuple[Cell, ...]:
        """How many runs failed of the settings on the groups that are held out; nothing where no table tells it."""
        if not self.tells_failed:
            return ()
        numbers = {fold.held_out: self._number.get(trial, -1) for fold, trial in chosen}
        return (count_failed(self._runs[self._runs["trial"] == self._runs["group"].map(numbers)]).text,)

    def value(self, trial: int | None, fold: Fold, seen: bool = False) -> float | None:
        """The objective on the held-out group; seen: the mean over the others."""
        cells = self.cells(trial, fold, seen)
        by_group = cells.groupby("group")[self.objective].mean()
        return None if by_group.dropna().empty else float(by_group.mean())

    def fails(self, fold: Fold) -> bool:
        """Whether no attack of the group that is held out works."""
        return bool(self.scenarios[self.scenarios["group"] == fold.held_out]["attack_failed"].all())

    def rows(self, fold: Fold) -> list[tuple[Cell, ...]]:
        """Undefended, then every setting."""
        own = self.scenarios[self.scenarios["group"] == fold.held_out]
        failed = self.fails(fold)
        undefended = {names.CA: own[names.CA_UNDEFENDED], names.ASR: own[names.ASR_UNDEFENDED]}
        cells = [spread(undefended[name]) if name in undefended else None for name in self.metrics]
        label = f"{fold.held_out}{' ATTACK FAILED' if failed else ''}"
        asr = _mean(own[names.ASR_UNDEFENDED].dropna())
        plain = "undefended" if names.ASR in self.metrics else f"undefended (ASR {format_number(asr)})"
        untold: tuple[Cell, ...] = (None,) if self.tells_failed else ()
        lines: list[tuple[Cell, ...]] = [(label, plain, *cells, *untold, None, None, None)]
        for name, trial in self.settings(fold).items():
            if failed or trial is None:
                continue
            cells = [spread(self.cells(trial, fold)[metric]) for metric in self.metrics]
            cells += self.failed([(fold, trial)])
            lines.append(("", f"{name} (#{trial})", *cells, self.value(trial, fold), *self._gap(name, trial, fold)))
        return lines

    def _gap(self, name: str, trial: int | None, fold: Fold) -> tuple[float | None, float | None]:
        """The objective on the groups that a setting was tuned on, and how much worse it is on the one held out."""
        seen = self.value(trial, fold, seen=True) if name.startswith(_TUNED) else None
        value = self.value(trial, fold)
        return seen, None if seen is None or value is None else self.sign * (seen - value)

    def means(self, held: Sequence[Fold]) -> list[tuple[Cell, ...]]:
        """Every setting over the folds that count: the mean of their groups' means."""
        rows: list[tuple[Cell, ...]] = []
        counted = self.counted(held)
        for place, name in enumerate(self.settings(counted[0]) if counted else ()):
            chosen = [(fold, list(self.settings(fold).values())[place]) for fold in counted]
            metrics = [
                _mean([_mean(self.cells(trial, fold)[m].dropna()) for fold, trial in chosen]) for m in self.metrics
            ]
            values = [self.value(trial, fold) for fold, trial in chosen]
            gaps = [self._gap(name, trial, fold) for fold, trial in chosen]
            seen, gap = (_mean([pair[side] for pair in gaps]) for side in (0, 1))
            rows.append((name, *metrics, *self.failed(chosen), _mean(values), seen, gap))
        return rows

    def lead(self, held: Sequence[Fold]) -> str:
        """The answer in words."""
        counted = self.counted(held)
        if not counted:
            return "No attack works on the new seeds, so nothing can be said."
        tuned = [self.value(fold.tuned, fold) for fold in counted]
        default = [self.value(self._default, fold) for fold in counted]
        pairs = [(t, d) for t, d in zip(tuned, default, strict=True) if t is not None and d is not None]
        better = sum(self.sign * (t - d) > _SAME for t, d in pairs)
        equal = sum(abs(t - d) <= _SAME for t, d in pairs)
        what = {"attack": "an attack", "rate": "a poison rate", "seed": "seeds"}[self._by]
        text = (
            f"On {what} that the search never saw, the tuned setting reaches {in_words(self.objective)} "
            f"{format_number(_mean(tuned))} and the paper's default {format_number(_mean(default))} (mean over "
            f"{len(counted)}); tuned is better on {better}, equal on {equal} and worse on {len(pairs) - better - equal}"
            f"{self._same_trial(counted)}"
        )
        if self._by == "seed":
            return text + "."
        oracle = _mean([self.value(fold.oracle, fold) for fold in counted])
        gap = _mean([self._gap(_TUNED, fold.tuned, fold)[1] for fold in counted])
        return (
            f"{text}. Tuned on that {self._by} itself, it would be {format_number(oracle)}. "
            f"What it loses from seen to unseen is {format_number(gap)} on average."
        )

    def _same_trial(self, counted: Sequence[Fold]) -> str:
        """How often there was nothing to compare: the best elsewhere was the default itself."""
        same = sum(fold.tuned == self._default for fold in counted)
        return f" (on {same} the tuned setting is the paper's default)" if same else ""


def _numbers(search: Results, judged: Results) -> Mapping[int | None, int]:
    """Trial of the search -> trial of the judgement with the same point."""
    fields = list(search.ranges)
    known = {tuple(row[name] for name in fields): int(str(number)) for number, row in judged.trials.iterrows()}
    points = {int(str(number)): tuple(row[name] for name in fields) for number, row in search.trials.iterrows()}
    return {number: known[point] for number, point in points.items() if point in known}


def _notes(search: Results, judged: Results, by: By, held: Sequence[Fold], table: _Judgement) -> list[Note]:
    notes = [
        Note(
            f"{len(search.complete)} configurations, drawn by {search.config.sampler} before any was run; choosing one "
            "takes ground truth of the groups it was tuned on, and none of the group that it is shown on.",
            "footnote",
        )
    ]
    if len(judged.seeds) < 2:
        notes.append(Note("One new seed, so there is no spread; --judge-seeds takes several.", "footnote"))
    counted = table.counted(held)
    left_out = {fold.held_out: table.fails(fold) for fold in held if fold not in counted}
    for why, fails in (("the attack fails undefended", True), (f"they have no {in_words(table.objective)}", False)):
        groups = [group for group, own in left_out.items() if own is fails]
        if groups:
            notes.append(Note(f"Left out of the means, since {why}: {', '.join(groups)}.", "footnote"))
    return notes


def _spread_note(judged: Results) -> str:
    return ", ± one standard deviation over them" if len(judged.seeds) > 1 else ""


def _mean(values: "Sequence[float | None] | pandas.Series") -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
