"""States of trainings that lie in a store already and that a study will go on from: those it needs no room for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from defenses.api import Stage
from defenses.registry import UserError
from defenses.storage.inventory import Held, Kind, read_stage
from defenses.trajectories import shared_params
from study.cli.paths import expand_home
from study.ledger.grid import Grid
from study.ledger.snapshot import SnapshotTrial, read_ledger
from study.ledger.store_use import poisoned_fingerprints
from study.ledger.study_folder import LEDGER, SEARCH
from study.planning.plan import Plan
from study.planning.point_counts import draw_reused

Point = Mapping[str, Any]


class StatesThere:
    """A look at a store for the states of a plan's trainings.

    Args:
        root: of the store.

    Attributes:
        left: trials that are still to come, of the study or of the one of its scenarios that has most.
    """

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root, self._plan = root, plan
        self._data = poisoned_fingerprints(root, plan.data_keys)
        begun = _begun(plan)
        self._known = _known_points(plan, [trial for trials in begun for trial in trials]) if self._data else []
        self.left = max(plan.config.trials - sum(trial.finished for trial in trials) for trials in begun)

    def bytes(self, stage: Stage, most: int) -> int:
        """Of the states of a stage's trainings that the study has asked for, or will.

        Args:
            most: bytes of one training: what it has beyond makes no room for another.
        """
        if not self._data:
            return 0
        held = read_stage(self._root / stage.name)
        return sum(min(one.bytes, most) for one in held if one.kind is Kind.STATES and self._is_asked(one, stage))

    def _is_asked(self, one: Held, stage: Stage) -> bool:
        """Whether states are of the study's data, network and fixed fields, and of values that its trials have."""
        environment, about = self._plan.environment, one.about
        network, params = about.get("model"), about.get("params")
        if about.get("dataset") not in self._data or not isinstance(network, dict) or not isinstance(params, dict):
            return False
        same = [network.get(name) for name in ("name", "width", "blocks")] + [about.get("version")]
        own: list[Any] = [environment.model, environment.width, list(environment.blocks), stage.version]
        searched = {name: value for name, value in params.items() if name in self._plan.space.ranges}
        try:  # a field that is searched may say which others the training has
            config = self._plan.defense.config_type.from_mapping({**self._plan.base, **searched})
        except UserError:
            return False
        fixed = json.loads(json.dumps(shared_params(stage, config)))
        rest = {name: value for name, value in params.items() if name not in searched}
        return (
            [*same, about.get("precision")] == [*own, environment.precision]
            and rest == {name: value for name, value in fixed.items() if name not in self._plan.space.ranges}
            and self._are_tried(searched)
        )

    def _are_tried(self, searched: Point) -> bool:
        """Whether trials have such values of searched fields, or may; a field that a point lacks does nothing there."""
        ranges, grid = self._plan.space.ranges, self._plan.grid
        if isinstance(grid, Grid) and all(value in grid.values[name] for name, value in searched.items()):
            return True
        if grid is None and self._plan.reused is None and self._plan.space.only(searched).size is not None:
            return all(value in ranges[name] for name, value in searched.items())
        return any(all(point.get(name, value) == value for name, value in searched.items()) for point in self._known)


def _begun(plan: Plan) -> list[Sequence[SnapshotTrial]]:
    """The trials of the study so far, or of each that it is made of; none of one that has not begun."""
    config = plan.config
    names = [config.study_name + SEARCH * (config.holdout is not None)]
    if config.per_scenario:
        names = [f"{config.study_name}.{scenario.name}" for scenario in plan.scenarios if not scenario.repeat]
    begun: list[Sequence[SnapshotTrial]] = []
    for name in names:
        try:
            begun.append(read_ledger(expand_home(config.out) / name / LEDGER).trials)
        except ValueError:
            begun.append(())
    return begun


def _known_points(plan: Plan, trials: Sequence[SnapshotTrial]) -> list[Point]:
    """Points that the study's trials have, or parts of such: given, drawn to be shared, or in its ledger."""
    points: list[Point] = [*plan.given_points]
    if plan.reused is not None:
        points += draw_reused(plan.config, plan.space, plan.expensive)
    return [*points, *(trial.point for trial in trials if trial.point)]
