"""``--holdout``: a search over all scenarios, then a study that judges what it chose on seeds that it never saw.

The search covers the space without learning from what it finds, so one search serves every group that is held out:
which of its points is best on the others is decided afterwards. A sampler that learns would need a search a group.
"""

import dataclasses

from study.analysis.finding import NOTHING
from study.analysis.results import Results, read_results
from study.driver.composite import CompositeDriver
from study.ledger.grid import Points
from study.ledger.snapshot import read_ledger
from study.ledger.study_folder import JUDGE, LEDGER, SEARCH
from study.planning.holdout_rules import judge_seeds
from study.planning.plan import Plan, make_plan
from study.report.sections import holdout
from study.report.sections.joint_closing import section_closing


class HoldOut(CompositeDriver):
    """The search and the judgement."""

    pattern = "{.search,.judge}"

    def run(self) -> str:
        """Runs what is missing of both. Returns why it cannot go on, or an empty string."""
        reason = self.run_child(self._search())
        return reason or self.run_child(self._judge())

    def _search(self) -> Plan:
        alone = {"holdout": None, "judge_seeds": (), "name": self.plan.config.study_name + SEARCH}
        return dataclasses.replace(self.plan, config=self.plan.config.model_copy(update=alone))

    def _judge(self) -> Plan:
        config = self.plan.config
        assert config.holdout is not None
        search = read_results(self.out, config.study_name + SEARCH)
        name = config.study_name + JUDGE
        points = self._points(search, holdout.to_judge(search, config.holdout), name)
        changes = {"holdout": None, "judge_seeds": (), "name": name, "seeds": judge_seeds(config)}
        judged = config.model_copy(update={**changes, "trials": points.size})
        plan = make_plan(judged, self.plan.environment.device, self.plan.gpus, self.plan.environment.precision)
        return dataclasses.replace(plan, config=judged, grid=points, points=0)

    def _points(self, search: Results, trials: list[int], name: str) -> Points:
        """The points of the trials; those that an earlier, shorter search had chosen stay in the ledger, and count."""
        conditions, fields = self.plan.space.conditions, list(self.plan.space.ranges)
        ledger = self.out / name / LEDGER
        before = [trial.point for trial in read_ledger(ledger).trials] if ledger.exists() else []
        points = {trial.number: trial.point for trial in read_ledger(search.folder / LEDGER).trials}
        chosen = [points[trial] for trial in trials]
        acting = [conditions.drop_idle(point) for point in (*chosen, *before)]
        known = {
            tuple(point.get(name) for name in fields): point for point in acting if conditions.is_whole(point, fields)
        }
        return Points(tuple(known.values()))

    def results(self) -> list[Results]:
        """The search, with what was judged beside it."""
        return [read_results(self.out, self.plan.config.study_name)] if self.closings else []

    def text(self) -> str:
        """The table, once both have something to tell; until then, what the search says."""
        by = self.plan.config.holdout
        assert by is not None
        if len(self.closings) == 2 and self.closings[1].finished:
            search = read_results(self.out, self.plan.config.study_name)
            if search.holdout_results is not None:
                return section_closing(holdout.section(search, search.holdout_results, by))
        return self.closings[0].text() if self.closings else NOTHING
