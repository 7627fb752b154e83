"""What the clean control of the paper's default needs, built with the stages that all trials share.

A processor that would wait for the last of these has something to do, and the control itself is then over in seconds.
"""

import dataclasses
from collections.abc import Collection

from study.planning.plan import Plan
from study.planning.shared_stages import Build
from study.scenarios.clean_control import clean_scenarios


def with_control_builds(plan: Plan, known: Collection[int]) -> Plan:
    """The plan with the builds of its control behind its own; as it is where there is none to run.

    Args:
        known: seeds with which the paper's default was run on clean data before.
    """
    if plan.config.clean_control == "none":
        return plan
    builds = list(plan.builds)
    for scenario in clean_scenarios(plan.space.defense, plan.scenarios):
        if scenario in plan.scenarios or scenario.seed in known:
            continue
        made = {"": len(builds)}  # the data come first
        builds.append(Build(scenario, "no_defense", {}, "poison", ()))
        for stage in plan.defense.stages_until("isolate"):
            if stage.cached:
                needs = sorted(position for name, position in made.items() if name in ("", *stage.parents))
                made[stage.name] = len(builds)
                config = {**plan.base, **plan.default_point}
                builds.append(Build(scenario, plan.space.defense, config, stage.name, tuple(needs)))
    return dataclasses.replace(plan, builds=tuple(builds))
