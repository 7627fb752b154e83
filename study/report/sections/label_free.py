"""What a defender could have chosen: how far signals that need no ground truth lead to good configurations."""

from collections.abc import Mapping

from defenses.signals import SIGNALS
from study.analysis.results import Results
from study.analysis.signal_quality import (
    LEAST_DISTINCT,
    VISIBLE,
    SignalQuality,
    judge_signals,
    oracle_scores,
    oracle_trials,
    regrets,
    visible_trials,
)
from study.cli.numbers import format_number
from study.config.objectives import direction, in_words
from study.report.elements import Cell, Item, Note, Section, Table
from study.report.formatting import format_share
from tracking import names

_FEWEST = 5  # trials: choosing among fewer says nothing
_METRICS = (names.TPR, names.FPR, names.CA, names.ASR)
_SAME = 1e-12  # a difference below it is rounding
_TITLE = "What a defender could have chosen"


def section(results: Results) -> Section | None:
    """The section; None for a study whose trials do not differ, or that tells no signal."""
    judged = judge_signals(results)
    if not judged or len(results.complete) < 2:
        return None
    command = results.command_for("analyze")
    why = _why_none(results, judged)
    if why:
        return Section("visible", _TITLE, why, (), command, answered=False)
    items: tuple[Item, ...] = (_signals(judged), _rules(results, judged), *_notes(results, judged))
    return Section("visible", _TITLE, _lead(results, judged), items, command, uses_labels=True)


def _why_none(results: Results, judged: list[SignalQuality]) -> str:
    """Why nothing can be said; empty where something can."""
    trials, name = len(results.complete), in_words(results.goal.objectives[0])
    if trials < _FEWEST:
        return f"{trials} trials are too few to say what choosing by a signal is worth; {_FEWEST} would be a start."
    if not any(one.varies for one in judged):
        return f"No signal differs between the {trials} trials on every scenario, so none of them chooses anything."
    if float(_at_random(results)) <= _SAME:
        return f"All {trials} trials have the same {name} on each scenario, so it does not matter which is chosen."
    return ""


def _at_random(results: Results) -> float:
    """What a trial taken at random gives up on average against each scenario's best."""
    scores = oracle_scores(results)
    return float((scores.max() - scores.mean()).mean())


def _lead(results: Results, judged: list[SignalQuality]) -> str:
    best = next(one for one in judged if one.varies)
    name, chance = in_words(results.goal.objectives[0]), _at_random(results)
    lost = max(0.0, float(best.regret.mean()))
    known = best.known_correlation.median()
    ranked = "" if known != known else f"; its rank correlation with {name} is {format_share(float(known))} (median)"
    if lost < chance:
        return (
            f"In hindsight {_short(best.signal)}, of {len(judged)} signals, chooses best: taking the trial that it "
            f"prefers costs {format_number(lost)} of {name} on average, and a trial at random "
            f"{format_number(chance)}{ranked}."
        )
    return (
        f"No signal chooses better than chance: the best, {_short(best.signal)}, costs {format_number(lost)} of {name} "
        f"on average, and a trial at random {format_number(chance)}."
    )


def _short(signal: str) -> str:
    return signal.removeprefix(names.SIGNAL)


def _signals(judged: list[SignalQuality]) -> Table:
    ranked = any(one.known_correlation.notna().any() for one in judged)
    rows: list[tuple[Cell, ...]] = []
    for one in judged:
        known = one.known_correlation
        correlations = map(_share, (known.median(), known.min(), known.max())) if ranked else ()
        lost = (one.regret.mean(), one.regret.max()) if one.varies else (float("nan"), float("nan"))
        better = "more" if VISIBLE[one.signal] > 0 else "less"
        rows.append((_short(one.signal), better, _meaning(one.signal), *correlations, *map(_number, lost)))
    best = next((at for at, one in enumerate(judged) if one.varies), None)
    what = (
        "the rank correlation with the objective over trials (1 is what a defender hopes for), and " if ranked else ""
    )
    columns = ("median correlation", "lowest", "highest") if ranked else ()
    return Table(
        "signals",
        f"Signals that need no ground truth, over scenarios whose attack works: {what}the regret of taking the trial "
        "that the signal prefers on each scenario",
        ("signal", "better", "what it is", *columns, "mean regret", "worst regret"),
        tuple(rows),
        left=3,
        strong=() if best is None else (best,),
    )


