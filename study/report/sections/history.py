"""How a study came to its best trial: the objective of each complete trial in order, and the best so far."""

from typing import Literal

from study.analysis.results import Results
from study.cli.numbers import format_objective, listed
from study.config.objectives import Direction, in_words
from study.report.elements import Item, Note, Point, Scatter, Section, slug
from study.report.sections.axis_ends import axis_ends
from study.report.sections.studied import STATES

_LEAST = 0.05  # ends of the axis; below, trials are as good as equal


def sections(results: Results) -> list[Section]:
    """One section, a figure an objective; none before two trials have a value."""
    columns = zip(results.objective_columns, results.goal.objectives, results.goal.directions, strict=True)
    figures = tuple(
        figure
        for column, objective, direction in columns
        if (figure := _history(results, column, objective, direction)) is not None
    )
    if not figures:
        return []
    items: tuple[Item, ...] = (*figures, *_without_value(results))
    return [Section("history", "Trials in order", _lead(results), items, uses_labels=True)]


def _without_value(results: Results) -> list[Note]:
    """How many trials are in no figure, and why."""
    states = results.trials["state"].drop(results.complete.index).value_counts(sort=False)
    if states.empty:
        return []
    why = {"complete": "without a readable result on every scenario"}
    named = [f"{count} {why.get(str(state)) or STATES.get(str(state), state)}" for state, count in states.items()]
    count = int(states.sum())
    has = "has" if count == 1 else "have"
    text = f"Of {len(results.trials)} trials that were started, {count} {has} no value: {listed(named)}."
    return [Note(text, "footnote")]


def _history(results: Results, column: str, objective: str, direction: Direction) -> Scatter | None:
    values = results.complete[column].dropna()
    if len(values) < 2:
        return None
    special = {results.best: results.best_name, results.default: "paper default"}
    points = [
        Point(f"Trial {number}", special.get(number, "trial"), number, float(value))
        for number, value in zip(map(int, values.index), values, strict=True)
    ]
    points.sort(key=lambda point: point.group != "trial")
    so_far = _best_so_far([(int(point.x), point.y) for point in points], direction)
    last = max(point.x for point in points)
    worst = " on the worst scenario" if results.goal.how == "worst" else ""
    return Scatter(
        name=f"history-{slug(objective)}",
        caption=f"The {in_words(objective)}{worst} of each complete trial, in the order in which they were started.",
        x_label="trial",
        y_label=f"{in_words(objective)} ({'lower' if direction == 'minimize' else 'higher'} is better)",
        points=tuple(points),
        front=(*so_far, (last, so_far[-1][1])),
        front_label="best so far",
        stepped=True,
        x_whole=True,
        y_range=axis_ends([point.y for point in points], _LEAST),
    )


def _best_so_far(
    values: list[tuple[int, float]], direction: Literal["minimize", "maximize"]
) -> list[tuple[float, float]]:
    """The trials that were better than all before them, with their values."""
    steps: list[tuple[float, float]] = []
    for number, value in sorted(values):
        if not steps or (value < steps[-1][1] if direction == "minimize" else value > steps[-1][1]):
            steps.append((float(number), value))
    return steps


def _lead(results: Results) -> str:
    if len(results.goal.objectives) > 1 or results.best is None:
        return "Each objective of every complete trial, in the order in which they were started."
    values = results.complete["value"]
    best = float(str(values.at[results.best]))
    complete, started = len(values), len(results.trials)
    whole = "" if complete == started else " complete"
    of = f"one of {complete} complete of {started}" if whole else f"one of {started}"
    reached = f"Trial {results.best}, {of}, reached {results.goal.words} {format_objective(best)}"
    after = int((values.index > results.best).sum())
    if results.best == results.default:
        return f"No trial was better than the paper's default, {results.goal.words} {format_objective(best)}."
    if not after:
        return f"{reached}, as the last{whole} one."
    return f"{reached}; none of the {after}{whole} after it did better."
