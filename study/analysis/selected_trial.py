"""Which trial stands for a study: the paper's default, the best, or one by its number."""

from dataclasses import dataclass

from defenses.registry import UserError
from study.analysis.fixed_fields import set_beside_paper
from study.analysis.results import Results
from study.cli.numbers import listed
from study.ledger import selection


@dataclass(frozen=True)
class SelectedTrial:
    """One trial of a study.

    Attributes:
        how: in words: ``the paper's default``.
        oracle: it was picked by an objective, which is computed from ground truth.
        picked_of: trials that it is the best of, beside the paper's default; 0 where it was not picked.
    """

    results: Results
    trial: int
    how: str
    oracle: bool = False
    picked_of: int = 0


def select_trial(results: Results, rule: str = "default") -> SelectedTrial:
    """The trial that a rule picks among those with a result on every scenario.

    Args:
        rule: ``default``, ``best`` by the study's objective (of several the knee of their front), or a trial's number.

    Raises:
        UserError: there is no such trial, or it is not complete.
    """
    complete = results.complete
    if complete.empty:
        raise UserError(
            f"study {results.name!r} has no trial with a result on every scenario: go on with it, or look at what "
            f"there is with {results.command_for('status')}"
        )
    if rule == "best":
        return _best(results)
    if rule == "default":
        if results.default is None:
            raise UserError(
                f"study {results.name!r} has no complete trial with the paper's default: compare its best "
                f"({results.name}:best), or a trial by its number ({results.name}:{complete.index[0]})"
            )
        changed = set_beside_paper(results)
        but = f" but for {listed([*changed])}, which --set gives" if changed else ""
        return SelectedTrial(results, results.default, f"the paper's default{but}")
    return _numbered(results, rule)


def _best(results: Results) -> SelectedTrial:
    number = results.best
    if number is None:
        raise UserError(f"study {results.name!r} has no trial with a value of its objective: compare its default")
    count = results.complete["value"].count()
    how = f"the {results.best_name} of {count} trials by {results.goal.words}, trial {number}"
    return SelectedTrial(results, number, how, oracle=True, picked_of=beaten_trials(results))


def beaten_trials(results: Results) -> int:
    """Trials that the best of a study is the best of, beside the paper's default; also those stopped early."""
    return int(results.trials["state"].isin(("complete", "pruned")).sum()) - 1


def _numbered(results: Results, rule: str) -> SelectedTrial:
    if not rule.isdecimal():
        raise UserError(f"behind a study's name stands default, best or the number of a trial, got {rule!r}")
    number = int(rule)
    if selection.by_number(results.candidates, number) is None:
        state = results.trials["state"].get(number, "not there")
        what = "has a result that is missing or cannot be read" if state == "complete" else f"is {state}"
        raise UserError(
            f"trial {number} of study {results.name!r} {what}: only complete ones have a result on every scenario"
        )
    default = " (the paper's default)" if results.trials.loc[number, "paper_default"] else ""
    if number == results.best and number != results.default:  # picked just the same, whoever names it
        return _best(results)
    return SelectedTrial(results, number, f"trial {number}{default}")
