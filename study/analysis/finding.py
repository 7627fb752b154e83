"""What a study found, in one sentence: the best trial, what it gains over the paper's, and whether that can be chance.

The same sentence opens the closing screen, the report and the study's run in MLflow.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces import SEARCH_SPACES
from study.analysis.caveats import BUDGET, budget_caveat, flag_caveats, set_caveat
from study.analysis.failed_runs import failure_caveats
from study.analysis.fixed_fields import default_in_words, load_fields, set_beside_paper
from study.analysis.paired_tests import ALPHA, Difference, differences, pair
from study.analysis.results import Results
from study.analysis.selected_trial import SelectedTrial, beaten_trials
from study.cli.numbers import format_number, several
from study.config.objectives import in_words
from study.planning.clean_reserve import needs_sentence
from study.scenarios.oracle_defenses import find_defense

if TYPE_CHECKING:
    import pandas

_DIGITS = 12  # below, values differ by rounding, as for `study.ledger.selection`
_SMALL = 0.001  # of a score; a gain below it is not worth its digits
NOTHING = "No trial has finished yet."


@dataclass(frozen=True)
class Finding:
    """The answer and what limits it.

    Attributes:
        sentence: the finding, in one sentence.
        caveats: sentences that a reader needs beside it; the most important first.
        gain: of the best trial over the paper's default by the first objective, positive where the best is better;
            None where there is nothing to compare.
    """

    sentence: str
    caveats: tuple[str, ...] = ()
    gain: float | None = None


def find(results: Results) -> Finding:
    """The finding of a study, finished or not."""
    scenarios = results.over_repeats.scenarios
    if len(scenarios) and scenarios["attack_failed"].all():
        return Finding(
            "No attack works even without a defense, so this study says nothing about one: the ASR is below "
            f"{results.config.asr_floor:g} in {several(len(scenarios), 'scenario')}."
        )
    if not len(results.complete):
        failed = int((results.trials["state"] == "fail").sum())
        return Finding(f"No trial is complete: {failed} failed." if failed else NOTHING)
    if results.best is None:
        return Finding(f"No trial has a value of {results.goal.words}, so none can be called the best.")
    if len(results.goal.objectives) > 1:
        return Finding(_of_front(results), _caveats(results, chosen=True))
    return _of_one(results, results.best)


def _of_one(results: Results, best: int) -> Finding:
    goal, trials = results.goal, results.complete
    value = float(str(trials.at[best, "value"]))
    worst = " on its worst scenario" if goal.how == "worst" else ""
    reached = f"{in_words(goal.objectives[0])} {format_number(value)}{worst}"
    if len(trials) == 1:
        name = default_in_words(results).capitalize()
        what = f"{name}, the only trial," if best == results.default else f"Trial {best}, the only one,"
        return Finding(f"{what} reaches {reached}.", _caveats(results, chosen=False))
    tied = int((trials["value"].astype(float).round(_DIGITS) == round(value, _DIGITS)).sum()) - 1
    ties = f" (tied with {'one other' if tied == 1 else f'{tied} others'})" if tied else ""
    if best == results.default:
        sentence = f"The paper's default is the best of {len(trials)} trials{ties}: {reached}."
        return Finding(sentence, _caveats(results, chosen=True), 0.0)
    sentence = f"Trial {best} is the best of {len(trials)}{ties}: {reached}"
    if results.default is None:
        return Finding(f"{sentence}.", _caveats(results, chosen=True))
    difference = _difference(results, best, results.default)
    gain = abs(value - float(str(trials.at[results.default, "value"])))
    said = _gained(gain, difference, goal.how == "mean", picked_of=beaten_trials(results))
    return Finding(f"{sentence}, {said}.", _caveats(results, chosen=True), gain)


def _difference(results: Results, best: int, default: int) -> Difference | None:
    """The best against the default by the first objective over all attacks; None where no seed has it for all."""
    selected = [SelectedTrial(results, trial, "") for trial in (best, default)]
    compared = differences(pair(*selected), results.goal.objectives[:1])
    return next((one for one in compared if one.stratum is None), None)


def _gained(gain: float, difference: Difference | None, tested: bool, picked_of: int) -> str:
    """How much better than the default, and whether that is chance.

    Args:
        tested: the gain is a mean, as tests are.
        picked_of: trials that the best is the best of, beside the default; the chance that one of them looks so good
            is bounded by Bonferroni's inequality.
    """
    if not gain:
        return "as the paper's default"
    size = format_number(gain) if gain >= _SMALL else f"less than {_SMALL:g}"
    amount = f"{size} better than the paper's default"
    if difference is None:
        return f"{amount}; that is not tested, since no seed has every attack at work"
    if difference.seeds == 1:
        return f"{amount}; one seed cannot tell that from chance"
    if not tested:
        return f"{amount}; that is of the worst scenario of each, which no test tells from chance"
    over = f"over {difference.seeds} seeds"
    mean = format_number(abs(difference.mean))
    over += f" with every attack at work ({mean} on their {difference.pairs} scenarios)" if mean != size else ""
    if difference.verdict != "A" or difference.p is None:
        return f"{amount}, which {over} cannot be told from chance"
    if difference.p * picked_of >= ALPHA:
        return f"{amount}, which {over} cannot be told from the luck of the best of {picked_of}"
    if not difference.holds_over_seeds:
        return f"{amount}, on these scenarios more than chance explains; {over} it stays open what other seeds give"
    return f"{amount}, more than chance explains {over}"


def _of_front(results: Results) -> str:
    goal, best = results.goal, results.best
    trials = results.complete
    default = ", the paper's default," if best == results.default else ""
    reached = " and ".join(
        f"{in_words(name)} {format_number(float(str(trials.at[best, label])))}"
        for name, label in zip(goal.objectives, goal.labels, strict=True)
    )
    beside = ""
    if results.default is not None and results.default != best:
        values = [float(str(trials.at[results.default, label])) for label in goal.labels]
        beside = f"; the paper's default has {' and '.join(map(format_number, values))}"
    worst = " on the worst scenario" if goal.how == "worst" else ""
    front = len(results.front)
    return (
        f"Of {len(trials)} trials {front} {'is' if front == 1 else 'are'} beaten by no other in "
        f"{' and '.join(map(in_words, goal.objectives))}{worst}; trial {best}{default} is nearest to the ideal: "
        f"{reached}{beside}."
    )


def _caveats(results: Results, chosen: bool) -> tuple[str, ...]:
    caveats = []
    scenarios = results.over_repeats.scenarios
    failed = scenarios[scenarios["attack_failed"]]
    if len(failed):
        where = ", ".join(_where(part, scenarios) for _, part in failed.groupby("stratum", sort=False))
        caveats.append(
            f"The attack does not work on {where} (ASR without a defense below {results.config.asr_floor:g}), so "
            "that counts neither for nor against a defense."
        )
    needs = needs_sentence(SEARCH_SPACES[results.space], results.config)
    if needs:
        caveats.append(needs)
    if len(results.seeds) == 1:
        caveats.append("One seed: a small difference may be chance.")
    caveats += [*failure_caveats(results), *flag_caveats(results)]
    caveats += filter(
        None,
        (set_caveat(set_beside_paper(results)), budget_caveat(results.defense, _unvaried_fields(results))),
    )
    if chosen and len(results.complete) > 1:
        caveats.append("The best is picked with ground truth on the scenarios that it is shown on, so it is flattered.")
    return tuple(caveats)


def _unvaried_fields(results: Results) -> list[tuple[str, object]]:
    """Of a defense whose epochs can be scaled; of any other nothing, since asking for fields loads torch."""
    known = {field.name for field in dataclasses.fields(find_defense(results.defense).config_type)}
    return list(load_fields(results).items()) if BUDGET in known - results.ranges.keys() else []


def _where(failed: "pandas.DataFrame", scenarios: "pandas.DataFrame") -> str:
    """An attack and rate, with its seeds where it works with others."""
    stratum = str(failed["stratum"].iloc[0])
    seeds = int((scenarios["stratum"] == stratum).sum())
    return stratum if len(failed) == seeds else f"{stratum} ({len(failed)} of {seeds} seeds)"
