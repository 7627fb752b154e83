"""What a study would do, without doing it."""

from collections import Counter
from collections.abc import Sequence

import torch

from defenses.api import Stage
from defenses.runner import RunContext, missing_stages
from defenses.storage.store import Store, open_store
from study.cli.numbers import format_value, listed, several
from study.cli.terminal import table, wrap
from study.cli.terms import METRICS, STUDY
from study.config.objectives import meaning
from study.config.sampling import DESIGNS
from study.planning.clean_reserve import needs_sentence
from study.planning.field_costs import FieldCost, field_costs
from study.planning.plan import Plan
from study.planning.setting_counts import count_settings
from study.planning.shared_stages import Build
from study.planning.state_room import asked_epochs, states_text
from study.scenarios.clean_control import clean_scenarios
from study.scenarios.evaluation import cached_images
from study.scenarios.oracle_defenses import find_defense
from study.scenarios.scenario import model_spec, stage_seed
from study.scenarios.stored_poison import poison_key, stored_poison, trigger_key

_LEAST_EPOCHS = 0.05  # epoch-equivalents; below, nothing is said
_THERE, _MISSING = "reused", "to build"  # of stages: whether an earlier command left them in the store


def describe(plan: Plan) -> str:
    """The shared stages with their state, and the trials."""
    store = open_store(plan.environment.store)
    rows = [
        [build.scenario.name, build.stage, _variant(build, plan), _state(build, plan, store)] for build in plan.builds
    ]
    states = Counter(row[-1] for row in rows)
    built = {build.stage for build in plan.builds}
    own = [s.name for s in plan.defense.stages_until(plan.config.until) if s.name not in built]
    parts = [
        f"study {plan.config.study_name}: nothing is started\n"
        f"{plan.config.dataset}, target class {plan.target}: the class that the attacker wants\n{wrap(STUDY)}",
        "Stages that all trials share, built once:\n"
        + table(["scenario", "stage", "variant", "state"], rows, left=4)
        + f"\n{states[_THERE]} {_THERE}, {states[_MISSING]} {_MISSING}",
        _trials(plan, own),
        _clean_control(plan),
        states_text(plan),
    ]
    parts += filter(None, (plan.points_note, plan.trials_note))
    if plan.space.ranges:
        parts += [_ranges(plan), wrap(_trainings(plan))]
    needs = needs_sentence(plan.space, plan.config)
    if needs:
        parts.append(wrap(needs))
    if plan.space.paper:
        parts.insert(1, f"It makes anew: {plan.space.paper}")
    if plan.changes:
        rows = [[change.field, change.paper, change.here] for change in plan.changes]
        parts.append(f"What preset {plan.config.preset} changes:\n" + table(["", "paper", "here"], rows, left=3))
    return "\n\n".join(filter(None, parts))


def _ranges(plan: Plan) -> str:
    """The searched fields, those first whose values cost most."""
    n = len(cached_images(plan.environment.dataset).train_labels)
    config = plan.full_config(plan.default_point)
    rows = [
        [
            plan.defense.config_type.symbol(cost.field),
            format_value(plan.default_point.get(cost.field)),
            str(plan.space.ranges[cost.field]),
            _cost_text(cost, plan.config.keep_states != "none"),
            plan.space.ranges[cost.field].why,
        ]
        for cost in field_costs(plan.space, plan.defense, config, plan.config.until, n)
    ]
    return table(["hyperparameter", "paper", "searched", "a new value costs", "why"], rows, left=5)


def _cost_text(cost: FieldCost, kept: bool) -> str:
    """What a new value costs; `kept` says whether states of trainings are, so that no epoch is trained twice."""
    epochs = f"{cost.epochs:.1f} epochs" if cost.epochs >= _LEAST_EPOCHS else "no epoch"
    if not cost.reads:
        return epochs
    return f"{epochs}; of {cost.reads} {'none twice' if kept else 'all up to it'}"


def _trainings(plan: Plan) -> str:
    """How many first trainings trials make, apart and shared."""
    expensive, trials, scenarios = plan.expensive, plan.config.trials, len(plan.scenarios)
    if not expensive:
        return "No searched field starts a training that other stages follow: trials share the first one."
    at_most = count_settings(plan, expensive)
    if plan.config.keep_states == "none":
        at_most = min(trials, at_most * max((len(asked_epochs(stage, plan)) for stage in _read_early(plan)), default=1))
    advice = "" if plan.reused or plan.config.sampler not in DESIGNS else " --reuse N makes them N."
    return (
        f"{', '.join(expensive)} start the training that all else follows: {several(trials, 'trial')} x "
        f"{several(scenarios, 'scenario')} make {trials * scenarios} of them if each makes its own, at most "
        f"{at_most * scenarios} as shared.{advice}"
    )


def _read_early(plan: Plan) -> list[Stage]:
    """The stages of the first training that are read at several epochs."""
    stages = plan.defense.stages_until(plan.config.until)
    return [stage for stage in stages if asked_epochs(stage, plan) and set(plan.expensive) & set(stage.reads)]


def _clean_control(plan: Plan) -> str:
    controls = () if plan.config.clean_control == "none" else clean_scenarios(plan.space.defense, plan.scenarios)
    named = ", ".join(scenario.name for scenario in controls if scenario not in plan.scenarios)
    if not named:
        return ""
    return (
        f"Clean control: then the paper's default and the best trial on the same data unpoisoned ({named}), up to "
        "who is flagged"
    )


def _trials(plan: Plan, own: Sequence[str]) -> str:
    """How many trials there are, how they are chosen, and what each runs."""
    config, goal = plan.config, plan.goal
    made_of = meaning(goal.objectives[0]) if len(goal.objectives) == 1 else ""
    at = f", after {listed(plan.reads)} epochs of training" if plan.reads else ""
    stopped = "none is stopped early" if config.pruner == "none" else f"pruner {config.pruner} stops some early{at}"
    return (
        f"Trials: {config.trials} x {plan.scenarios_text}, chosen by {config.sampler}, {stopped}\n"
        f"Searched for: the best {goal.words}{f' ({made_of})' if made_of else ''}\n"
        f"Each trial runs: {', '.join(own) or 'nothing of its own'}\n{wrap(METRICS)}"
    )


def _variant(build: Build, plan: Plan) -> str:
    if build.defense != plan.space.defense:  # the undefended model has fields of its own with the same names
        return ""
    searched = {name: value for name, value in build.config.items() if name in plan.space.ranges}
    return ", ".join(f"{name}={value}" for name, value in searched.items())


def _state(build: Build, plan: Plan, store: Store) -> str:
    images, device = cached_images(plan.environment.dataset), torch.device(plan.environment.device)
    if build.stage == "trigger" and store.find("trigger", trigger_key(build.scenario, images, device)) is not None:
        return _THERE
    if store.find("poison", poison_key(build.scenario, images, device)) is None or build.stage == "trigger":
        return _MISSING
    if build.stage == "poison":
        return _THERE
    environment = plan.environment
    poisoned, _ = stored_poison(build.scenario, images, store, device)
    spec = model_spec(environment.model, environment.width, environment.blocks, images, poisoned.suspect)
    context = RunContext(store, spec, stage_seed(build.scenario), device, environment.precision, reserve=images.reserve)
    defense = find_defense(build.defense)
    config = defense.config_type.from_mapping(build.config)
    missing = missing_stages(defense(config), poisoned.suspect.fingerprint, context, build.stage)
    return _MISSING if build.stage in missing else _THERE
