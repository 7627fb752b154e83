"""What stands beside every result: the FPR when nothing is poisoned, and what the configuration costs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from search_spaces import SEARCH_SPACES
from study.analysis.compared import UNDEFENDED, default_label, shown_trials
from study.analysis.result_tables import COSTS
from study.analysis.results import Results
from study.cli.numbers import format_number
from study.config.objectives import in_words
from study.planning.clean_reserve import needs_text
from study.report.elements import Cell, Table
from study.report.formatting import mean_with_deviation
from tracking import names

if TYPE_CHECKING:
    import pandas

EPOCHS, SECONDS = "epoch-equivalents", "seconds"
COST_HEADER = (f"{EPOCHS}, built / spent", f"{SECONDS}, built / spent")
_TERMS = {
    in_words(names.FPR_CLEAN): f"{in_words(names.FPR_CLEAN)}: share of the same images, unpoisoned, that is flagged "
    "(0 is best).",
    SECONDS: "Cost is that of one scenario, built / spent: of all stages of the defense, whenever they were built, and "
    "of those that the trial built itself.",
    EPOCHS: "An epoch-equivalent is a pass forward and backward over the training set.",
}
_UNDEFENDED_STAGE = "standard_training"


def table(studies: Mapping[str, Results]) -> Table | None:
    """A row a configuration; None where nothing of it is known.

    Args:
        studies: what stands before a study's configurations -> its results; the first one's undefended model is shown.
    """
    rows: list[tuple[Cell, ...]] = []
    for prefix, results in studies.items():
        undefended = (UNDEFENDED, None, *_cost_of_undefended(results))
        rows += [] if rows or all(cell is None for cell in undefended[1:]) else [undefended]
        rows += [(f"{prefix}{_label(results, trial)}", *cells(results, trial)) for trial in shown_trials(results)]
    header = ("configuration", in_words(names.FPR_CLEAN), EPOCHS, SECONDS)
    known = any(cell is not None for row in rows for cell in row[1:])
    told = any(row[1] is not None for row in rows)
    caption = f"What {'is flagged of clean data, and what ' if told else ''}one scenario costs: built / spent."
    return Table("control-and-cost", caption, header, tuple(rows)) if known else None


def terms(shown: Sequence[Cell]) -> str:
    """What the words of a header mean."""
    return " ".join(text for word, text in _TERMS.items() if any(word in str(cell) for cell in shown))


def cells(results: Results, trial: int) -> tuple[Cell, Cell, Cell]:
    """Of a trial: the FPR when nothing is poisoned, epoch-equivalents and seconds."""
    costs = costs_of(results).get(trial, {})
    return (
        clean_fpr(results, trial),
        _pair(costs.get("defense_built_epochs"), costs.get("defense_spent_epochs")),
        _pair(costs.get("defense_built_seconds"), costs.get("defense_spent_seconds")),
    )


def clean_fpr(results: Results, trial: int) -> Cell:
    """Mean over seeds, with the standard deviation where there are several; None where it was not run."""
    mean, deviation = results.clean_fpr_mean(trial)
    return mean_with_deviation(mean, deviation)


def clean_fprs(results: Results) -> dict[int, float]:
    """Trial -> the mean over seeds, of those that were run on clean data."""
    means = {trial: results.clean_fpr_mean(trial)[0] for trial in results.clean_fpr}
    return {trial: mean for trial, mean in means.items() if mean is not None}


def costs_of(results: Results) -> dict[int, dict[str, float | None]]:
    """Trial -> column of `study.analysis.results.COSTS` -> its mean over scenarios; None where none tells it."""
    means = results.evaluations.reindex(columns=["trial", *COSTS]).groupby("trial").mean()
    return {
        int(str(trial)): {str(name): None if math.isnan(value) else float(value) for name, value in row.items()}
        for trial, row in means.to_dict("index").items()
    }


def _cost_of_undefended(results: Results) -> tuple[Cell, Cell]:
    """Epoch-equivalents and seconds of training without a defense, which every trial finds built."""
    stages: pandas.DataFrame = results.stages
    if stages.empty:
        return None, None
    trained = stages[stages["stage"] == _UNDEFENDED_STAGE].drop_duplicates(["trial", "scenario"])
    epochs, seconds = trained["epoch_equivalents"].mean(), trained["built_seconds"].mean()
    return (
        None if math.isnan(epochs) else format_number(float(epochs), 1),
        None if math.isnan(seconds) else format_number(float(seconds), 1),
    )


def _label(results: Results, trial: int) -> str:
    needs = needs_text(SEARCH_SPACES[results.space], results.config)
    words = [default_label(results)] if trial == results.default else []
    if trial == results.best:
        words.append(f"the {results.best_name}" if words else f"{results.best_name} (#{trial})")
    return (", ".join(words) or f"#{trial}") + (f" ({needs})" if needs else "")


def _pair(built: float | None, spent: float | None) -> Cell:
    return None if built is None else f"{format_number(built, 1)} / {format_number(spent, 1)}"
