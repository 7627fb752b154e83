"""From a configuration to work: the scenarios, the stages that all trials share, and what one trial is."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from defenses.api import Defense
from defenses.config import Config
from defenses.registry import UserError
from defenses.storage.atomic_files import canonical
from search_spaces import SEARCH_SPACES
from search_spaces.conditions import Value
from search_spaces.space import SearchSpace
from study.attacks import ATTACKS, find_attack
from study.attacks.groups import expand
from study.cli.numbers import several
from study.cli.paths import expand_home
from study.config.config import CommonConfig, StudyConfig
from study.config.objectives import Goal, parse_objectives
from study.config.paper_deviations import Change, preset_changes
from study.config.sampling import DESIGNS
from study.datasets import DATASETS, DatasetSpec
from study.ledger.grid import Grid, Points, make_grid
from study.ledger.pruning import Pruning, parse_pruning
from study.planning.clean_reserve import reserve_size
from study.planning.few_trials import few_trials
from study.planning.field_costs import expensive_fields
from study.planning.holdout_rules import check_holdout
from study.planning.idle_options import check_options_act, fields_read
from study.planning.measurable import check_objective, measurable
from study.planning.own_training import own_training
from study.planning.point_counts import count_points, given_points
from study.planning.scenario_checks import check_scenarios, tell_misread
from study.planning.searched_space import load_space
from study.planning.shared_stages import Build, plan_builds
from study.scenarios.evaluation import EvaluationContext, cached_images
from study.scenarios.oracle_defenses import check_truth, find_defense
from study.scenarios.scenario import Scenario
from tracking import names


@dataclass(frozen=True)
class Plan:
    """Everything a study does.

    Attributes:
        space: the searched space, without fields that the user set.
        base: fields of the defense's Config that all trials share: the preset's, then the user's.
        data_keys: of the scenarios' poisoned data: a file's name does not say what lies in it today.
        goal: what it searches for.
        gpus: a trial's.
        grid: what the sampler ``grid`` goes through, or points that were chosen before; None for every other sampler.
        pruning: how trials are stopped early; None when they are not.
        points: how many there are where that is less than the trials asked for; 0 otherwise.
    """

    config: StudyConfig
    environment: EvaluationContext
    space: SearchSpace
    base: dict[str, Any]
    scenarios: tuple[Scenario, ...]
    data_keys: tuple[str, ...]
    builds: tuple[Build, ...]
    goal: Goal
    gpus: float
    grid: Grid | Points | None = None
    pruning: Pruning | None = None
    points: int = 0

    @property
    def objective(self) -> str:
        """What it searches for, in a few words."""
        return self.goal.text

    @property
    def scenarios_text(self) -> str:
        """How many scenarios a trial is run on, and how often on each: ``3 scenarios x 2 repeats``."""
        repeats = f" x {self.config.repeats} repeats" if self.config.repeats > 1 else ""
        return f"{several(len({scenario.first_repeat for scenario in self.scenarios}), 'scenario')}{repeats}"

    @property
    def reads(self) -> tuple[int, ...]:
        """The epochs after which trials are compared; none where no pruner asks, or it does between scenarios."""
        return self.pruning.reads if self.pruning is not None else ()

    @property
    def points_note(self) -> str:
        """That the space is smaller than the trials asked for; empty where it is not."""
        if not self.points:
            return ""
        points = several(self.points, "setting")
        having = "The space has" if self.config.reuse is None else f"With --reuse {self.config.reuse} there are"
        return f"{having} {points} in all, so the study ends after as many trials."

    @property
    def trials_note(self) -> str:
        """That trials which are spread over the space are too few for what they are good for; empty where not."""
        return few_trials(self.space, self.config, self.given_trials)

    @property
    def target(self) -> str:
        """The class the attacker wants, by number and name; the same in all scenarios that have one."""
        images = cached_images(self.environment.dataset)
        return max(self.scenarios, key=lambda scenario: scenario.poison_rate).target_text(images)

    @property
    def defense(self) -> type[Defense]:
        """The defense under study."""
        return find_defense(self.space.defense)

    @property
    def changes(self) -> list[Change]:
        """What differs from the paper: data, network, and fields that no trial varies."""
        return preset_changes(self.config, self.defense.config_type, self.base)

    @property
    def default_point(self) -> dict[str, Value]:
        """The searched fields at the paper's values."""
        return self.space.default(self.defense.config_type.from_mapping(self.base))

    @property
    def reused(self) -> tuple[tuple[str, ...], int] | None:
        """The fields that take few settings, which trials share, and how many; None where each trial draws its own."""
        count = self.config.reuse
        return None if count is None else (self.expensive, count)

    @property
    def expensive(self) -> tuple[str, ...]:
        """The searched fields that start a training which others follow."""
        return expensive_fields(self.space.ranges, self.defense, self.config.until)

    @property
    def calibrated_point(self) -> dict[str, Value] | None:
        """The searched fields at values that suit the preset's scale; None where they are the paper's.

        A grid says itself which points there are.
        """
        return next(iter(self.given_points[1:]), None)

    @property
    def given_points(self) -> list[dict[str, Value]]:
        """The points of the trials that no sampler draws, the paper's default first."""
        return given_points(self.config, self.space, self.grid, self.defense.config_type.from_mapping(self.base))

    @property
    def given_trials(self) -> int:
        """How many these are."""
        return len(self.given_points)

    def full_config(self, point: Mapping[str, Any]) -> Config:
        """The whole configuration of a trial."""
        return self.defense.config_type.from_mapping({**self.base, **point})

    def point_key(self, point: Mapping[str, Any]) -> str:
        """Names a trial across restarts: a hash of the whole configuration and of all that judges it."""
        environment = dataclasses.asdict(self.environment)
        for where in ("store", "device", "keep_states", "undefended_on"):  # none of them judges anything
            del environment[where]
        environment["step"] = "auto"  # as in the keys of before: how steps are taken changes no result
        for how in ("data_dir", "download", "at_most", "store"):  # what is read, `data_keys` tells
            del environment["dataset"][how]
        if not environment["dataset"]["reserve"]:  # as in the keys of studies from before there was one
            del environment["dataset"]["reserve"]
        identity = {
            "defense": self.space.defense,
            "config": dataclasses.asdict(self.full_config(point)),
            "scenarios": [scenario.fields() for scenario in self.scenarios],
            "environment": environment,
            "data": self.data_keys,
            "until": self.config.until,
        }
        return hashlib.sha256(canonical(identity).encode()).hexdigest()[:32]


