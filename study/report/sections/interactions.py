"""Two hyperparameters at a time: the pairs whose joint effect is largest, as contours of the objective."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.space import Choice
from study.analysis.bins import binned
from study.analysis.discretise import Numbers, load_default_point
from study.analysis.importances import Importances
from study.analysis.results import Results
from study.analysis.reused_settings import SETTINGS, group_reused, grouped_fields, setting_numbers, shared_fields
from study.cli.numbers import format_value, listed, several
from study.config.objectives import in_words
from study.report.elements import AxisValue, Contour, Item, Note, Section, Table
from study.report.formatting import format_share, sentence

if TYPE_CHECKING:
    import pandas

PAIRS = 3
_BINS = 8  # a side, at most
_ERRORS = ((1024, 0.01), (512, 0.06), (256, 0.24), (0, 1.0))
"""Trials, at least -> what of a pair that explained everything was given to another pair, at most: of 256, 512 and
1,024 quasi-random trials, measured. With fewer a pair may be given anything."""
_SHOWN = 0.01  # of a variance: which pairs have less is left to rounding
_PER_PLACE = 4  # trials, on average at least


def interactions_section(results: Results, computed: Importances) -> Section:
    """The answer, from the importances that were computed."""
    shared = shared_fields(results)
    settings = setting_numbers(results, shared).nunique()
    grouped = grouped_fields(results)
    results = group_reused(results)
    title = "Which hyperparameters depend on one another"
    command = results.command_for("analyze")
    objective = results.goal.objectives[0]
    name = in_words(objective)
    whole = computed.of(objective)
    if computed.why_none or whole is None or whole.shares is None or sum(whole.read) < 2:
        why = computed.why_none or (
            f"fewer than two hyperparameters vary that {name} can depend on"
            if whole is not None and sum(whole.read) < 2
            else f"{name} is the same in all but a few trials, or is not defined on enough of them"
        )
        return Section("interactions", title, f"{sentence(why)}.", (), command, answered=False)
    read = np.array(whole.read)
    of_read = np.where(np.logical_and.outer(read, read), whole.shares.pairs, -1.0)
    pairs = [(one, two) for one, two in largest(of_read, PAIRS) if read[one] and read[two]]
    fields = computed.fields
    rows = tuple((fields[one], fields[two], float(whole.shares.pairs[one, two])) for one, two in pairs)
    cells = results.compared[results.compared["trial"].isin(results.space_filling_trials.index)]
    means = cells.groupby("trial")[objective].mean().dropna()
    caption = f"fANOVA: share of the variance of {name} (mean over scenarios) that two explain beyond each alone"
    both = results.space_filling_trials.loc[means.index, list(rows[0][:2])].notna().all(axis=1)
    together = set(rows[0][:2]) <= set(shared)  # each setting of the two has the luck of one training
    count = settings if together else int(both.sum())
    error = next(error for least, error in _ERRORS if count >= least)
    items: tuple[Item, ...] = (
        Table("interactions", caption, ("hyperparameter", "and", "share of variance"), rows, left=2),
        *(_contour(results, means, *row[:2], objective) for row in rows if row[2] >= _SHOWN),
        *_settings(results, grouped, rows),
        Note(
            "Shares of pairs are corrected by the forest's out-of-bag residuals, in four bins a side. A field of a "
            f"contour is the mean {name} of the trials in it; the fields are bins of equally many trials. Where one "
            "pair explained everything, another was given up to 0.24 of it with 256 quasi-random trials, 0.06 with 512 "
            "and 0.01 with 1,024.",
            "footnote",
        ),
    )
    lead = _lead(rows[0], name, several(count, "setting" if together else "trial"), error)
    return Section("interactions", title, lead, items, command, uses_labels=True)


def _settings(results: Results, grouped: Sequence[str], rows: Sequence[tuple[str, str, float]]) -> list[Table]:
    """What the settings are that axes number, where a contour has such an axis."""
    if not any(SETTINGS in row[:2] and row[2] >= _SHOWN for row in rows):
        return []
    each = results.space_filling_trials.drop_duplicates(SETTINGS).set_index(SETTINGS)
    options = [option for option in results.ranges[SETTINGS].options if option in each.index]  # type: ignore[union-attr]
    cells = tuple((option, *(format_value(each.at[option, field]) for field in grouped)) for option in options)
    caption = f"The settings of {listed(grouped)} that trials share, as axes above name them"
    return [Table("interactions-settings", caption, (SETTINGS, *grouped), cells)]


def _lead(first: tuple[str, str, float], name: str, trials: str, error: float) -> str:
    one, two, share = first
    if share < _SHOWN:
        return f"No two hyperparameters explain 0.01 or more of the variance of {name} beyond what each does alone."
    if share <= error:
        return (
            f"No pair stands out from noise: the largest share is {format_share(share)} ({one} and {two}), and with "
            f"{trials} a pair that does nothing may be given {'as much' if error >= 1 else f'{error:g}'}."
        )
    return (
        f"{one} and {two} depend on each other most: together they explain {format_share(share)} of the variance of "
        f"{name} beyond what each does alone."
    )


def largest(pairs: Numbers, count: int) -> list[tuple[int, int]]:
    """Pairs (lower position first) with the largest entries of a symmetric matrix, float64 [n, n], largest first."""
    ones, twos = np.triu_indices(len(pairs), k=1)
    order = np.argsort(-pairs[ones, twos], kind="stable")[:count]
    return [(int(ones[at]), int(twos[at])) for at in order]


def _contour(results: Results, means: "pandas.Series[float]", one: str, two: str, objective: str) -> Contour:
    trials = results.space_filling_trials.loc[means.index].dropna(subset=[one, two])
    means = means.loc[trials.index]
    side = int(np.clip(np.sqrt(len(trials) / _PER_PLACE), 2, _BINS))
    across, up = (binned(trials[field], results.ranges[field], side) for field in (one, two))
    sums, counts = np.zeros((len(up[0]), len(across[0]))), np.zeros((len(up[0]), len(across[0])))
    np.add.at(sums, (up[1], across[1]), means.to_numpy(float))
    np.add.at(counts, (up[1], across[1]), 1)
    values = tuple(
        tuple(float(total / n) if n else None for total, n in zip(*row, strict=True))
        for row in zip(sums, counts, strict=True)
    )
    default = load_default_point(results.ranges, results.trials)
    drawn = ((one, across[0]), (two, up[0]))
    known = default and all(_has_place(results, field, default[field], places) for field, places in drawn)
    at = (tuple(_place(results, field, default[field]) for field in (one, two)),) if known else ()
    return Contour(
        f"contour-{one}-{two}".replace(" ", "-"),
        f"Mean {in_words(objective)} over {one} and {two}",
        one,
        two,
        across[0],
        up[0],
        values,
        in_words(objective),
        tuple((x, y, "paper default") for x, y in at),
        x_log=_is_log(results, one),
        y_log=_is_log(results, two),
    )


def _is_log(results: Results, field: str) -> bool:
    searched = results.ranges[field]
    return not isinstance(searched, Choice) and searched.log


def _has_place(results: Results, field: str, value: object, places: Sequence[AxisValue]) -> bool:
    """Whether a value has a place on its axis: an option, or a setting, that no sampler drew has none."""
    return value is not None and (not isinstance(results.ranges[field], Choice) or str(value) in places)


def _place(results: Results, field: str, value: object) -> AxisValue:
    return str(value) if isinstance(results.ranges[field], Choice) else float(value)  # type: ignore[arg-type]
