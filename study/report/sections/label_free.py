"""What a defender could have chosen: how far signals that need no ground truth lead to good configurations."""

from collections.abc import Mapping

from defenses.signals import SIGNALS
from study.analysis.results import Results
from study.analysis.signal_quality import (
    VISIBLE,
    SignalQuality,
    judge_signals,
    oracle_scores,
    oracle_trials,
    regrets,
    visible_trials,
)
from study.cli.numbers import format_number
from study.config.objectives import direction
from study.report.elements import Cell, Item, Note, Section, Table
from study.report.formatting import format_share
from tracking import names

_FEWEST = 5  # trials: a rank correlation of fewer says nothing
_METRICS = (names.TPR, names.FPR, names.CA, names.ASR)


def section(results: Results) -> Section | None:
    """The section; None for a study whose trials do not differ, or that tells no signal."""
    judged = judge_signals(results)
    if not judged or len(results.complete) < 2:
        return None
    items: list[Item] = [_signals(judged), _rules(results, judged), *_limits(results)]
    command = f"python -m study.analyze {results.name}"
    return Section("visible", "What a defender could have chosen", _lead(results, judged[0]), tuple(items), command)


def _lead(results: Results, best: SignalQuality) -> str:
    trials = len(results.complete)
    if trials < _FEWEST:
        return f"{trials} trials are too few to say what choosing by a signal is worth; {_FEWEST} would be a start."
    return (
        f"No ground truth is needed for {_short(best.signal)}; choosing by it costs "
        f"{format_number(best.regret.mean())} of the objective on average ({results.goal.objectives[0]}, 0 is what the "
        f"oracle reaches), and its rank correlation with the objective is {format_share(_median(best))} in the median."
    )


def _short(signal: str) -> str:
    return signal.removeprefix(names.SIGNAL)


def _median(judged: SignalQuality) -> float:
    return float(judged.correlation.median())


def _signals(judged: list[SignalQuality]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            _short(one.signal),
            "more" if VISIBLE[one.signal] > 0 else "less",
            _meaning(one.signal),
            _number(one.correlation.median()),
            _number(one.correlation.min()),
            _number(one.correlation.max()),
            _number(one.regret.mean()),
            _number(one.regret.max()),
        )
        for one in judged
    ]
    return Table(
        "signals",
        "Signals that need no ground truth, over scenarios whose attack works: Spearman's rank correlation with the "
        "objective over trials (turned so that 1 is what a defender hopes for), and the regret of taking the trial "
        "that the signal likes best on each scenario.",
        (
            "signal",
            "better",
            "what it is",
            "median correlation",
            "lowest",
            "highest",
            "mean regret",
            "worst regret",
        ),
        tuple(rows),
        left=3,
        strong=(0,),
    )


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _meaning(signal: str) -> str:
    return SIGNALS[_short(signal)][1] if _short(signal) in SIGNALS else "flagged share of the training set"


def _rules(results: Results, judged: list[SignalQuality]) -> Table:
    """The rules beside one another: what each picks and what it costs."""
    scores = oracle_scores(results)
    rows: list[tuple[Cell, ...]] = []
    for rule, taken in _taken(results, judged).items():
        lost = regrets(scores, taken)
        rows.append((rule, *_reached(results, taken), _number(lost.mean()), _number(lost.max())))
    single = "the best single configuration" if len(results.goal.objectives) == 1 else f"the {results.best_name}"
    return Table(
        "rules",
        "What each rule picks, mean over scenarios whose attack works: the paper's values; visible, by the signal "
        f"that chose best on the other attacks; {single}; and the oracle, each scenario's own "
        "best. The last two take ground truth.",
        ("rule", *(name.upper() for name in _METRICS), results.goal.objectives[0], "mean regret", "worst regret"),
        tuple(rows),
    )


def _taken(results: Results, judged: list[SignalQuality]) -> dict[str, dict[str, int]]:
    """Rule -> scenario -> trial."""
    scenarios = [str(name) for name in oracle_scores(results).columns]
    taken: dict[str, dict[str, int]] = {}
    if results.default is not None:
        taken["paper default"] = dict.fromkeys(scenarios, results.default)
    taken["visible"] = visible_trials(results, judged)
    if results.best is not None:
        single = "best single" if len(results.goal.objectives) == 1 else results.best_name
        taken[f"{single} (#{results.best}, oracle)"] = dict.fromkeys(scenarios, results.best)
    taken["own best (oracle)"] = oracle_trials(results)
    return taken


def _reached(results: Results, taken: Mapping[str, int]) -> list[float | None]:
    cells = results.compared.set_index(["trial", "scenario"])
    chosen = cells.loc[[(trial, name) for name, trial in taken.items()]]
    return [_number(chosen[name].mean()) for name in (*_METRICS, results.goal.objectives[0])]


def _limits(results: Results) -> list[Note]:
    notes = []
    if results.scenarios.loc[~results.scenarios["attack_failed"], "attack"].nunique() < 2:
        notes.append(
            Note(
                "One attack works: the rule visible was chosen on the very scenarios that it is judged on, so its "
                "regret is too low. Study several attacks to know.",
                "warning",
            )
        )
    if results.space_filling_trials.empty:
        notes.append(
            Note(
                f"The sampler {results.config.sampler} crowds where the objective is good: signals are ranked "
                "there, not over the space.",
                "warning",
            )
        )
    objective = results.goal.objectives[0]
    if direction(objective) == "minimize":
        notes.append(Note(f"{objective} is minimised; correlations and regrets are turned."))
    if len(results.goal.objectives) > 1:
        notes.append(
            Note(
                f"Correlations, regrets and each scenario's own best are by {objective} alone, the first of several "
                "objectives."
            )
        )
    return notes