def fixed_fields(config: CommonConfig, space: SearchSpace) -> dict[str, Any]:
    """The fields that the preset and the user set, typed and checked."""
    preset = space.preset(config.preset)
    given = find_defense(space.defense).config_type.from_text(config.set, preset)
    return {**preset, **{name: getattr(given, name) for name in config.set}}


def dataset_spec(config: CommonConfig) -> DatasetSpec:
    """The images that a configuration names."""
    DATASETS.check(config.dataset.partition(":")[0])
    return DatasetSpec(
        name=config.dataset,
        train_size=config.train_size,
        test_size=config.test_size,
        image_size=config.image_size,
        data_dir=config.data_dir,
        download=config.download,
        at_most=tuple(split for split in ("train", "test") if f"{split}_size" not in config.model_fields_set),
        reserve=reserve_size(config),
        store=config.store_place,
    )


def build_evaluation_context(
    config: CommonConfig, space: SearchSpace, device: str, precision: str
) -> EvaluationContext:
    """What all cells of a configuration share."""
    return EvaluationContext(
        dataset=dataset_spec(config),
        store=config.store_place,
        model=config.model or space.model,
        width=config.width,
        blocks=config.blocks,
        precision=precision,
        device=device,
        undefended=SEARCH_SPACES["no_defense"].preset(config.preset),
        asr_floor=config.asr_floor,
        step=config.step,
        keep_states=config.keep_states,
        undefended_on=config.undefended_on,
    )


