"""Which hyperparameters matter, for which metric, on which scenario: fANOVA and PED-ANOVA."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from study.analysis.discretise import Numbers
from study.analysis.fanova import LEAF
from study.analysis.importances import (
    ALL,
    ERRORS,
    FEWEST_SETTINGS,
    Importance,
    Importances,
    compute_importances,
    error_of_settings,
    error_of_share,
)
from study.analysis.ped_anova import QUANTILE
from study.analysis.results import Results
from study.analysis.reused_settings import (
    LEAST_SETTINGS,
    SETTINGS,
    group_reused,
    grouped_fields,
    setting_numbers,
    shared_fields,
)
from study.cli.numbers import format_number, listed
from study.config.objectives import in_words
from study.report.elements import Bars, Cell, Heat, Item, Note, Section, Table
from study.report.formatting import format_share, sentence

if TYPE_CHECKING:
    import optuna
    import pandas

FANOVA, PED = "fANOVA", "PED-ANOVA"
_NOT_READ = "not read"
_NARROW = 0.01  # of a rate or a score; trials that differ by less differ by nothing that matters

_TOO_FEW = (
    "{trials} trials for {axes} hyperparameters are few: take the shares as a hint. On a function of seven "
    "hyperparameters whose shares are known, the largest error of a share was 0.15 with 10 quasi-random trials a "
    "hyperparameter, 0.07 with 40 and 0.04 with 146 (random trials: 0.22, 0.12 and 0.03)."
)
_FANOVA = (
    "fANOVA (Hutter et al. 2014) gives the share of a metric's variance over the space that one hyperparameter "
    "explains alone; what is missing to 1 are interactions and noise. In brackets stands the 95 % range over 200 "
    "resamples of the trials, which is too narrow for quasi-random trials: it held the true share in about two of "
    "three cases."
)
_PED = (
    "PED-ANOVA (Watanabe et al. 2023, from Optuna) tells how differently the best tenth of the trials is spread along "
    "a hyperparameter, as a share of the sum over hyperparameters."
)
_DASH = (
    f"A dash stands where a metric is the same in all but a few trials (at least {LEAF} must differ), so that there is "
    "no variance to share out."
)


def importances(results: Results) -> Importances:
    """Computes all; a tenth of a second each, for 1,000 trials."""
    grouped = group_reused(results)
    return compute_importances(grouped, _Optuna(grouped))


class _Optuna:
    """Asks Optuna's evaluator, which reads trials of a study."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._studies: dict[bytes, optuna.Study] = {}

    def __call__(self, trials: "pandas.DataFrame", fields: Sequence[str], losses: Numbers) -> Numbers | None:
        """PED-ANOVA's importances, summing to 1; None where the best tenth does not differ from all."""
        where = trials.index.to_numpy().tobytes()
        if where not in self._studies:
            self._studies[where] = _frozen(self._results, trials)
        return _ped(self._studies[where], fields, losses)


def _frozen(results: Results, trials: "pandas.DataFrame") -> "optuna.Study":
    """The trials as a study in memory, which is what Optuna's evaluators read."""
    import optuna

    from study.ledger.quiet_study import create_study

    ranges = {name: searched.distribution() for name, searched in results.ranges.items()}
    study = create_study()
    columns = [trials[name].tolist() for name in ranges]
    for values in zip(*columns, strict=True):
        point = {name: value for name, value in zip(ranges, values, strict=True) if value is not None}
        own = {name: ranges[name] for name in point}
        study.add_trial(optuna.trial.create_trial(params=point, distributions=own, value=0.0))
    return study


def _ped(study: "optuna.Study", fields: Sequence[str], losses: Numbers) -> Numbers | None:
    """PED-ANOVA's importances, summing to 1; None where the best tenth does not differ from all."""
    from optuna.importance import PedAnovaImportanceEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, and told of every target that lower must be better
        evaluator = PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
        shares = evaluator.evaluate(study, list(fields), target=lambda trial: float(losses[trial.number]))
    raw = np.array([shares[field] for field in fields])
    return raw / raw.sum() if raw.sum() > 0 else None


