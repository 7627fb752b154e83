"""What was asked: the defense, the attacks, the space and how it was searched."""

from typing import Any

from search_spaces import SEARCH_SPACES
from study.analysis.results import Results
from study.cli.numbers import several
from study.config.objectives import meaning
from study.config.sampling import SPACE_FILLING
from study.planning.clean_reserve import needs_text
from study.report.elements import Item, Note, Section, Table
from study.scenarios.oracle_defenses import describe_defense

_SHOWN_FAILURES = 5
STATES = {"complete": "complete", "pruned": "stopped early", "fail": "failed"}


def section(results: Results) -> Section:
    """One table, and the scenarios whose attack does not work."""
    scenarios = results.scenarios
    attacks = len(dict.fromkeys(scenarios["attack"]))
    lead = (
        f"{results.defense} against {several(attacks, 'attack')} on {results.config.dataset}, "
        f"preset {results.config.preset}; {several(len(results.trials), 'trial')} on "
        f"{several(len(scenarios), 'scenario')}."
    )
    items: list[Item] = [_table(results), *_failed(results)]
    return Section("studied", "What was studied", lead, tuple(items))


def _table(results: Results) -> Table:
    scenarios, config = results.scenarios, results.config
    states = results.trials["state"].value_counts()
    counts = ", ".join(f"{int(states[state])} {STATES.get(str(state), state)}" for state in states.index)
    spread = "spread over the space" if config.sampler in SPACE_FILLING else "a search, which crowds where it does well"
    until = " (flags alone: no final model is trained)" if config.until else ""
    needs = needs_text(SEARCH_SPACES[results.space], config)
    rows = (
        ("defense", f"{describe_defense(results.defense)}{until}{f'; {needs}' if needs else ''}"),
        ("search space", f"{results.space}: {', '.join(results.ranges) or 'nothing is searched'}"),
        ("attacks", ", ".join(dict.fromkeys(scenarios["attack"]))),
        ("poison rates", ", ".join(f"{rate:g}" for rate in sorted(scenarios["poison_rate"].dropna().unique()))),
        ("target class", results.manifest.target),
        ("seeds", ", ".join(map(str, results.seeds))),
        *((("repeats", f"{results.repeats} trainings on each poisoned set"),) if results.repeats > 1 else ()),
        ("preset", f"{config.preset}: {config.dataset}, width {config.width}"),
        ("trials", counts),
        ("sampler", f"{config.sampler}: {spread}"),
        ("objective", _objective(results)),
    )
    return Table("studied", "", ("", "this study"), rows, left=2)


def _objective(results: Results) -> str:
    goal: Any = results.goal
    score = meaning(goal.objectives[0]) if len(goal.objectives) == 1 else ""
    return f"{goal.words}{f', {score}' if score else ''}; it takes ground truth"


def _failed(results: Results) -> list[Note]:
    failed = [str(name) for name in results.scenarios.index[results.scenarios["attack_failed"]]]
    if not failed:
        return []
    more = f" and {len(failed) - _SHOWN_FAILURES} more" if len(failed) > _SHOWN_FAILURES else ""
    return [
        Note(
            f"The attack does not work even without a defense on {', '.join(failed[:_SHOWN_FAILURES])}{more}: these "
            "are marked, and count neither for nor against a defense.",
            "warning",
        )
    ]
