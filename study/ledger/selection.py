"""Every rule by which a trial is called the best, or is chosen for another reason.

A rule looks at complete trials alone, so one that was pruned or failed never wins. Objectives are computed from ground
truth, which a defender does not have: a rule that takes them is an oracle. Each rule says what it needs, and what it
does with undefined values (None or NaN) and with ties.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from study.config.objectives import Direction, How

Rule = Literal["default", "best"]
RULES: tuple[Rule, ...] = ("default", "best")
"""The rules that a user names; a trial's number is one too."""

_DIGITS = 12  # of a value or a distance: below, two that are equal differ by rounding


class Trial(Protocol):
    """What a rule must know of a trial; a row of the ledger is one."""

    @property
    def number(self) -> int:
        """The order in which trials were started."""

    @property
    def state(self) -> str:
        """``complete``, or anything else."""

    @property
    def values(self) -> Sequence[float | None] | None:
        """The objectives over all scenarios, as the study aggregates them; None or empty where there are none."""

    @property
    def paper_default(self) -> bool:
        """It has the paper's hyperparameters."""


@dataclass(frozen=True)
class Candidate:
    """A trial with what it reached on each scenario.

    Attributes:
        state, values: see `Trial`.
        scenarios: scenario -> the objectives there; None or NaN where they are undefined.
    """

    number: int
    state: str
    values: tuple[float | None, ...] | None = None
    paper_default: bool = False
    scenarios: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


AnyTrial = TypeVar("AnyTrial", bound=Trial)


