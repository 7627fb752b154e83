"""What the defenses of several studies reach on every attack, beside the undefended model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces import SEARCH_SPACES
from study.analysis.compared import OWN_BEST, UNDEFENDED, compared_configurations, default_label, own_best
from study.analysis.failed_runs import FAILED_RUNS, count_failed, shows_failed
from study.analysis.repeats import spread_of_runs
from study.analysis.results import Results
from study.config.objectives import in_words
from study.planning.clean_reserve import needs_text
from study.report.elements import Cell, Item, Note, Section, Table
from study.report.formatting import format_cell, spread_cell
from study.report.study_names import distinct_names
from tracking import names

if TYPE_CHECKING:
    import pandas

_FAILED = "†"
_Row = tuple[Cell, ...]
_Models = dict[str, "pandas.DataFrame"]
"""Label -> a row a scenario with its metrics, ``stratum`` and ``attack_failed``."""


def section(studies: Sequence[Results]) -> Section:
    """A row an attack, rate and model: undefended, then each study's paper default and own bests.

    As in the heat maps, a seed whose attack does not work is left out; where none works, the means are in brackets.
    """
    joined = _join_scenarios(studies)
    of_models = [cells for models in joined.values() for label, cells in models.items() if label != UNDEFENDED]
    told = any(shows_failed(results, of_models) for results in studies)
    header = ("attack and rate", "model", *map(in_words, names.HEADLINE), *((FAILED_RUNS,) if told else ()))
    blocks = _blocks(joined, told)
    rows = tuple(row for of_attack in blocks.values() for head, models in of_attack.items() for row in (head, *models))
    repeated = any(results.repeats > 1 for results in studies)
    over = " / over the repeats of a seed" * repeated
    caption = f"By attack and rate, mean ± standard deviation (n - 1) over the seeds whose attack works{over}"
    return Section(
        "attacks",
        "Every attack and every defense",
        _lead(studies, len(blocks)),
        (Table("attacks", caption, header, rows, left=2), *_notes(studies, blocks)),
        uses_labels=True,
    )


def _join_scenarios(studies: Sequence[Results]) -> dict[str, _Models]:
    """The models of each study by its name; studies of single scenarios are put together again as the one they make."""
    import pandas

    parts: dict[Path, dict[str, list[pandas.DataFrame]]] = {}
    for results in studies:
        of_study = parts.setdefault(results.folder.resolve().with_name(_whole_name(results)), {})
        for label, cells in _models(results):
            of_study.setdefault(label, []).append(cells)
    return {
        name: {label: pandas.concat(cells) for label, cells in of_study.items()}
        for name, of_study in zip(distinct_names(list(parts)), parts.values(), strict=True)
    }


def _whole_name(results: Results) -> str:
    """The study's name, without the scenario behind it where it is a scenario's own."""
    whole = results.manifest.whole_study()
    return results.name if whole is results.manifest else str(whole.settings["name"])


def _models(results: Results) -> "Iterator[tuple[str, pandas.DataFrame]]":
    """What is shown of a study; it may have no default, and with several objectives it has no own bests."""
    needs = needs_text(SEARCH_SPACES[results.space], results.config)
    beside = f" ({needs})" if needs else ""
    for model in compared_configurations(results):
        if model.label in (UNDEFENDED, default_label(results)):
            yield model.label + beside * (model.label != UNDEFENDED), model.cells
    # Not among what is compared where the study has a single scenario: there it is the best of all.
    own = own_best(results)
    if own is not None:
        yield OWN_BEST + beside, own


def _blocks(studies: Mapping[str, _Models], told: bool) -> dict[str, dict[_Row, list[_Row]]]:
    """Attack and rate -> the undefended model's row -> rows of the studies that judged beside just that model.

    Studies at other scales or with other seeds have undefended models of their own, and so a block of their own.

    Args:
        told: a row ends with how many runs failed.
    """
    blocks: dict[str, dict[_Row, list[_Row]]] = {}
    for name, models in studies.items():
        undefended = models[UNDEFENDED].sort_values(["attack", "poison_rate"], kind="stable")
        for stratum, cells in undefended.groupby("stratum", sort=False):
            head = (_label(str(stratum), cells), UNDEFENDED, *_means(cells), *((None,) if told else ()))
            rows = blocks.setdefault(str(stratum), {}).setdefault(head, [])
            for label, judged in models.items():
                of_stratum = judged[judged["stratum"] == stratum]
                if label != UNDEFENDED and not of_stratum.empty:
                    lost = (count_failed(of_stratum).text,) if told else ()
                    rows.append(("", f"{name}: {label}", *_means(of_stratum), *lost))
    return blocks


def _label(stratum: str, cells: "pandas.DataFrame") -> str:
    failed = int(cells["attack_failed"].sum())
    return f"{stratum} {_FAILED}{failed}/{len(cells)}" if failed else stratum


def _means(cells: "pandas.DataFrame") -> tuple[Cell, ...]:
    working = cells[~cells["attack_failed"]]
    used = cells if working.empty else working
    spreads = [spread_of_runs(used, name) for name in names.HEADLINE]
    reached = [spread_cell(one.mean, one.poisonings, one.repeats, cells["seed"].nunique() > 1) for one in spreads]
    if not working.empty:
        return tuple(reached)
    return tuple(None if one is None else f"({format_cell(one)})" for one in reached)


def _lead(studies: Sequence[Results], attacks: int) -> str:
    combinations = f"{attacks} combinations" if attacks != 1 else "One combination"
    goals = ", ".join(dict.fromkeys(results.goal.words for results in studies))
    return (
        f"{combinations} of attack and rate. Each scenario's own best is the best complete trial there by the "
        f"objective of its study ({goals})."
    )


def _notes(studies: Sequence[Results], blocks: Mapping[str, Mapping[_Row, object]]) -> list[Item]:
    notes: list[Item] = []
    if any(results.scenarios["attack_failed"].any() for results in studies):
        of = "seeds" if all(results.repeats == 1 for results in studies) else "runs"
        notes.append(
            Note(
                f"{_FAILED} k/n: in k of n {of} the attack does not work even undefended. Those are left out of the "
                "mean; where all failed, the numbers stand in brackets, and count neither for nor against a defense.",
                "footnote",
            )
        )
    if any(len(of_attack) > 1 for of_attack in blocks.values()):
        notes.append(
            Note(
                "An attack stands here more than once where studies have different undefended models, such as those "
                "of other seeds or presets: their rows do not compare.",
                "warning",
            )
        )
    several = [results.name for results in studies if len(results.goal.objectives) > 1]
    if several:
        notes.append(
            Note(f"{', '.join(several)}: of several objectives there is a Pareto front, and no own best.", "footnote")
        )
    return notes
