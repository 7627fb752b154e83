"""What the study cost, and what it would have cost had no trial shared anything with another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.analysis.results import Results
from study.cli.numbers import format_number, several
from study.cli.terminal import duration
from study.ledger.clock import Clock, read_clock
from study.ledger.study_folder import LEDGER
from study.report.elements import Bars, Cell, Note, Section, Table

if TYPE_CHECKING:
    import pandas

_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_LEAST = 1.05  # of a factor that is named
_REST = "the rest: measuring, files"


@dataclass(frozen=True)
class Costs:
    """Seconds of one processor share.

    Attributes:
        alone: what all trials would have cost, each computing everything itself. A stage that several scenarios of one
            trial use counts once for that trial, and once more for every other trial that uses it; a training that is
            read at several epochs once, up to the last of them.
        spent: what the trials of this study took, loading and waiting for one another included.
        earlier: what the stages took, once each, that every trial found ready: they were built before the first trial,
            by this study or by an earlier one with the same store.
        ready: how many these are.
    """

    alone: float
    spent: float
    earlier: float
    ready: int = 0

    @property
    def factor(self) -> float:
        """How many times as much it would have cost alone."""
        shared = self.spent + self.earlier
        return self.alone / shared if shared > 0 else 1.0


def costs(results: Results) -> Costs:
    """Of all trials that ran at least one scenario, failed and stopped ones included."""
    stages, rest = results.stages, _rest(results)
    ready = _found_built(stages)
    return Costs(
        alone=float(_once_a_trial(stages)["built_seconds"].sum()) + rest,
        spent=float(stages["wall_seconds"].sum()) + rest,
        earlier=float(ready["built_seconds"].sum()),
        ready=len(ready),
    )


def _rest(results: Results) -> float:
    """What the trials did besides stages: measuring, files."""
    stages, cells = results.stages, results.evaluations
    stopped = stages["early"].astype(bool) & ~stages["trial"].isin(cells["trial"])  # compared early, and never judged
    return max(0.0, float(cells["wall_seconds"].sum() - stages.loc[~stopped, "wall_seconds"].sum()))


def _once_a_trial(stages: "pandas.DataFrame") -> "pandas.DataFrame":
    return _whole_trainings(stages, "trial")


def _found_built(stages: "pandas.DataFrame") -> "pandas.DataFrame":
    """A row a stage that no trial built: all found it in the store, so it was built once before them."""
    by_someone = stages.loc[~stages["hit"], "key"].unique()
    return _whole_trainings(stages[~stages["key"].isin(by_someone)])


def _whole_trainings(stages: "pandas.DataFrame", *by: str) -> "pandas.DataFrame":
    """A row for each stage, of a training that was read at several epochs the last one, which took all the others."""
    lasting = stages["built_seconds"].groupby([stages[name] for name in (*by, "training")], sort=False)
    return stages.loc[lasting.idxmax().sort_values()]


def sections(results: Results) -> list[Section]:
    """What was spent and what sharing saved, and the same by stage."""
    if results.stages.empty:
        lead = "No stage was recorded, so nothing can be said of cost."
        return [Section("costs", "Cost", lead, answered=False)]
    lead = " ".join([*_by_clock(read_clock(results.folder / LEDGER)), _of_work(costs(results), _is_shared(results))])
    note = Note(
        "A stage is a step of an attack or a defense; what has equal inputs is computed once. Time in trials holds "
        "what each trial waited for and loaded. Ready are stages that all trials found built before the first of them, "
        "by this study as it started or by an earlier one; their time is what building them took then. Without "
        "sharing, each trial would build once all that it uses. Trials run side by side, so their times add up to more "
        "than the clock shows.",
        "footnote",
    )
    return [Section("costs", "Cost", lead, (_table(results), _bars(results), note))]


def _by_clock(clock: Clock) -> list[str]:
    if clock.trials is None:
        return []
    if clock.shared is None:
        return [f"The trials took {_time(clock.trials)} by the clock."]
    return [
        f"The study took {_time(clock.shared + clock.trials)} by the clock: {_time(clock.shared)} for the stages that "
        f"all trials share, then {_time(clock.trials)} for the trials."
    ]


def _is_shared(results: Results) -> bool:
    """Whether more than one trial used a stage."""
    return bool((_once_a_trial(results.stages)["training"].value_counts() > 1).any())


def _of_work(cost: Costs, shared: bool) -> str:
    ready = ""
    if cost.ready:
        ready = f", and found {several(cost.ready, 'stage')} ready that had taken {_time(cost.earlier)} to build"
    together = f"All trials together computed for {_time(cost.spent)}{ready}."
    if not shared:
        return f"{together} No two trials used the same stage, so sharing saved nothing."
    if cost.factor < _LEAST:
        return f"{together} Had they shared nothing, it would have been about the same ({_time(cost.alone)})."
    more = f"{_time(cost.alone)}, {cost.factor:.1f} times as much"
    return f"{together} Had they shared nothing, it would have been {more}."


@dataclass(frozen=True)
class _Row:
    """Of one stage: how often it was used and built, and seconds."""

    stage: str
    uses: int
    built: int
    ready: int
    typical: float
    spent: float
    earlier: float
    alone: float


def _rows(results: Results) -> list[_Row]:
    """In the order in which trials need the stages; then what is no stage."""
    stages, prebuilt = results.stages, _found_built(results.stages)
    rows = []
    for stage, of_stage in stages.groupby("stage", sort=False):
        before = prebuilt[prebuilt["stage"] == stage]
        rows.append(
            _Row(
                str(stage),
                uses=len(of_stage),
                built=int((~of_stage["hit"]).sum()),
                ready=len(before),
                typical=float(of_stage.drop_duplicates("key")["built_seconds"].median()),
                spent=float(of_stage["wall_seconds"].sum()),
                earlier=float(before["built_seconds"].sum()),
                alone=float(_once_a_trial(of_stage)["built_seconds"].sum()),
            )
        )
    return rows


def _table(results: Results) -> Table:
    rows, rest = _rows(results), _rest(results)
    cells: list[tuple[Cell, ...]] = [
        (
            *(row.stage, row.uses, row.built, row.ready, _time(row.typical)),
            *(_time(row.spent), _time(row.earlier) if row.ready else None, _time(row.alone)),
        )
        for row in rows
    ]
    cells.append((_REST, None, None, None, None, _time(rest), None, _time(rest)))
    uses, built, ready = (sum(getattr(row, name) for row in rows) for name in ("uses", "built", "ready"))
    cost = costs(results)
    cells.append(("all", uses, built, ready, None, _time(cost.spent), _time(cost.earlier), _time(cost.alone)))
    header: tuple[str, ...] = (
        *("stage", "uses", "built by trials", "ready before", "one build (median)"),
        *("time in trials", "time before", "without sharing"),
    )
    epochs = _epochs(results)
    if epochs:
        header = (*header, "epoch-equivalents of one build")
        cells = [(*row, epochs.get(str(row[0]))) for row in cells]
    return Table(
        name="costs",
        caption="Uses and builds of each stage, and what they took",
        header=header,
        rows=tuple(cells),
        strong=(len(cells) - 1,),
    )


def _epochs(results: Results) -> dict[str, str]:
    """What one build of each stage costs by the median, of those that run a network and say so."""
    if "epoch_equivalents" not in results.stages:
        return {}
    medians = results.stages.drop_duplicates("key").groupby("stage")["epoch_equivalents"].median()
    return {str(stage): format_number(float(value), 1) for stage, value in medians.items() if value > 0}


def _bars(results: Results) -> Bars:
    rows = _rows(results)
    longest = max(max(row.alone, row.spent + row.earlier) for row in rows)
    unit, name = next(((unit, name) for unit, name in _UNITS if longest >= unit), _UNITS[-1])
    return Bars(
        name="cost-stages",
        caption=f"{name.capitalize()} by stage: had each trial computed it alone, and as it was.",
        labels=tuple(row.stage for row in rows),
        groups=("without sharing", "with sharing"),
        values=(
            tuple(row.alone / unit for row in rows),
            tuple((row.spent + row.earlier) / unit for row in rows),
        ),
        x_label=name,
    )


def _time(seconds: float) -> str:
    """A duration; what is shorter than a second but took time is not shown as none."""
    return "<1 s" if seconds > 0 and not round(seconds) else duration(seconds)
