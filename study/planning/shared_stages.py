"""The stages that all trials of a study share: which there are, in which variants, and what each needs first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from defenses.api import Defense, Stage
from defenses.storage.atomic_files import canonical
from search_spaces.conditions import Value
from search_spaces.space import SearchSpace, finite_values
from study.config.config import StudyConfig
from study.scenarios.evaluation import EvaluationContext
from study.scenarios.oracle_defenses import find_defense
from study.scenarios.scenario import Scenario
from study.scenarios.undefended import needs_undefended, trains_the_undefended

MAX_VARIANTS = 8  # a shared stage whose searched choices make more than this is left to the trials that need it


@dataclass(frozen=True)
class Build:
    """A stage of one scenario that is built before any trial starts.

    Attributes:
        scenario: whose.
        defense: key of the defense; ``no_defense`` for the undefended model.
        config: fields of the defense's Config.
        stage: its name; ``trigger`` to train what the attack needs, ``poison`` to poison the data.
        needs: positions in the plan of the builds that must be there first.
        variant: the searched fields that it is built for, ``channel_statistic=max``; empty for a stage of one variant.
    """

    scenario: Scenario
    defense: str
    config: Mapping[str, Any]
    stage: str
    needs: tuple[int, ...]
    variant: str = ""

    @property
    def label(self) -> str:
        """For progress and errors: what is built, and for which scenario; no other build has it."""
        return f"{self.stage} {self.where}"

    @property
    def where(self) -> str:
        """For which scenario it is built, and in which variant."""
        return f"{self.scenario.name} ({self.variant})" if self.variant else self.scenario.name

    @property
    def kind(self) -> str:
        """What takes equally long: the stage, and what an attack trains for that attack."""
        return f"{self.stage} {self.scenario.attack}" if self.stage == "trigger" else self.stage


def plan_builds(
    config: StudyConfig,
    scenarios: tuple[Scenario, ...],
    space: SearchSpace,
    base: dict[str, Any],
    environment: EvaluationContext,
) -> tuple[Build, ...]:
    """What a study builds before its trials, parents before children.

    A single trial is the paper's default, which reads one variant of each stage. Where trials stop once samples are
    flagged, no stage after that is built.

    Args:
        base: fields of the defense's Config that no trial varies.
    """
    defense = find_defense(space.defense)
    if config.trials == 1 and config.sampler != "grid":
        base = {**base, **space.default(defense.config_type.from_mapping(base))}
        space = space.without(tuple(space.ranges))
    return _builds(scenarios, defense, space, base, environment, config.until)


def _builds(
    scenarios: tuple[Scenario, ...],
    defense: type[Defense],
    space: SearchSpace,
    base: Mapping[str, Any],
    environment: EvaluationContext,
    until: str | None,
) -> tuple[Build, ...]:
    builds: list[Build] = []

    def add(build: Build) -> int:
        builds.append(build)
        return len(builds) - 1

    triggers: dict[tuple[str, int], int] = {}
    poisons: dict[Scenario, int] = {}
    for scenario in scenarios:
        needs: tuple[int, ...] = ()
        if scenario.parsed.trained:
            fitted = (scenario.attack, scenario.seed)
            if fitted not in triggers:
                triggers[fitted] = add(Build(scenario, "no_defense", {}, "trigger", ()))
            needs = (triggers[fitted],)
        data = scenario.first_repeat  # all repeats train on the same
        poison = poisons[data] if data in poisons else add(Build(data, "no_defense", {}, "poison", needs))
        poisons[data] = poison
        undefended = None
        if _needs_undefended(scenario, defense, space, base, environment):
            undefended = add(Build(scenario, "no_defense", environment.undefended, "standard_training", (poison,)))
        made: dict[tuple[str, str], int] = {}
        for stage in defense.stages_until(until):
            whole: dict[str | None, int] = {}  # what reads the end of a training: the others then need not wait for it
            for variant in _longest_first(stage, shared_variants(stage, defense, space) or []):
                own = {**base, **variant}
                if undefended is not None and trains_the_undefended(stage, defense, own, environment):
                    made[stage.name, canonical(variant)] = undefended
                    whole.setdefault(_but_for_read(stage, variant), undefended)
                    continue
                parents = [made[name, _part(name, variant, defense, space)] for name in stage.parents]
                training = _but_for_read(stage, variant)
                parents += [whole[training]] if training is not None and training in whole else []
                needs, text = (
                    (poison, *sorted(parents)),
                    ", ".join(f"{name}={value}" for name, value in variant.items()),
                )
                position = add(Build(scenario, space.defense, own, stage.name, needs, text))
                made[stage.name, canonical(variant)] = position
                whole.setdefault(training, position)
    return tuple(builds)


def _needs_undefended(
    scenario: Scenario,
    defense: type[Defense],
    space: SearchSpace,
    base: Mapping[str, Any],
    environment: EvaluationContext,
) -> bool:
    """Whether some trial judges the undefended model of a scenario."""
    shared = [variant for stage in defense.stages for variant in shared_variants(stage, defense, space) or ()]
    return any(needs_undefended(defense, {**base, **own}, scenario, environment) for own in ({}, *shared))


def is_undefended(build: Build, environment: EvaluationContext) -> bool:
    """Whether a build is that of the undefended model, and no other training of the same kind."""
    return build.stage == "standard_training" and dict(build.config) == environment.undefended


def searched_fields(stage: Stage, defense: type[Defense], space: SearchSpace) -> list[str]:
    """The searched fields that a stage's outputs depend on, its parents' included."""
    fields = set(stage.reads) & set(space.ranges)
    for parent in _parents(stage, defense):
        fields |= set(searched_fields(parent, defense, space))
    return sorted(fields)


def _parents(stage: Stage, defense: type[Defense]) -> list[Stage]:
    return [parent for parent in defense.stages if parent.name in stage.parents]


def shared_variants(stage: Stage, defense: type[Defense], space: SearchSpace) -> list[dict[str, Value]] | None:
    """All settings of the searched fields that a cached stage depends on; None when they are too many to build first.

    A stage that depends on no searched field has one variant, the empty one. A stage waits for the trials when a
    parent of its does.
    """
    if not stage.cached or any(shared_variants(parent, defense, space) is None for parent in _parents(stage, defense)):
        return None
    fields = searched_fields(stage, defense, space)
    values = {name: finite_values(space.ranges[name]) for name in fields}
    finite = {name: options for name, options in values.items() if options is not None}
    if len(finite) < len(values):
        return None
    variants = list(space.only(fields).conditions.points(finite))
    return variants if len(variants) <= MAX_VARIANTS else None


def _longest_first(stage: Stage, variants: list[dict[str, Value]]) -> list[dict[str, Value]]:
    """The variants of a training that is read at several epochs: the last read first, whose states the others find."""
    if not variants or _but_for_read(stage, variants[0]) is None:
        return variants
    assert stage.trajectory is not None
    read = stage.trajectory.read
    return sorted(variants, key=lambda variant: -int(variant[read]))


def _but_for_read(stage: Stage, variant: Mapping[str, Value]) -> str | None:
    """What variants have in common that are read from one training; None where the read epoch is not searched."""
    if stage.trajectory is None or stage.trajectory.read not in variant:
        return None
    return canonical({name: value for name, value in variant.items() if name != stage.trajectory.read})


def _part(name: str, variant: Mapping[str, Value], defense: type[Defense], space: SearchSpace) -> str:
    """The part of a variant that a parent stage depends on, as a key."""
    parent = next(stage for stage in defense.stages if stage.name == name)
    return canonical({field: variant[field] for field in searched_fields(parent, defense, space) if field in variant})