def importance_section(results: Results, computed: Importances, beside: Sequence[Note] = ()) -> Section:
    """The answer.

    Args:
        beside: what else limits the shares.
    """
    command = results.command_for("analyze")
    title = "Which hyperparameters matter"
    if computed.why_none:
        return Section("importance", title, f"{sentence(computed.why_none)}.", (), command, answered=False)
    objective = results.goal.objectives[0]
    known = dict.fromkeys([objective, *(one.metric for one in computed.each)])
    metrics = [metric for metric in known if computed.of(metric) and computed.varies(metric)]
    if not metrics:
        lead = (
            "Every metric is the same in all trials but a few, so no hyperparameter matters within its range"
            f"{_of_how_many(computed)}."
        )
        return Section("importance", title, lead, (), command, answered=False, uses_labels=True)
    first = metrics[0]
    drawn = computed.of(first)
    items: tuple[Item, ...] = (
        _over_all(computed, metrics),
        *([_bars(computed, first)] if drawn is not None and drawn.shares is not None else []),
        _heat(computed, first),
        *(_by_scenario(computed, metric) for metric in metrics),
        *beside,
        *_notes(computed, [metric for metric in known if computed.of(metric)], metrics),
        *_conditional_notes(results, drawn),
        *_grouped_note(results),
    )
    shared = _shared_settings(results, computed)
    items = (*items, *_shared_note(shared))
    lead = _lead(computed, objective, shared) + _narrow(results)
    return Section("importance", title, lead, items, command, uses_labels=True)


def _narrow(results: Results) -> str:
    """That there is next to nothing to explain, where all trials reach about the same."""
    reached = results.space_filling_trials[results.objective_columns[0]].dropna()
    spread = float(reached.max() - reached.min()) if len(reached) else _NARROW
    if spread >= _NARROW or results.goal.how != "mean":
        return ""
    return f" All trials lie within {format_number(spread)} of each other, so these are shares of next to nothing."


def _of_how_many(computed: Importances) -> str:
    return f" ({computed.each[0].trials} trials)" if computed.each else ""


def _lead(computed: Importances, metric: str, shared: Mapping[str, tuple[int, int]]) -> str:
    """What stands out: the hyperparameters whose share is larger than the error of so many trials, or settings."""
    whole, name = computed.of(metric), in_words(metric)
    if whole is None:
        return f"{sentence(name)} is not defined on enough trials; other metrics stand below."
    if whole.shares is None:
        return f"{sentence(name)} is the same in all of {whole.trials} trials but a few: no hyperparameter moves it."
    shares, error = whole.shares.alone, error_of_share(whole.trials, sum(whole.read))
    errors = [
        error_of_settings(*shared[field]) if field in shared else error_of_share(acts, sum(whole.read))
        for field, acts in zip(computed.fields, whole.acts, strict=True)
    ]
    clear = [at for at in np.argsort(-shares, kind="stable") if shares[at] > errors[at]]
    cannot = f"cannot be told from zero with {whole.trials} trials (a share may be wrong by {error:g})"
    unclear = [at for at, read in enumerate(whole.read) if read and at not in clear]
    plain = [at for at in unclear if computed.fields[at] not in shared]
    unsure = _unsure(computed, shares, [at for at in unclear if at not in plain], shared)
    if not clear:
        largest = format_share(max((shares[at] for at in plain), default=0.0))
        each = f"each explains {largest} or less of the variance of {name}, which {cannot}"
        return (f"No hyperparameter stands out: {each}." if plain else f"What moves {name} cannot be told.") + unsure
    named = [f"{computed.fields[at]} {format_share(shares[at])}{_of_whom(whole, at)}" for at in clear[:3]]
    others = f" The share of the other {len(plain) if len(plain) > 1 else 'one'} {cannot}." if plain else ""
    more = f" ({len(clear) - 3} more stand below)" if len(clear) > 3 else ""
    return f"Of the variance of {name} (mean over scenarios) fANOVA gives {listed(named)}{more}.{others}{unsure}"


