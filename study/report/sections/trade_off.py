"""What can be had together, as one figure: accuracy without the attack, or poison found without benign images lost."""

from collections.abc import Sequence

from study.analysis.compared import default_label
from study.analysis.results import Results
from study.config.objectives import direction, in_words
from study.ledger.selection import pareto_front
from study.report.elements import Point, Scatter
from study.report.sections.axis_ends import axis_ends
from tracking import names

_MODEL, _FLAGS = (names.ASR, names.CA), (names.FPR, names.TPR)


def trade_off(results: Results) -> Scatter | None:
    """Complete trials by CA and ASR, by TPR and FPR where no model was trained; None where neither is defined.

    Each is the mean over the scenarios whose attack works, however the study aggregates its objective.
    """
    for x, y in (_MODEL, _FLAGS):
        reached = results.compared.groupby("trial")[[x, y]].mean().dropna()
        if not reached.empty:
            break
    else:
        return None
    # The default stays one where it is the best too.
    groups = {results.best: results.best_name, results.default: default_label(results)}
    points = [
        Point(f"Trial {number}", groups.get(int(str(number)), "trial"), float(row[x]), float(row[y]))
        for number, row in reached.iterrows()
    ]
    points.sort(key=lambda point: point.group != "trial")
    unbeaten = pareto_front(reached.to_numpy().tolist(), (direction(x), direction(y)))
    front = sorted((float(a), float(b)) for a, b in reached.iloc[unbeaten].to_numpy())
    return Scatter(
        name="trade-off",
        caption=f"{in_words(y)} against {in_words(x)}, a mark for each trial: mean over the scenarios whose attack "
        "works.",
        x_label=_label(x),
        y_label=_label(y),
        points=tuple(points),
        front=tuple(front) if len(front) > 1 else (),
        x_range=_ends([point.x for point in points]),
        y_range=_ends([point.y for point in points]),
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return axis_ends(values, least=0.1)


def _label(metric: str) -> str:
    return f"{in_words(metric)} ({'lower' if direction(metric) == 'minimize' else 'higher'} is better)"
