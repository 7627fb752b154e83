"""What `--holdout` can hold out, and the seeds that its judgement has."""

from defenses.registry import UserError
from study.config.config import StudyConfig
from study.config.objectives import Goal
from study.config.sampling import SPACE_FILLING
from study.scenarios.scenario import Scenario


def check_holdout(config: StudyConfig, goal: Goal, scenarios: tuple[Scenario, ...]) -> None:
    """Refuses what cannot be held out.

    Raises:
        UserError: a rule is broken.
    """
    if config.holdout is None:
        if config.judge_seeds:
            raise UserError("--judge-seeds changes nothing without --holdout: leave it out, or add --holdout attack")
        return
    asked = f"--holdout {config.holdout}"
    if config.sampler not in SPACE_FILLING:
        raise UserError(
            f"{asked} judges settings on what no search saw, and {config.sampler} learns from every scenario: "
            f"use --sampler {', '.join(SPACE_FILLING)}"
        )
    if config.per_scenario or config.pruner != "none" or len(goal.objectives) > 1:
        raise UserError(
            f"{asked} compares whole trials by one objective: leave out --per-scenario and --pruner, and name one "
            "--objective"
        )
    groups = {scenario.attack if config.holdout == "attack" else scenario.poison_rate for scenario in scenarios}
    if config.holdout != "seed" and len(groups) < 2:
        option = "attacks" if config.holdout == "attack" else "poison-rates"
        raise UserError(f"{asked} leaves one out and searches on the others, and there is one: give several --{option}")
    both = sorted(set(config.judge_seeds) & set(config.seeds))
    if both:
        raise UserError(f"--judge-seeds must be seeds that no search saw, and --seeds has {both[0]} too: name others")


def judge_seeds(config: StudyConfig) -> tuple[int, ...]:
    """The seeds of the judgement: those that were asked for, or as many as the search has, after its last."""
    first = max(config.seeds) + 1
    return config.judge_seeds or tuple(range(first, first + len(config.seeds)))