def _unsure(computed: Importances, shares: Numbers, which: Sequence[int], shared: Mapping[str, tuple[int, int]]) -> str:
    """Of fields whose settings trials share, that these are too few to say how large a share is."""
    if not which:
        return ""
    settings, fields = shared[computed.fields[which[0]]]
    error = error_of_settings(settings, fields)
    named = listed([f"{computed.fields[at]} {format_share(shares[at])}" for at in which])
    wrong = f"by {error:g}" if error < 1 else "by anything"
    return f" {settings} settings, each with the luck of one training, give {named}, which may be wrong {wrong}."


def _of_whom(one: Importance, at: int) -> str:
    """That a share is of a part of the trials; nothing where it is of all."""
    return "" if one.acts[at] == one.trials else f" (of the {one.acts[at]} trials in which it acts)"


def _notes(computed: Importances, known: Sequence[str], metrics: Sequence[str]) -> list[Note]:
    fewest = min(one.trials for one in computed.each)
    notes = [_FANOVA, *([_PED] if _has_ped(computed) else []), *_why_no_ped(computed, metrics)]
    constant = [in_words(metric) for metric in known if metric not in metrics]
    if constant:
        notes.append(f"Left out, since the same in all trials but a few: {', '.join(constant)}.")
    elif any(one.shares is None for one in computed.each):
        notes.append(_DASH)
    if any(not all(one.read) for one in computed.each):
        notes.append(
            f"{sentence(_NOT_READ)}: no stage that the metric depends on reads the hyperparameter, so it cannot matter."
        )
    if fewest < ERRORS[1][0] * len(computed.axes):
        notes.append(_TOO_FEW.format(trials=fewest, axes=len(computed.axes)))
    return [Note(text, "footnote") for text in notes]


def _grouped_note(results: Results) -> list[Note]:
    """That some fields count as one, where a study shares their settings."""
    fields = grouped_fields(results)
    if not fields:
        return []
    needed = LEAST_SETTINGS * len(fields)
    text = (
        f"{SETTINGS} stands for {listed(fields)} together: trials share {results.config.reuse} settings of them "
        f"(--reuse), equally often and beside freely drawn values of the others, so that its share is unbiased. Which "
        f"field it is, and what is the luck of so few trainings on each scenario, takes {needed} settings."
    )
    return [Note(text)]


def _shared_settings(results: Results, computed: Importances) -> dict[str, tuple[int, int]]:
    """How many settings of how many fields trials share, for each such field, or for all of them where they are one."""
    if SETTINGS in computed.fields:
        return {SETTINGS: (setting_numbers(results, grouped_fields(results)).nunique(), 1)}
    fields = tuple(name for name in shared_fields(results) if name in computed.fields)
    return dict.fromkeys(fields, (setting_numbers(results, fields).nunique(), len(fields)))


def _shared_note(shared: Mapping[str, tuple[int, int]]) -> list[Note]:
    """That trials which share a training share its luck, too."""
    if not shared:
        return []
    settings, fields = next(iter(shared.values()))
    error = error_of_settings(settings, fields)
    text = (
        f"Trials share {settings} settings of {'the ' * (SETTINGS in shared)}{listed(tuple(shared))}, and with each "
        "the luck of its training. So a share of theirs may be wrong by "
        + (f"{error:g}" if error < 1 else f"anything (fewer than {FEWEST_SETTINGS} settings for each field)")
        + ", and the range in brackets, which takes trials as if each had been trained apart, is too narrow."
    )
    return [Note(text)]


def _conditional_notes(results: Results, one: Importance | None) -> list[Note]:
    """Of which trials the shares are of hyperparameters that do nothing in some."""
    trials, whole = results.space_filling_trials, None if one is None else one.trials
    notes = []
    for name, own in results.ranges.items():
        acts = int(trials[name].notna().sum())
        if not own.when or acts == len(trials) or whole is None:
            continue
        text = (
            f"{name} acts where {' and '.join(map(str, own.when))}, in {acts} of {len(trials)} trials: its share is of "
            "the variance among those, and a dash stands where they are too few or alike."
        )
        notes.append(Note(text))
    return notes


