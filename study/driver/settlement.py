"""Settles trials: what one left on disk goes to the ledger, and the ledger's row to MLflow's records, each once."""

from study.driver.best_trial import HeldFlags
from study.driver.mlflow_records import MlflowRecords
from study.ledger.ledger import Ledger
from study.ledger.records import ScenarioRecord
from study.ledger.result_reader import ResultReader
from study.ledger.snapshot import is_finished
from study.ledger.trial_row import TrialRow
from study.planning.plan import Plan


class Settlement:
    """Passes results on, in one direction: reader, ledger, records.

    Attributes:
        failures_at_start: trials that failed before the first that did not.
    """

    def __init__(self, plan: Plan, reader: ResultReader, ledger: Ledger, records: MlflowRecords) -> None:
        self._plan, self._reader, self._ledger, self._records = plan, reader, ledger, records
        self._flags = HeldFlags(reader.points)
        self.failures_at_start, self._succeeded = 0, False

    def finish_trial(self, number: int, key: str, error: str) -> TrialRow:
        """Settles a trial by what it left on disk.

        Args:
            error: why it left nothing, where that is known.
        """
        row = self._ledger.tell(number, self._reader.outcome(key) or (None, error or "the trial left no result"))
        self._succeeded = self._succeeded or row.state != "fail"
        self.failures_at_start += not self._succeeded
        self._pass_on(row)
        self._flags.let_go([row.key], self._unbeaten())
        return row

    def _unbeaten(self) -> set[str]:
        """Keys of the trials that may be the best at the end: what another beats now is beaten then."""
        return {row.key for row in self._ledger.front()}

    def finish_scenario(self, key: str, name: str) -> ScenarioRecord | None:
        """Tells MLflow of a judged scenario, and gives it; None when it cannot be read or was passed on before."""
        if self._records.knows_scenario(key, name):
            return None
        record = self._reader.scenario(key, name)
        if record is not None:
            self._flags.hold(key, name)
            earlier = self._reader.before(key, record)
            self._records.scenario_judged(key, self._ledger.number_of(key), record, earlier)
        return record

    def catch_up(self) -> None:
        """Passes on what was settled while no driver was there to pass it on."""
        ended = [row for row in self._ledger.rows() if row.key and is_finished(row.state, row.reason)]
        for row in ended:
            for scenario in self._plan.scenarios:
                self.finish_scenario(row.key, scenario.name)
            self._pass_on(row)
        self._flags.let_go([row.key for row in ended], self._unbeaten())

    def _pass_on(self, row: TrialRow) -> None:
        if self._records.knows_trial(row.key):
            return
        judged = list(self._reader.readable(row.key).values())
        if row.stopped_early and self._reader.reads:  # what it took to come that far is part of what the study cost
            judged = next(reversed(self._reader.read_early(row.key).values()), [])
        whole = row.stopped_early or len(judged) == len(self._plan.scenarios)
        steps = self._reader.steps(row.key) if self._plan.pruning is not None else ()
        told = judged if whole else []
        earlier = {record.scenario: self._reader.before(row.key, record) for record in told}
        self._records.trial_finished(row, told, steps, earlier)
