"""What the states of trainings that are read at several epochs take of the store, and whether it has room for them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defenses.api import Stage
from defenses.models import ModelSpec
from defenses.registry import UserError
from defenses.storage.atomic_files import SHOW_STORE
from defenses.storage.inventory import Kind, read_stage
from defenses.storage.remote import cache_folder, is_url
from defenses.storage.trajectory import KeptStates
from defenses.trajectories import state_bytes
from search_spaces.space import Choice, Int
from study.cli.numbers import several
from study.cli.sizes import format_size
from study.ledger.store_use import poisoned_fingerprints
from study.planning.plan import Plan
from study.planning.setting_counts import count_trainings
from study.scenarios.evaluation import cached_images

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
        asked: the epochs that may be read.
    """

    stage: str
    last: int
    count: int
    bytes: int
    scenarios: int
    settings: int
    asked: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return self.least * self.settings

    @property
    def least(self) -> int:
        """Bytes with one training for each scenario."""
        return self.count * self.bytes * self.scenarios

    @property
    def text(self) -> str:
        """For people."""
        trainings, scenarios = several(self.settings, "training"), several(self.scenarios, "scenario")
        return (
            f"{self.stage}, read up to epoch {self.last}, keeps {self.count} states of {format_size(self.bytes)} a "
            f"training: at most {format_size(self.total)} with {trainings} for each of {scenarios}"
        )


def kept_states(plan: Plan) -> list[States]:
    """What each stage of a study keeps that is read before its end; none where none is."""
    environment, images = plan.environment, cached_images(plan.environment.dataset)
    kept = KeptStates(plan.environment.keep_states)
    states = []
    for stage in plan.defense.stages_until(plan.config.until):
        asked = _asked_epochs(stage, plan)
        if asked:
            network = (environment.model, environment.width, environment.blocks)
            size = state_bytes(ModelSpec(*network, images.num_classes, images.image_size))
            one = len(kept.epochs(asked[-1]))
            settings = count_trainings(plan, stage)
            states.append(States(stage.name, asked[-1], one, size, len(plan.scenarios), settings, asked))
    return states


def check_state_room(plan: Plan) -> None:
    """Refuses a study whose trainings would keep more states than its store has room for.

    Those that a pruner may stop are not counted: at least one is trained on each scenario.

    Raises:
        UserError: how much they take, and how much there is.
    """
    kept = kept_states(plan)
    if not kept:
        return
    place = plan.environment.store
    root = cache_folder(str(place)) if is_url(place) else Path(place)
    data = poisoned_fingerprints(root, plan.data_keys)
    there = sum(_there(root / states.stage, data) for states in kept)
    pruned = plan.config.pruner != "none"
    needed = max(0, sum(states.least if pruned else states.total for states in kept) - there)
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


def _asked_epochs(stage: Stage, plan: Plan) -> tuple[int, ...]:
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


def _there(stage: Path, data: frozenset[str]) -> int:
    """Bytes of the states that lie in the store already, of trainings on data with these fingerprints."""
    held = read_stage(stage)
    return sum(one.bytes for one in held if one.kind is Kind.STATES and one.about.get("dataset") in data)