def _has_ped(computed: Importances) -> bool:
    return any(one.ped is not None for one in computed.each)


def _why_no_ped(computed: Importances, metrics: Sequence[str]) -> list[str]:
    """One sentence on where PED-ANOVA is undefined, by the first reason that there is."""
    undefined = [one for one in computed.each if one.why_no_ped and one.metric in metrics]
    if not undefined:
        return []
    first = undefined[0]
    if not _has_ped(computed):
        return [f"PED-ANOVA is undefined here and left out: {first.why_no_ped}."]
    words = "on the mean" if first.scenario == ALL else f"on {first.scenario}"
    return [f"A dash stands where PED-ANOVA is undefined; for {in_words(first.metric)} {words}: {first.why_no_ped}."]


def _fanova_text(one: Importance, at: int) -> str | None:
    if not one.read[at]:
        return _NOT_READ
    if one.shares is None or not one.acts[at]:
        return None
    share, low, high = (format_share(of[at]) for of in (one.shares.alone, one.shares.low, one.shares.high))
    return f"{share} [{low}, {high}]"


def _ped_text(one: Importance, at: int) -> str | None:
    if not one.read[at]:
        return _NOT_READ
    return None if one.ped is None or not one.acts[at] or np.isnan(one.ped[at]) else format_share(one.ped[at])


def _evaluators(computed: Importances) -> dict[str, Callable[[Importance, int], str | None]]:
    """Those that say something of this study."""
    return {FANOVA: _fanova_text, **({PED: _ped_text} if _has_ped(computed) else {})}


def _over_all(computed: Importances, metrics: Sequence[str]) -> Table:
    """Hyperparameters by metrics, on the mean over scenarios."""
    whole = [one for metric in metrics if (one := computed.of(metric))]
    rows = [
        (field, evaluator, *(text(one, at) for one in whole))
        for at, field in enumerate(computed.fields)
        for evaluator, text in _evaluators(computed).items()
    ]
    header = ("hyperparameter", "method", *(in_words(one.metric) for one in whole))
    caption = "Importance for the mean over all scenarios whose attack works"
    return Table("importance-all", caption, header, tuple(rows), left=2)


def _by_scenario(computed: Importances, metric: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in computed.each:
        if one.metric == metric:
            for evaluator, text in _evaluators(computed).items():
                rows.append((one.scenario, evaluator, *(text(one, at) for at in range(len(computed.axes)))))
    header = ("scenario", "method", *computed.fields)
    return Table(f"importance-{metric}", f"Importance for {in_words(metric)}, by scenario", header, tuple(rows), left=2)


def _bars(computed: Importances, metric: str) -> Bars:
    one = computed.of(metric)
    assert one is not None
    assert one.shares is not None
    read = np.array(one.read) & (np.array(one.acts) > 0)

    def known(shares: Numbers) -> tuple[tuple[float | None, ...], ...]:
        return (tuple(float(share) if is_read else None for share, is_read in zip(shares, read, strict=True)),)

    return Bars(
        "importance-bars",
        f"fANOVA: share of the variance of {in_words(metric)} (mean over scenarios) that each hyperparameter explains "
        "alone, with the 95 % range over resamples",
        computed.fields,
        (in_words(metric),),
        known(one.shares.alone),
        known(one.shares.low),
        known(one.shares.high),
        "share of variance",
    )


def _heat(computed: Importances, metric: str) -> Heat:
    of = [one for one in computed.each if one.metric == metric]
    values = tuple(
        tuple(
            None if one.shares is None or not one.read[at] or not one.acts[at] else float(one.shares.alone[at])
            for one in of
        )
        for at in range(len(computed.axes))
    )
    caption = (
        f"fANOVA: share of the variance of {in_words(metric)} that each hyperparameter explains alone, by scenario"
    )
    columns = tuple(one.scenario for one in of)
    return Heat("importance-heat", caption, columns, computed.fields, values, good="neither")
