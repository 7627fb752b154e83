"""What can be had together: accuracy without the attack, poison found without benign samples lost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.analysis.results import Results
from study.cli.numbers import several
from study.config.objectives import direction, in_words
from study.ledger.selection import pareto_front
from study.report.elements import Curves, Item, Line, Note, Point, Scatter, Section
from study.report.formatting import sentence
from study.report.sections.axis_ends import axis_ends
from tracking import names

if TYPE_CHECKING:
    import pandas

_DIGITS = 12  # of a value: below, two that are equal differ by rounding
_LEAST = 0.1  # that the ends of an axis lie apart: smaller differences are not to shout
_PAIRS = ((names.ASR, names.CA), (names.FPR, names.TPR))


def sections(results: Results) -> list[Section]:
    """Trials as points by each pair of metrics, with the front that none beats; then a front an attack and rate."""
    counted = results.compared
    wanted = list(_PAIRS)
    if len(results.goal.objectives) == 2:
        own = (results.goal.objectives[0], results.goal.objectives[1])
        wanted = [own, *(pair for pair in wanted if set(pair) != set(own))]
    items: list[Item] = []
    sizes: list[str] = []
    for x, y in wanted:
        reached = _objectives(results) if (x, y) == results.goal.objectives else _reached(results, counted, x, y)
        if len(reached) < 2:
            continue
        on_front = _front(reached, x, y)
        sizes.append(_size(reached, on_front, x, y))
        items.append(_scatter(results, reached, on_front, x, y))
        items += _by_stratum(results, counted, x, y)
    if not items:
        why = "Fewer than two complete trials have two metrics where an attack works, so there is no trade-off to show."
        return [Section("fronts", "Trade-offs", why, answered=False)]
    items.append(Note("A trial that another beats in both is not on a front; of equal ones the first is.", "footnote"))
    return [Section("fronts", "Trade-offs", f"{sentence('; '.join(sizes))}.", tuple(items), uses_labels=True)]


def _size(reached: "pandas.DataFrame", on_front: "pandas.DataFrame", x: str, y: str) -> str:
    """How large a front is; one of a single trial is no trade-off."""
    names_of = f"{in_words(x)} and {in_words(y)}"
    if len(on_front) > 1:
        return f"{len(on_front)} of {len(reached)} trials lie on the front of {names_of}"
    best = on_front[[x, y]].iloc[0].round(_DIGITS)
    same = int((reached[[x, y]].round(_DIGITS) == best).all(axis=1).sum())
    if same == len(reached):
        return f"all {same} trials have the same {names_of}"
    tied = f" (tied with {several(same - 1, 'other')})" if same > 1 else ""
    return f"no trade-off of {names_of}, since trial {on_front.index[0]} is best in both{tied}"


def _objectives(results: Results) -> "pandas.DataFrame":
    """A row a complete trial, a column an objective: the very values that the study's front and its knee are of."""
    complete = results.complete
    return complete[list(results.goal.labels)].set_axis(list(results.goal.objectives), axis="columns").dropna()


def _reached(results: Results, cells: "pandas.DataFrame", x: str, y: str) -> "pandas.DataFrame":
    """A row a trial, two metrics over scenarios: their means, or their worst values where the study goes by these."""
    grouped = cells.groupby("trial")[[x, y]]
    if results.goal.how == "mean":
        return grouped.mean().dropna()
    low, high = grouped.min(), grouped.max()
    return low.assign(**{name: high[name] for name in (x, y) if direction(name) == "minimize"}).dropna()


def _front(reached: "pandas.DataFrame", x: str, y: str) -> "pandas.DataFrame":
    """The trials that no other beats in both, from the left to the right; of equal ones the first."""
    unbeaten = pareto_front(reached[[x, y]].to_numpy().tolist(), (direction(x), direction(y)))
    return reached.iloc[unbeaten].sort_values([x, y])


def _scatter(results: Results, reached: "pandas.DataFrame", on_front: "pandas.DataFrame", x: str, y: str) -> Scatter:
    # Where the default is the best too, it is shown as the default.
    groups = {results.best: results.best_name, results.default: "paper default"}
    xs, ys = reached[x].to_dict(), reached[y].to_dict()

    def points(trials: Sequence[int]) -> list[Point]:
        return [Point(f"#{number}", groups.get(number, "trial"), xs[number], ys[number]) for number in trials]

    numbers = [int(number) for number in reached.index]
    plain = [number for number in numbers if number not in groups]
    special = [number for number in numbers if number in groups]
    return Scatter(
        name=f"front-{x}-{y}",
        caption=f"{in_words(y)} against {in_words(x)}: each mark is a trial, {_over(results)} the scenarios whose "
        "attack works.",
        x_label=f"{in_words(x)} ({_better(x)} is better)",
        y_label=f"{in_words(y)} ({_better(y)} is better)",
        points=tuple(points([*plain, *special])),
        front=tuple((float(a), float(b)) for a, b in on_front[[x, y]].to_numpy()),
        x_range=axis_ends(list(xs.values()), _LEAST),
        y_range=axis_ends(list(ys.values()), _LEAST),
    )


def _over(results: Results) -> str:
    return "its mean over" if results.goal.how == "mean" else "the worst it reaches of each over"


def _better(metric: str) -> str:
    return "lower" if direction(metric) == "minimize" else "higher"


def _by_stratum(results: Results, counted: "pandas.DataFrame", x: str, y: str) -> list[Item]:
    """The front of each attack and rate alone; none for a study of one."""
    lines = []
    for stratum, cells in counted.groupby("stratum", sort=False):
        reached = _reached(results, cells, x, y)
        if len(reached) > 1:
            on_front = _front(reached, x, y)
            lines.append(Line(str(stratum), tuple(map(float, on_front[x])), tuple(map(float, on_front[y]))))
    if len(lines) < 2:
        return []
    if all(len(line.x) == 1 for line in lines):
        alone = f"On each attack and rate alone one trial is best in both {in_words(x)} and {in_words(y)}."
        return [Note(alone, "footnote")]
    return [
        Curves(
            name=f"front-{x}-{y}-strata",
            caption=f"The same front for each attack and rate alone, the {results.goal.how} over seeds. A single mark "
            "is a trial that is best in both.",
            x_label=in_words(x),
            y_label=in_words(y),
            lines=tuple(lines),
            y_range=axis_ends([value for line in lines for value in line.y], _LEAST),
        )
    ]
