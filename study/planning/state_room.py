"""What the states of trainings that are read at several epochs take of the store, and whether it has room for them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defenses.api import Stage
from defenses.models import ModelSpec
from defenses.registry import UserError
from defenses.storage.atomic_files import SHOW_STORE
from defenses.storage.remote import cache_folder, is_url
from defenses.storage.trajectory import KeptStates
from defenses.trajectories import state_bytes
from search_spaces.space import Choice, Int
from study.cli.numbers import several
from study.cli.sizes import format_size
from study.planning.plan import Plan
from study.planning.setting_counts import count_trainings
from study.planning.states_there import StatesThere
from study.scenarios.clean_control import clean_scenarios
from study.scenarios.evaluation import cached_images
from study.scenarios.scenario import Scenario

_CONTROLLED = 2  # trials that the clean control runs: the paper's default and the best
_SPARE_BYTES = 500 << 20  # what a study writes beside its states


@dataclass(frozen=True)
class States:
    """What the trainings of a stage keep.

    Attributes:
        last: the latest epoch that may be read.
        count: states of one training.
        bytes: of one state, about.
        scenarios: how many there are.
        settings: of the fields that the training depends on, at most: each makes a training on each scenario.
        control: trainings of the clean control: the paper's default and the best trial, on other data.
        asked: the epochs that may be read.
    """

    stage: str
    last: int
    count: int
    bytes: int
    scenarios: int
    settings: int
    asked: tuple[int, ...] = ()
    control: int = 0

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return self.of(self.settings)

    def of(self, settings: int) -> int:
        """Bytes with so many trainings for each scenario, and those of the control."""
        return self.count * self.bytes * (self.scenarios * settings + self.control)

    @property
    def text(self) -> str:
        """For people."""
        trainings, scenarios = several(self.settings, "training"), several(self.scenarios, "scenario")
        return (
            f"{self.stage}, read up to epoch {self.last}, keeps {self.count} states of {format_size(self.bytes)} a "
            f"training: at most {format_size(self.total)} with {trainings} for each of {scenarios}"
            + (f" and {self.control} for the clean control" if self.control else "")
        )


def kept_states(plan: Plan) -> list[States]:
    """What each stage of a study keeps that is read before its end; none where none is."""
    environment, images = plan.environment, cached_images(plan.environment.dataset)
    kept = KeptStates(plan.environment.keep_states)
    states = []
    for stage in plan.defense.stages_until(plan.config.until):
        asked = asked_epochs(stage, plan)
        if asked:
            network = (environment.model, environment.width, environment.blocks)
            size = state_bytes(ModelSpec(*network, images.num_classes, images.image_size))
            settings = count_trainings(plan, stage)
            one = len(_kept_of_one(kept, asked, _read_of_one(plan, stage, asked, settings)))
            control = min(_CONTROLLED, settings) * len(_controls(plan))
            states.append(States(stage.name, asked[-1], one, size, len(plan.scenarios), settings, asked, control))
    return states


def check_state_room(plans: Sequence[Plan]) -> None:
    """Refuses studies of one command whose trainings would keep more states than their store has room for.

    Those that a pruner may stop are not counted: at least one is trained on each scenario.

    Raises:
        UserError: how much they take, and how much there is.
    """
    kept = [one for plan in plans for one in kept_states(plan)]
    if not kept:
        return
    place = plans[0].environment.store
    root = cache_folder(str(place)) if is_url(place) else Path(place)
    needed = sum(_needed(plan, root) for plan in plans)
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"the states of trainings that are read at several epochs take {format_size(needed)} of disk beside "
            f"{format_size(_SPARE_BYTES)} for the study, and {root} has {format_size(free)} free "
            f"({'; '.join(states.text for states in kept)}): free some ({SHOW_STORE}), choose another --store, read "
            "earlier epochs, take fewer scenarios or trials, keep fewer (--keep-states), or share trainings (--reuse, "
            "which is for --sampler qmc)"
        )


def check_keep_states(plans: Sequence[Plan]) -> None:
    """Refuses a setting of what is kept that does nothing in any of some studies of one command.

    Raises:
        UserError: they read no training early, or none at the epochs that are named.
    """
    states = [one for plan in plans for one in kept_states(plan)]
    config = plans[0].config
    if "keep_states" not in config.model_fields_set:
        return
    if not states:
        raise UserError(
            "--keep-states changes nothing, since this study reads no training before its end: leave it out, or search "
            "or set a read epoch"
        )
    listed = KeptStates(config.keep_states).listed
    asked = sorted({epoch for one in states for epoch in one.asked})
    if listed and not set(listed) & set(asked):
        raise UserError(
            f"--keep-states must name some of the epochs that are read, {', '.join(map(str, asked))}, got "
            f"{config.keep_states}: name such, or leave it out"
        )


def states_text(plan: Plan) -> str:
    """What is kept, for people; empty where nothing is."""
    kept = kept_states(plan)
    if not kept:
        return ""
    if plan.config.keep_states == "none":
        names = ", ".join(states.stage for states in kept)
        return f"No state of a training is kept (--keep-states none): each read of {names} is trained from its start."
    return "States of trainings, kept in the store so that each epoch is trained once:\n" + "\n".join(
        f"  {states.text}" for states in kept
    )


def asked_epochs(stage: Stage, plan: Plan) -> tuple[int, ...]:
    """The epochs at which a stage may be read, ascending; none where it is read at its end alone."""
    if stage.trajectory is None:
        return ()
    searched = plan.space.ranges.get(stage.trajectory.read)
    asked: list[int] = []
    if isinstance(searched, Int):
        asked = [*range(searched.low, searched.high + 1)]
    elif isinstance(searched, Choice):
        asked = [value for value in searched.options if isinstance(value, int)]
    elif plan.base.get(stage.trajectory.read) is not None:
        asked = [int(plan.base[stage.trajectory.read])]
    if plan.pruning is not None and plan.pruning.field == stage.trajectory.read:
        asked += plan.reads
        asked += [] if searched or plan.base.get(stage.trajectory.read) is not None else [plan.pruning.last]
    lasts = plan.space.ranges.get(stage.trajectory.epochs)
    default = plan.defense.config_type.from_mapping(plan.base)
    epochs = lasts.high if isinstance(lasts, Int) else stage.trajectory.length(default)
    return tuple(sorted({min(epoch, epochs) for epoch in asked}))


def _kept_of_one(kept: KeptStates, asked: Sequence[int], read: Sequence[int]) -> set[int]:
    """The epochs whose state a training keeps that is read after some of those asked for."""
    return set() if kept.text == "none" else {*kept.epochs(asked[-1]), *read}


def _read_of_one(plan: Plan, stage: Stage, asked: Sequence[int], settings: int) -> Sequence[int]:
    """The epochs at which one training may be read: all where trials share it, else one, and where a pruner looks."""
    assert stage.trajectory is not None
    if settings < plan.config.trials:
        return asked
    pruned = plan.pruning is not None and plan.pruning.field == stage.trajectory.read
    return [epoch for epoch in plan.reads if epoch <= asked[-1]] if pruned else ()


def _controls(plan: Plan) -> list[Scenario]:
    """The clean data that the study's own scenarios lack and that its control is run on."""
    if plan.config.clean_control == "none":
        return []
    return [one for one in clean_scenarios(plan.space.defense, plan.scenarios) if one not in plan.scenarios]


def _needed(plan: Plan, root: Path) -> int:
    """Bytes that the states of a study take beside those that lie in the store.

    No more than what the trials take that are still to come.
    """
    there = StatesThere(root, plan)
    stages = {stage.name: stage for stage in plan.defense.stages}
    needed = 0
    for states in kept_states(plan):
        settings = 1 if plan.config.pruner != "none" else states.settings
        have = there.bytes(stages[states.stage], states.count * states.bytes)
        left = states.of(min(settings, there.left)) if there.left else 0
        needed += max(0, min(left, states.of(settings) - have))
    return needed