def attack_text(name: str, config: CommonConfig) -> str:
    """An attack as the user wrote it, with the user's picture, photographs or data where it takes some."""
    path = DatasetSpec(config.dataset).path if config.dataset.startswith("npz:") else None
    options = {"image": config.trigger_image, "trigger_dir": config.trigger_dir, "file": path}
    kind = name.partition(":")[0]
    if kind not in ATTACKS:
        return name  # refused where it is parsed
    fields = {field.name for field in dataclasses.fields(ATTACKS[kind].config_type)}
    for option, value in options.items():
        if value is not None and option in fields and f":{option}=" not in name:
            name += f":{option}={expand_home(value).resolve()}"
    return name


def build_scenarios(config: StudyConfig) -> tuple[Scenario, ...]:
    """Attack x rate x seed x repeat, each once. An attack's own rate (``sig@0.08``) goes before the study's.

    Raises:
        UserError: the study's rates would change nothing.
    """
    attacks = expand(config.attacks, config.dataset)
    if _sets_rates(config) and all(own_rate is not None or not find_attack(name).poisons for name, own_rate in attacks):
        raise UserError(
            f"--poison-rates changes nothing, since every attack of {' '.join(config.attacks)} has a rate of its own "
            "or none: leave it out, or write the rate behind the attack, as in badnets@0.05 or pipd_table6@0.1"
        )
    scenarios: dict[Scenario, None] = {}
    repeats = range(config.repeats)
    for (name, own_rate), rate, seed, repeat in itertools.product(attacks, config.poison_rates, config.seeds, repeats):
        scenarios[build_scenario(name, own_rate or rate, seed, config, repeat)] = None
    return tuple(scenarios)


def _sets_rates(config: StudyConfig) -> bool:
    """Whether somebody asked for poison rates; the preset's own are no wish."""
    return "poison_rates" in config.model_fields_set


def build_scenario(attack: str, poison_rate: float, seed: int, config: CommonConfig, repeat: int = 0) -> Scenario:
    """A scenario of a configuration; an attack that poisons nothing itself has no rate.

    Raises:
        UserError: an unknown attack or class, or a size that a given training set cannot have.
    """
    kind = find_attack(attack)
    if kind.received and "train_size" in config.model_fields_set and config.train_size is not None:
        raise UserError(
            f"--train-size changes nothing for {attack}, whose training set is taken whole, as its file has it: leave "
            "it out, or save a smaller file"
        )
    rate = poison_rate if kind.poisons else 0.0
    return Scenario(attack_text(attack, config), rate, target_number(config), seed, config.preset, repeat)


def target_number(config: CommonConfig) -> int:
    """The class the attacker wants; the images are loaded where it is given by name.

    Raises:
        UserError: no class, or more than one, has that name.
    """
    if isinstance(config.target_label, int):
        return config.target_label
    return cached_images(dataset_spec(config)).find_class(config.target_label)


def default_objective(config: StudyConfig, defense: type[Defense], known: frozenset[str]) -> str:
    """The objective that suits what a study measures; `known` as `measurable` gives it."""
    flags = defense.flagged is not None and names.FPR in known
    if defense.flagged is not None and config.until == "isolate":
        if names.TPR in known:
            return names.ISOLATION_SCORE
        return names.FLAGGED_SHARE if names.FLAGGED_SHARE in known else names.FPR
    if flags and names.TPR in known and names.ASR in known:
        return names.OVERALL_SCORE
    if names.ASR in known:
        return names.DEFENSE_SCORE
    if flags:
        return names.ISOLATION_SCORE if names.TPR in known else names.FPR
    return names.CA


