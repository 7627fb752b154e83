"""``--defenses``: several defenses on the very same poisoned data, a study each, and one table and report of all.

Each is a study like any other, which its own command (``--space NAME``) goes on with as well.
"""

from study.driver.composite import CompositeDriver
from study.planning.plan import Plan, make_plan
from study.planning.several_defenses import child_configs
from study.report.sections.joint_closing import defenses_text


def build_plans(plan: Plan) -> tuple[Plan, ...]:
    """The studies of single defenses that a study is made of, named ``STUDY.SPACE``.

    Raises:
        UserError: what cannot work with one of them.
    """
    environment = plan.environment
    return tuple(
        make_plan(config, environment.device, plan.gpus, environment.precision) for config in child_configs(plan.config)
    )


class PerDefense(CompositeDriver):
    """The studies of a plan's defenses."""

    pattern = ".SPACE"

    def run(self) -> str:
        """Runs what is missing of each study. Returns why one of them cannot go on, or an empty string.

        All have the same scenarios: where no attack works for one, none works for the others.
        """
        for plan in build_plans(self.plan):
            reason = self.run_child(plan)
            if reason:
                return reason
        return ""

    def text(self) -> str:
        """What each defense found, and all of them on every attack."""
        return defenses_text(self.closings)
