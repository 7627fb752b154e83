"""What the study cost, and what it would have cost had no trial shared anything with another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.analysis.results import Results
from study.report.elements import Bars, Note, Section, Table

if TYPE_CHECKING:
    import pandas

_HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """Seconds of one processor share.

    Attributes:
        alone: what all trials would have cost, each computing everything itself. A stage that several scenarios of one
            trial use counts once for that trial, and once more for every other trial that uses it.
        spent: what was spent: the trials' own time, loading from the store included, and, for stages that every
            trial found in the store, the time of building each once.
    """

    alone: float
    spent: float

    @property
    def factor(self) -> float:
        """How many times more it would have cost alone."""
        return self.alone / self.spent if self.spent > 0 else 1.0


def costs(results: Results) -> Costs:
    """Of all trials that were judged on at least one scenario, failed and stopped ones included."""
    stages = results.stages
    rest = float(results.evaluations["wall_seconds"].sum() - stages["wall_seconds"].sum())  # judging, files
    alone = float(_once_a_trial(stages)["built_seconds"].sum())
    spent = float(stages["wall_seconds"].sum()) + float(_found_built(stages)["built_seconds"].sum())
    return Costs(alone + max(0.0, rest), spent + max(0.0, rest))


def _once_a_trial(stages: "pandas.DataFrame") -> "pandas.DataFrame":
    return stages.drop_duplicates(["trial", "key"])


def _found_built(stages: "pandas.DataFrame") -> "pandas.DataFrame":
    """A row a stage that no trial built: all found it in the store, so it was built once before them."""
    by_someone = stages.loc[~stages["hit"], "key"].unique()
    return stages[~stages["key"].isin(by_someone)].drop_duplicates("key")


def sections(results: Results) -> list[Section]:
    """The two sums, and the same by stage."""
    if results.stages.empty:
        return [Section("costs", "Cost", "No stage was recorded, so nothing can be said of cost.")]
    cost = costs(results)
    saved = cost.alone - cost.spent
    lead = (
        f"Trials that share nothing would have taken {_hours(cost.alone)}; {_hours(cost.spent)} were spent, "
        f"{cost.factor:.1f} times less. Sharing saved {_hours(saved)}."
        if saved > 0
        else f"{_hours(cost.spent)} were spent; no stage was used twice, so sharing saved nothing."
    )
    table = _table(results.stages)
    return [
        Section(
            "costs",
            "Cost",
            lead,
            (
                table,
                Bars(
                    name="cost-stages",
                    caption="Hours by stage: had each trial computed it alone, and as spent.",
                    labels=tuple(str(row[0]) for row in table.rows[:-1]),
                    groups=("alone", "spent"),
                    values=(
                        tuple(_number(row[4]) for row in table.rows[:-1]),
                        tuple(_number(row[5]) for row in table.rows[:-1]),
                    ),
                    x_label="hours",
                ),
                Note(
                    "A stage has one key for equal inputs. Alone counts a key once for each trial that uses it, at the "
                    "seconds that building it took. Spent counts what each trial waited for, and a key that all trials "
                    "found in the store once: it was built before them, by this study or an earlier one. Seconds are "
                    "wall time of one trial's share of the machine, whatever ran beside it.",
                    "footnote",
                ),
            ),
        )
    ]


def _number(cell: object) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0


def _table(stages: "pandas.DataFrame") -> Table:
    """A row a stage, in the order in which trials need them."""
    rows: list[tuple[str | float | int | None, ...]] = []
    prebuilt = _found_built(stages)
    for stage, of_stage in stages.groupby("stage", sort=False):
        alone = float(_once_a_trial(of_stage)["built_seconds"].sum())
        before = prebuilt[prebuilt["stage"] == stage]
        spent = float(of_stage["wall_seconds"].sum() + before["built_seconds"].sum())
        built = int((~of_stage["hit"]).sum()) + len(before)
        typical = float(of_stage.drop_duplicates("key")["built_seconds"].median())
        rows.append((str(stage), len(of_stage), built, typical, alone / _HOUR, spent / _HOUR))
    total = [sum(_number(row[column]) for row in rows) for column in (4, 5)]
    uses, built = (sum(int(_number(row[column])) for row in rows) for column in (1, 2))
    rows.append(("all stages", uses, built, None, *total))
    return Table(
        name="costs",
        caption="Uses and builds of each stage.",
        header=("stage", "uses", "built", "seconds a build (median)", "hours alone", "hours spent"),
        rows=tuple(rows),
        strong=(len(rows) - 1,),
    )


def _hours(seconds: float) -> str:
    """For people: hours, or minutes of a short study."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / _HOUR:.1f} h" if seconds >= _HOUR else f"{seconds / 60:.1f} min"
