"""Each scenario's own best: a study a scenario with all its repeats, one after the other, and one table of all of them.

One ledger for all would need a trial that is half of one scenario's search and nothing of another's.
"""

import dataclasses

from study.cli.terminal import print_error
from study.driver.composite import CompositeDriver
from study.planning.measurable import measurable
from study.planning.plan import Plan, build_goal
from study.planning.shared_stages import plan_builds
from study.report.sections.joint_closing import joint_text
from study.scenarios.evaluation import cached_images
from study.scenarios.scenario import Scenario


def build_plans(plan: Plan) -> tuple[Plan, ...]:
    """The studies of single scenarios that a study is made of, named ``STUDY.SCENARIO``.

    Raises:
        UserError: an objective that one of the scenarios does not tell.
    """
    plans = []
    repeats: dict[Scenario, list[tuple[Scenario, str]]] = {}
    for scenario, key in zip(plan.scenarios, plan.data_keys, strict=True):
        repeats.setdefault(scenario.first_repeat, []).append((scenario, key))
    for first, parts in repeats.items():
        scenarios, keys = zip(*parts, strict=True)
        known = measurable(scenarios, cached_images(plan.environment.dataset))
        plans.append(
            dataclasses.replace(
                plan,
                config=plan.config.model_copy(update={"name": f"{plan.config.study_name}.{first.name}"}),
                scenarios=scenarios,
                data_keys=keys,
                builds=plan_builds(plan.config, scenarios, plan.space, plan.base, plan.environment),
                goal=build_goal(plan.config, plan.defense, known),
            )
        )
    return tuple(plans)


class PerScenario(CompositeDriver):
    """The studies of a plan's scenarios."""

    pattern = ".SCENARIO"

    def run(self) -> str:
        """Runs what is missing of each study. Returns why none of them can go on, or an empty string."""
        reasons = []
        plans = build_plans(self.plan)
        for plan in plans:
            reason = self.run_child(plan)
            if reason:
                print_error(f"warning: {plan.config.study_name}: {reason}")
                reasons.append(reason)
        return reasons[0] if len(reasons) == len(plans) else ""

    def text(self) -> str:
        """Each scenario's own best, in one table."""
        return joint_text(self.closings)
