"""What can be had together: accuracy without the attack, poison found without benign samples lost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from study.analysis.picks import best
from study.analysis.results import Results
from study.config.objectives import direction, pareto_front
from study.report.elements import Curves, Item, Line, Note, Point, Scatter, Section
from tracking import names

if TYPE_CHECKING:
    import pandas

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
        means = counted.groupby("trial")[[x, y]].mean().dropna() if len(counted) else counted
        if len(means) < 2:
            continue
        on_front = _front(means, x, y)
        sizes.append(f"{len(on_front)} of {len(means)} trials for {y.upper()} against {x.upper()}")
        items.append(_scatter(results, means, on_front, x, y))
        items += _by_stratum(counted, x, y)
    if not items:
        return [
            Section("fronts", "Trade-offs", "Fewer than two trials are complete, so there is no trade-off to show.")
        ]
    items.append(Note("A trial that others beat in both is not on a front. Fronts use ground truth: they are oracles."))
    return [Section("fronts", "Trade-offs", f"On the Pareto front: {'; '.join(sizes)}.", tuple(items))]


def _front(means: "pandas.DataFrame", x: str, y: str) -> "pandas.DataFrame":
    """The trials that no other beats in both, from the left to the right; of equal ones the first."""
    found = pareto_front(means[[x, y]].to_numpy().tolist(), (direction(x), direction(y)))
    return means.iloc[found].sort_values([x, y])


def _scatter(results: Results, means: "pandas.DataFrame", on_front: "pandas.DataFrame", x: str, y: str) -> Scatter:
    groups = {best(results): "best", results.default: "paper default"}  # the default, where it is the best too
    xs, ys = means[x].to_dict(), means[y].to_dict()

    def points(found: Sequence[int]) -> list[Point]:
        return [Point(f"#{number}", groups.get(number, "trial"), xs[number], ys[number]) for number in found]

    numbers = [int(number) for number in means.index]
    plain = [number for number in numbers if number not in groups]
    special = [number for number in numbers if number in groups]
    return Scatter(
        name=f"front-{x}-{y}",
        caption=f"{y.upper()} against {x.upper()}: a point is a trial, its mean over the scenarios whose attack works.",
        x_label=f"{x.upper()} ({_better(x)} is better)",
        y_label=f"{y.upper()} ({_better(y)} is better)",
        points=tuple(points([*plain, *special])),
        front=tuple((float(a), float(b)) for a, b in on_front[[x, y]].to_numpy()),
    )


def _better(metric: str) -> str:
    return "lower" if direction(metric) == "minimize" else "higher"


def _by_stratum(counted: "pandas.DataFrame", x: str, y: str) -> list[Item]:
    """The front of each attack and rate alone; none for a study of one."""
    lines = []
    for stratum, cells in counted.groupby("stratum", sort=False):
        means = cells.groupby("trial")[[x, y]].mean().dropna()
        if len(means) > 1:
            found = _front(means, x, y)
            lines.append(Line(str(stratum), tuple(map(float, found[x])), tuple(map(float, found[y]))))
    if len(lines) < 2:
        return []
    if all(len(line.x) == 1 for line in lines):
        return [Note(f"On each attack and rate alone one trial is best in both {x.upper()} and {y.upper()}.")]
    return [
        Curves(
            name=f"front-{x}-{y}-strata",
            caption="The same front for each attack and rate alone, the mean over seeds. A single point is a trial "
            "that is best in both.",
            x_label=x.upper(),
            y_label=y.upper(),
            lines=tuple(lines),
        )
    ]
