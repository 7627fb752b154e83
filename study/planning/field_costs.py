"""What a new value of each searched field costs a trial, and which of them start a training that others follow.

By what stages declare (`defenses.cost`): the epoch-equivalents of all stages whose outputs depend on the field, at the
paper's default. A value that another trial has had, with all else alike that those stages read, costs nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from defenses.api import Defense, Stage, stage_params
from defenses.config import Config
from defenses.cost import stage_cost
from defenses.runner import needed_stages
from search_spaces.space import SearchSpace

TRAINING = 1.0
"""Epoch-equivalents from which on a stage counts as a training: less is a pass or two over the data."""


@dataclass(frozen=True)
class FieldCost:
    """What a new value of one field costs.

    Attributes:
        epochs: epoch-equivalents of what must be built anew.
        trains: the stages among that which train a network.
        reads: the training that it only reads at another epoch, of which no epoch is trained twice; empty for any other
            field.
    """

    field: str
    epochs: float
    trains: tuple[str, ...] = ()
    reads: str = ""


def field_costs(
    space: SearchSpace, defense: type[Defense], config: Config, until: str | None, n: int
) -> list[FieldCost]:
    """One for each searched field, the costliest first.

    Args:
        config: the paper's default.
        n: samples of the training set.
    """
    stages = defense.stages_until(until)
    costs = [_cost(name, stages, config, n) for name in space.ranges]
    return sorted(costs, key=lambda cost: -cost.epochs)


def _cost(name: str, stages: tuple[Stage, ...], config: Config, n: int) -> FieldCost:
    touched: set[str] = set()
    epochs, reads = 0.0, ""
    trains: list[str] = []
    for stage in stages:
        if name not in stage.reads and not stage.parents & touched:
            continue
        touched.add(stage.name)
        if stage.trajectory is not None and stage.trajectory.read == name and not stage.parents & touched:
            reads = stage.name
            continue
        own = stage_cost(stage, stage_params(stage, config), n)
        epochs += own
        trains += [stage.name] if own >= TRAINING else []
    return FieldCost(name, epochs, tuple(trains), reads)


def expensive_fields(searched: Iterable[str], defense: type[Defense], until: str | None) -> tuple[str, ...]:
    """Those of the searched fields, in their order, on which the first training of a defense hangs.

    Other stages follow it, so that trials which share it have most of their cost in common. The epoch after which it is
    read is none of them: no epoch is trained twice for it.
    """
    stages = defense.stages_until(until)
    config = defense.config_type()
    trainings = {stage.name for stage in stages if stage_cost(stage, stage_params(stage, config), 1) >= TRAINING}
    followed = {parent for stage in stages for parent in stage.parents}
    first = [
        stage
        for stage in stages
        if stage.name in trainings & followed
        and all(before is stage or before.name not in trainings for before in needed_stages(defense, stage.name))
    ]
    read = {stage.trajectory.read for stage in first if stage.trajectory is not None}
    hang = {name for stage in first for name in stage.reads} - read
    return tuple(name for name in searched if name in hang)