def pareto_front(values: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[int]:
    """Positions of the values that none of the others beats; of equal ones the first. In ascending order.

    One objective has a front of one: the best. Every value must be defined.
    """
    signs = [1 if direction == "maximize" else -1 for direction in directions]
    better = [[sign * value for sign, value in zip(signs, point, strict=True)] for point in values]
    unbeaten: list[int] = []
    # From the best downwards: nothing that comes later in this order can beat what came before.
    for position in sorted(range(len(better)), key=lambda at: ([-value for value in better[at]], at)):
        point = better[position]
        if not any(all(a >= b for a, b in zip(better[kept], point, strict=True)) for kept in unbeaten):
            unbeaten.append(position)
    return sorted(unbeaten)


def front(trials: Iterable[AnyTrial], directions: Sequence[Direction]) -> list[AnyTrial]:
    """The trials that no other beats in all objectives over all scenarios, by number.

    Needs ground truth. A trial with an undefined objective is left out; of equal ones the first number stays.
    """
    comparable = [trial for trial in _complete(trials) if _are_defined(trial.values, len(directions))]
    # Means of the same numbers in another order are equal, and differ in the last digit: that decides nothing.
    values = [[round(value, _DIGITS) for value in _defined(trial.values)] for trial in comparable]
    return [comparable[at] for at in pareto_front(values, directions)]


def best_over_all(trials: Iterable[AnyTrial], directions: Sequence[Direction]) -> AnyTrial | None:
    """The trial with the best objective over all scenarios, as the study aggregates it (mean or worst).

    Needs ground truth, and one objective: several have no best, see `knee`. A trial whose objective is undefined is
    left out; of equal ones the first number wins.

    Returns:
        None where no trial has a value, or where there are several objectives.
    """
    unbeaten = front(trials, directions)
    return unbeaten[0] if unbeaten and len(directions) == 1 else None


def knee(trials: Iterable[AnyTrial], directions: Sequence[Direction]) -> AnyTrial | None:
    """The trial of the Pareto front that is nearest to the ideal point: the compromise that treats objectives alike.

    The ideal point has the best value of each objective on the front. Distances are Euclidean, after each objective is
    scaled to its range on the front (one that does not vary there counts nothing), so that no unit decides.

    Needs ground truth. A trial with an undefined objective is left out; of trials as near the first number wins.

    Returns:
        None where no trial has all its values.
    """
    unbeaten = front(trials, directions)
    distances = _distances_to_ideal([_defined(trial.values) for trial in unbeaten], directions)
    order = sorted(zip(distances, unbeaten, strict=True), key=lambda pair: (pair[0], pair[1].number))
    return order[0][1] if order else None


def best_or_knee(trials: Iterable[AnyTrial], directions: Sequence[Direction]) -> AnyTrial | None:
    """The one trial that stands for a study: `best_over_all` by one objective, the `knee` of several.

    Needs ground truth; undefined values and ties as there.
    """
    return best_over_all(trials, directions) if len(directions) == 1 else knee(trials, directions)


def best_name(directions: Sequence[Direction]) -> str:
    """What people are told that `best_or_knee` is."""
    return "best" if len(directions) == 1 else "knee of the front"


def mean_best(
    trials: Iterable[Candidate], directions: Sequence[Direction], scenarios: Collection[str] | None = None
) -> Candidate | None:
    """The `best_or_knee` by the mean of each objective over some scenarios.

    Needs ground truth of these scenarios. A mean is over those that define the objective; a trial without any is left
    out. Ties as in `best_or_knee`.

    Args:
        scenarios: all by default.

    Returns:
        With the means as its values; None where no trial has any.
    """
    return best_or_knee([over_scenarios(trial, directions, "mean", scenarios) for trial in trials], directions)


def worst_case_best(
    trials: Iterable[Candidate], directions: Sequence[Direction], scenarios: Collection[str] | None = None
) -> Candidate | None:
    """The `best_or_knee` by each objective's value on the scenario where it is worst.

    Needs ground truth of these scenarios. Those that do not define the objective are passed over; a trial without any
    is left out. Ties as in `best_or_knee`.

    Args:
        scenarios: all by default.

    Returns:
        With the worst values as its values; None where no trial has any.
    """
    return best_or_knee([over_scenarios(trial, directions, "worst", scenarios) for trial in trials], directions)


def over_scenarios(
    trial: Candidate, directions: Sequence[Direction], how: How, scenarios: Collection[str] | None = None
) -> Candidate:
    """The trial with its objectives put together over some scenarios, in place of those over all.

    Args:
        scenarios: all by default.
    """
    wanted = trial.scenarios.keys() if scenarios is None else set(scenarios)
    chosen = [reached for name, reached in trial.scenarios.items() if name in wanted]
    values = [_together([reached[at] for reached in chosen], direction, how) for at, direction in enumerate(directions)]
    return dataclasses.replace(trial, values=tuple(values))


def best_per_scenario(
    trials: Iterable[Candidate], direction: Direction, scenarios: Iterable[str] | None = None
) -> dict[str, int]:
    """For each scenario the number of the trial that is best there ("its own best"), by the first of its values.

    Needs ground truth where the values do. A trial whose value is undefined on a scenario is left out there, and a
    scenario on which none is defined is left out; of equal ones the first number wins.

    Args:
        scenarios: all by default.
    """
    candidates = _complete(trials)
    names = dict.fromkeys(name for trial in candidates for name in trial.scenarios)
    sign = 1 if direction == "maximize" else -1
    own: dict[str, int] = {}
    for name in names if scenarios is None else scenarios:
        known = [(trial.number, value) for trial in candidates for value in _defined(trial.scenarios.get(name, ())[:1])]
        if known:
            own[name] = max(known, key=lambda pair: sign * pair[1])[0]  # of equals the first
    return own


def visible(
    signals: Mapping[str, Sequence[Candidate]],
    regrets: Mapping[str, Mapping[str, float]],
    attacks: Mapping[str, str],
) -> dict[str, int]:
    """For each scenario the trial that a defender takes, who sees signals and no ground truth of this attack.

    The signal to trust is the one with the least mean regret on scenarios of the other attacks, of equal ones the
    first. Regrets need ground truth there: it stands for what a defender learned before. With one attack there is no
    other, and all its scenarios decide, which flatters the rule. The trial is that with the largest signal on the
    scenario itself; ties and undefined values as in `best_per_scenario`.

    Args:
        signals: name -> trials whose one value on a scenario is the signal, turned so that more should be better.
        regrets: name of a signal -> scenario -> what is lost there by taking the trial that the signal likes best; a
            scenario without one is passed over.
        attacks: scenario -> its attack.
    """

    def mean_regret(signal: str, scenario: str) -> float:
        known = [name for name, lost in regrets[signal].items() if math.isfinite(lost)]
        others = [name for name in known if attacks[name] != attacks[scenario]]
        mean = _together([regrets[signal][name] for name in others or known], "minimize", "mean")
        return math.inf if mean is None else mean

    taken: dict[str, int] = {}
    for scenario in dict.fromkeys(name for signal in signals for name in regrets[signal]):
        trusted = min(signals, key=lambda signal: mean_regret(signal, scenario))
        taken |= best_per_scenario(signals[trusted], "maximize", (scenario,))
    return taken


def paper_default(trials: Iterable[AnyTrial]) -> AnyTrial | None:
    """The complete trial with the paper's hyperparameters, the first of several; None where there is none.

    Needs neither ground truth nor values: a defender can always take it.
    """
    return next((trial for trial in _complete(trials) if trial.paper_default), None)


def by_number(trials: Iterable[AnyTrial], number: int) -> AnyTrial | None:
    """The trial of this number; None where there is none, or where it is not complete. Needs no ground truth."""
    return next((trial for trial in _complete(trials) if trial.number == number), None)


def _complete(trials: Iterable[AnyTrial]) -> list[AnyTrial]:
    """Of all trials those that a rule may choose, in the order in which ties are broken."""
    return sorted((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.number)


def _defined(values: Sequence[float | None] | None) -> list[float]:
    return [value for value in values or () if value is not None and math.isfinite(value)]


def _are_defined(values: Sequence[float | None] | None, objectives: int) -> bool:
    return values is not None and len(_defined(values)) == len(values) == objectives


def _together(values: Sequence[float | None], direction: Direction, how: How) -> float | None:
    known = _defined(values)
    if not known:
        return None
    if how == "mean":
        return math.fsum(known) / len(known)
    return min(known) if direction == "maximize" else max(known)


def _distances_to_ideal(values: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[float]:
    """Of points on a front, each objective scaled to its range there."""
    squares = [0.0] * len(values)
    for column, direction in zip(zip(*values, strict=True), directions, strict=False):
        low, high = min(column), max(column)
        ideal = high if direction == "maximize" else low
        if high > low:
            away = [((value - ideal) / (high - low)) ** 2 for value in column]
            squares = [square + more for square, more in zip(squares, away, strict=True)]
    return [round(math.sqrt(square), _DIGITS) for square in squares]
