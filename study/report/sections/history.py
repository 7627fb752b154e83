"""How a study came to its best trial: the objective of each trial in order, and the best so far."""

from typing import Literal

from study.analysis.results import Results
from study.cli.numbers import format_objective
from study.config.objectives import Direction, in_words
from study.report.elements import Point, Scatter, Section, slug
from study.report.sections.axis_ends import axis_ends

_LEAST = 0.05  # ends of the axis; below, trials are as good as equal
_GROUPS = {"complete": "trial", "pruned": "stopped early, with what it had reached"}


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
    return [Section("history", "Trials in order", _lead(results), figures, uses_labels=True)]


def _history(results: Results, column: str, objective: str, direction: Direction) -> Scatter | None:
    shown = results.trials[results.trials["state"].isin(_GROUPS) & results.trials[column].notna()]
    complete = [int(str(number)) for number in results.complete.index if number in shown.index]
    if len(complete) < 2:
        return None
    special = {results.best: results.best_name, results.default: "paper default"}
    points = [
        Point(f"Trial {number}", special.get(number, _GROUPS[state]), number, float(value))
        for number, state, value in zip(map(int, shown.index), shown["state"], shown[column], strict=True)
    ]
    points.sort(key=lambda point: point.group != "trial")
    so_far = _best_so_far([(number, float(str(shown.at[number, column]))) for number in complete], direction)
    last = float(max(map(int, shown.index)))
    worst = " on the worst scenario" if results.goal.how == "worst" else ""
    return Scatter(
        name=f"history-{slug(objective)}",
        caption=f"The {in_words(objective)}{worst} of each trial, in the order in which they were started.",
        x_label="trial",
        y_label=f"{in_words(objective)} ({'lower' if direction == 'minimize' else 'higher'} is better)",
        points=tuple(points),
        front=(*so_far, (last, so_far[-1][1])),
        front_label="best so far",
        stepped=True,
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
        return "Each objective of every trial, in the order in which they were started."
    values = results.complete["value"]
    best = float(str(values.at[results.best]))
    started = f"Trial {results.best} of {len(values)} reached {results.goal.words} {format_objective(best)}"
    after = int((values.index > results.best).sum())
    if results.best == results.default:
        return f"No trial was better than the paper's default, {results.goal.words} {format_objective(best)}."
    return f"{started}; none of the {after} after it did better." if after else f"{started}, as the last one."
