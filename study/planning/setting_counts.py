"""How many settings of some searched fields the trials of a study can have, and so how many trainings they make."""

from collections.abc import Collection

from defenses.api import Stage
from study.ledger.grid import Grid
from study.planning.plan import Plan
from study.planning.shared_stages import searched_fields


def count_settings(plan: Plan, fields: Collection[str]) -> int:
    """How many settings of some searched fields there can be: at most one a trial, and at most as many as there are."""
    part = plan.space.only(fields)
    most = [plan.config.trials]
    if plan.reused is not None and set(fields) <= set(plan.reused[0]):
        most.append(plan.reused[1] + plan.given_trials)
    if isinstance(plan.grid, Grid):
        listed = Grid({name: plan.grid.values[name] for name in part.ranges}, part.conditions)
        own = {name: value for name, value in plan.default_point.items() if name in part.ranges}
        most.append(listed.size + (own not in listed))  # the paper's is tried in any case
    elif part.size is not None:
        most.append(part.size)
    return min(most)


def sure_trainings(plan: Plan) -> int:
    """How many first trainings the trials are sure to make on a scenario, and share.

    0 where trials share none, or a sampler draws what may come or not.
    """
    whole = isinstance(plan.grid, Grid) and plan.config.trials >= plan.grid.size
    if plan.reused is None and not (whole and plan.expensive):
        return 0
    trainings = count_settings(plan, plan.expensive)
    return trainings if trainings < plan.config.trials else 0


def count_trainings(plan: Plan, stage: Stage) -> int:
    """How many trainings of a stage that is read early trials can make on a scenario; reads of one are no others."""
    assert stage.trajectory is not None
    return count_settings(plan, set(searched_fields(stage, plan.defense, plan.space)) - {stage.trajectory.read})