def _share(value: float) -> str | None:
    return None if value != value else format_share(float(value))


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
    cells = results.compared[results.compared["scenario"].isin(_scored(results))]
    by_scenario = cells.groupby("scenario")[[*_METRICS, results.goal.objectives[0]]].mean().mean()
    lost = scores.max() - scores.mean()
    rows.append(("a trial at random", *map(_number, by_scenario), _number(lost.mean()), _number(lost.max())))
    return Table(
        "rules",
        "What each rule picks, mean over scenarios whose attack works",
        ("rule", *map(in_words, (*_METRICS, results.goal.objectives[0])), "mean regret", "worst regret"),
        tuple(rows),
    )


def _taken(results: Results, judged: list[SignalQuality]) -> dict[str, dict[str, int]]:
    """Rule -> scenario -> trial."""
    scenarios = _scored(results)
    taken: dict[str, dict[str, int]] = {}
    if results.default is not None:
        taken["paper default"] = dict.fromkeys(scenarios, results.default)
    taken["visible"] = {name: trial for name, trial in visible_trials(results, judged).items() if name in scenarios}
    if results.best is not None:
        single = "best single" if len(results.goal.objectives) == 1 else results.best_name
        taken[f"{single} (#{results.best})"] = dict.fromkeys(scenarios, results.best)
    taken["own best"] = oracle_trials(results)
    return taken


def _scored(results: Results) -> list[str]:
    """The scenarios that define the objective: on clean data nothing is a choice."""
    return [str(name) for name in oracle_scores(results).dropna(axis=1, how="all").columns]


def _reached(results: Results, taken: Mapping[str, int]) -> list[float | None]:
    cells = results.compared.set_index(["trial", "scenario"])
    chosen = cells.loc[[(trial, name) for name, trial in taken.items()]]
    return [_number(chosen[name].mean()) for name in (*_METRICS, results.goal.objectives[0])]


def _notes(results: Results, judged: list[SignalQuality]) -> list[Note]:
    objective = results.goal.objectives[0]
    single = "best single" if len(results.goal.objectives) == 1 else results.best_name
    texts = [
        f"Regret: what the best trial of a scenario has more of {in_words(objective)} than the one that is taken. "
        "Rules: visible takes the trial that a signal prefers, the one that chose best on the other attacks; "
        f"{single} is the best over all scenarios, own best each scenario's own, and both need ground truth."
    ]
    if any(one.known_correlation.isna().any() for one in judged):
        texts.append(
            f"A correlation takes at least {LEAST_DISTINCT} different values of the signal and of the objective on a "
            "scenario; there are fewer where a dash stands."
        )
    if not all(one.varies for one in judged):
        texts.append(
            "A signal that is the same in all trials of a scenario chooses nothing there, so it has no regret."
        )
    if results.scenarios.loc[_scored(results), "attack"].nunique() < 2:
        texts.append(
            "One attack works: the rule visible was chosen on the very scenarios that it is shown on, so its regret is "
            "too low. Study several attacks to know."
        )
    if results.space_filling_trials.empty:
        texts.append(
            f"The sampler {results.config.sampler} crowds where the objective is good: signals are ranked there, not "
            "over the space."
        )
    if direction(objective) == "minimize":
        texts.append(f"{in_words(objective)} is minimised; correlations and regrets are turned.")
    if len(results.goal.objectives) > 1:
        texts.append(
            f"Correlations, regrets and each scenario's own best are by {in_words(objective)} alone, the first of "
            "several objectives."
        )
    return [Note(text, "footnote") for text in texts]
