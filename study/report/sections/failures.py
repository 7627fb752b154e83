"""What did not work: trials that failed and why, attacks that do not work, files that cannot be read."""

from study.analysis.result_tables import INTERRUPTED
from study.analysis.results import Results
from study.cli.numbers import several
from study.cli.terminal import last_line
from study.config.objectives import is_clean
from study.report.elements import Cell, Item, Note, Section, Table
from tracking import names

_SHOWN = 20  # damaged files that are named


def sections(results: Results) -> list[Section]:
    """One section; its lead says how many of each there are."""
    failed = results.trials[results.trials["state"] == "fail"]
    marked = results.scenarios[results.scenarios["attack_failed"]]
    lost = int((results.trials["state"] == INTERRUPTED).sum())
    stopped = int((results.trials["state"] == "pruned").sum())
    items: list[Item] = []
    if len(failed):
        items.append(_reasons(results))
    if len(marked):
        items.append(_marked(results))
    if stopped:
        rule = results.config.pruner
        items.append(
            Note(
                f"{several(stopped, 'trial')} stopped early by the rule {rule}: tried, but compared with nothing.",
                "footnote",
            )
        )
    if lost:
        again = f"{several(lost, 'trial')} interrupted with the study and tried again under another number."
        items.append(Note(again, "footnote"))
    if results.damaged:
        items.append(_damaged(results))
    counts = (
        (len(failed), "failed trial"),
        (len(marked), "scenario with a failed attack"),
        (stopped, "trial stopped early"),
        (len(results.damaged), "damaged file"),
    )
    told = [f"{count} {what if count == 1 else _plural(what)}" for count, what in counts if count]
    title = "Failures and marked scenarios"
    if not told and not items:
        whole = "" if (results.trials["state"] == "running").any() else ": every trial finished"
        lead = f"Nothing failed{whole}{_works(results)}."
        return [Section("failures", title, lead, answered=False)]
    lead = f"{', '.join(told)}." if told else f"No trial failed for good{_works(results)}."
    return [Section("failures", title, lead, tuple(items))]


def _works(results: Results) -> str:
    """That every attack works, where that was measured of all there are."""
    attacked = results.scenarios[~results.scenarios["attack"].map(is_clean).astype(bool)]
    measured = len(attacked) and attacked[names.ASR_UNDEFENDED].notna().all()
    return ", and every attack works undefended" if measured else ""


def _plural(what: str) -> str:
    head, _, rest = what.partition(" ")
    if rest.startswith(("with", "stopped")):
        return f"{head}s {rest}"
    return f"{what}s"


def _reasons(results: Results) -> Table:
    """A row a reason, the commonest first."""
    failed = results.trials[results.trials["state"] == "fail"]
    reasons = failed["reason"].map(last_line)
    rows: list[tuple[Cell, ...]] = []
    for reason, count in reasons.value_counts(sort=True).items():
        numbers = [f"#{number}" for number in reasons.index[reasons == reason]]
        more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
        rows.append((str(reason), ", ".join(numbers[:8]) + more, int(count)))
    whole = f"{results.command_for('status')} --json"
    return Table(
        name="failed-trials",
        caption=f"Failed trials by the last line of their reason; every traceback: {whole}",
        header=("reason", "trials", "count"),
        rows=tuple(rows),
        left=2,
    )


def _marked(results: Results) -> Table:
    floor = results.config.asr_floor
    marked = results.scenarios[results.scenarios["attack_failed"]]
    rows = tuple(
        (str(name), float(row[names.CA_UNDEFENDED]), float(row[names.ASR_UNDEFENDED]))
        for name, row in marked.iterrows()
    )
    return Table(
        name="failed-attacks",
        caption=f"Scenarios whose undefended ASR lies below the floor of {floor}: they count neither for nor against "
        "a defense, in no mean and no front.",
        header=("scenario", "CA undefended", "ASR undefended"),
        rows=rows,
    )


def _damaged(results: Results) -> Note:
    paths = [path.removeprefix(f"{results.folder}/") for path in results.damaged]
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return Note(
        f"Cannot be read, and left out: {', '.join(paths[:_SHOWN])}{more}. The study's command, given again, makes "
        "them anew.",
        "warning",
    )