def make_plan(config: StudyConfig, device: str, gpus: float, precision: str) -> Plan:
    """The plan of a study. Loads the dataset and checks every scenario, and starts nothing.

    Raises:
        UserError: anything in the configuration that cannot work.
    """
    space = load_space(config)
    base = fixed_fields(config, space)
    defense = find_defense(space.defense)
    # A field that no stage reads changes nothing: searching it would waste trials and blur every importance.
    # Nor does one whose condition the fixed fields do not meet.
    space = space.without((*config.set, *(space.ranges.keys() - fields_read(config, defense))))
    space = space.settled(defense.config_type.from_mapping(base))
    environment = build_evaluation_context(config, space, device, precision)
    scenarios = build_scenarios(config)
    check_options_act(config, [scenario.attack for scenario in scenarios])
    images = cached_images(environment.dataset)
    check_scenarios(scenarios, images, environment)
    tell_misread(config.target_label, images)
    goal = build_goal(config, defense, measurable(scenarios, images))
    for scenario in scenarios if config.per_scenario else ():  # each has a search of its own, for what it tells
        build_goal(config, defense, measurable((scenario,), images))
    check_truth(space.defense, [s.name for s in scenarios if names.TPR not in measurable((s,), images)])
    check_reuse(config, space, defense)
    check_holdout(config, goal, scenarios)
    builds = plan_builds(config, scenarios, space, base, environment)
    training = own_training(config, defense, space, base, goal)
    pruning = parse_pruning(config, goal, len(scenarios), training)
    data_keys = tuple(scenario.key(images) for scenario in scenarios)
    grid = build_grid(config, space)
    # A grid without a number asked for is whole; the preset's number is no wish.
    wanted = config.trials if grid is None or "trials" in config.model_fields_set else math.inf
    given = given_points(config, space, grid, defense.config_type.from_mapping(base))
    expensive = expensive_fields(space.ranges, defense, config.until)
    trials = min(wanted, count_points(config, space, grid, expensive, given))
    points = int(trials) if trials < wanted < math.inf else 0
    config = config.model_copy(update={"trials": int(trials)})
    return Plan(config, environment, space, base, scenarios, data_keys, builds, goal, gpus, grid, pruning, points)


def check_reuse(config: StudyConfig, space: SearchSpace, defense: type[Defense]) -> None:
    """Refuses settings that nothing would share.

    Raises:
        UserError: a sampler that draws no design, or a space whose trials share every training already.
    """
    if config.reuse is None:
        return
    if config.sampler not in DESIGNS:
        raise UserError(
            f"--reuse is for samplers that cover the space, {' and '.join(DESIGNS)}, got --sampler {config.sampler}: "
            "add --sampler qmc, or leave it out"
        )
    if not expensive_fields(space.ranges, defense, config.until):
        raise UserError(
            f"--reuse changes nothing for space {space.name}, none of whose searched fields starts a training of its "
            "own: leave it out, or take a space that searches some, such as pipd_wide"
        )


def build_goal(config: StudyConfig, defense: type[Defense], known: frozenset[str]) -> Goal:
    """What a study searches for: what it was told, or what suits it; `known` as `measurable` gives it.

    Raises:
        UserError: an aggregate over scenarios that would change nothing, or an objective that is not measured.
    """
    told = parse_objectives(config.objective) if config.objective else (default_objective(config, defense, known),)
    for objective in told:
        check_objective(objective, config.until, defense, known)
    if config.per_scenario and config.aggregate != "mean" and config.repeats == 1:
        raise UserError(
            f"--aggregate {config.aggregate} changes nothing with --per-scenario, where each study has one scenario: "
            "leave one of the two out"
        )
    return Goal(told, config.aggregate)


def build_grid(config: StudyConfig, space: SearchSpace) -> Grid | None:
    """The grid of a study whose sampler goes through one.

    Raises:
        UserError: a resolution that the sampler does not use.
    """
    if config.sampler == "grid":
        return make_grid(space, config.resolution)
    if config.resolution:
        raise UserError(
            f"--resolution changes nothing with --sampler {config.sampler}: leave it out, or use --sampler grid"
        )
    return None
