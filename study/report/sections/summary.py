"""What a reader needs first: what was studied, what came out, and what limits it."""

import math
from collections.abc import Sequence
from typing import Any

from search_spaces.space import Choice, Range
from study.analysis.compared import DEFAULT, ComparedConfiguration, compared_configurations
from study.analysis.results import Results
from study.cli.numbers import format_number, format_objective, format_value
from study.config.config import SPACE_FILLING
from study.ledger.lock import holder
from study.report.elements import Cell, Item, Note, Section, Table
from study.report.formatting import mean_with_deviation
from study.scenarios.oracle_defenses import describe_defense, find_defense
from study.scenarios.untold import untold
from tracking import names

_EDGE = 0.02  # of a range: closer to its end, the best may lie beyond
_SHOWN_FAILURES = 5


def sections(results: Results) -> list[Section]:
    """One section."""
    compared = compared_configurations(results)
    items: list[Item] = [*_warnings(results), _studied(results), _outcome(results, compared)]
    if results.ranges and results.best is not None:
        items.append(_points(results))
    return [Section("summary", "Summary", _lead(results, compared), tuple(items))]


def overview(studies: Sequence[Results]) -> Section:
    """Several studies, a row each."""
    metrics = tuple(name.upper() for name in names.HEADLINE)
    header = ("study", "configuration", *metrics, "trials", "attack works", "defense", "preset")
    rows: list[tuple[Cell, ...]] = []
    for results in studies:
        working = int((~results.scenarios["attack_failed"]).sum())
        works = f"{working} of {len(results.scenarios)}"
        about = (len(results.complete), works, results.defense, str(results.config.preset))
        for one in _main(compared_configurations(results)):
            rows.append((results.name, one.label, *(_spread(one, metric) for metric in names.HEADLINE), *about))
    return Section(
        "overview",
        "Side by side",
        f"{len(studies)} studies. Means over the scenarios whose attack works, ± the standard deviation over seeds. "
        "Studies with other scenarios or presets do not compare. The best is picked with ground truth: an oracle.",
        (Table("overview", "", header, tuple(rows), left=2),),
    )


def _main(compared: Sequence[ComparedConfiguration]) -> list[ComparedConfiguration]:
    return [one for one in compared if one.trial is not None]


def _lead(results: Results, compared: Sequence[ComparedConfiguration]) -> str:
    scenarios = results.scenarios
    working = int((~scenarios["attack_failed"]).sum())
    attack = f"The attack works undefended in {working} of {len(scenarios)} scenarios."
    if results.best is None:
        why = "no attack works" if not working else "no trial is complete"
        return f"There is no best configuration: {why}. {attack}"
    top = next(one for one in compared if one.trial == results.best)
    first = next((one for one in compared if one.label == DEFAULT), None)
    beside = ""
    if first is not None and first is not top:
        beside = f", beside {_words(first)} of the paper's default"
    reached = f", with {_words(top)}{beside}" if _words(top) else ""
    oracle = "The choice uses ground truth (an oracle), which a defender does not have."
    return f"{_standing(results, top)}{reached}. {attack} {oracle}"


def _standing(results: Results, top: ComparedConfiguration) -> str:
    """Where the best stands among the trials."""
    values = results.complete["value"]
    if len(results.goal.objectives) > 1:
        default = ", the paper's default" if top.trial == results.default else ""
        return (
            f"{len(results.front)} of {len(values)} trials lie on the Pareto front of {results.goal.text}; "
            f"the knee of the front, the trial nearest to the ideal point, is #{top.trial}{default}"
        )
    value = float(values.to_dict()[top.trial])
    ties = int((values == value).sum()) - 1
    others = f", as {'are' if ties > 1 else 'is'} {ties} other{'s' if ties > 1 else ''}" if ties else ""
    return f"Of {len(values)} trials {top.label} is the best{others}: {results.goal.text} {format_objective(value)}"


def _words(configuration: ComparedConfiguration) -> str:
    """What a configuration reaches, in words: the model's metrics, or the flags' where no model was trained."""
    wanted = (names.CA, names.ASR) if configuration.mean(names.CA) is not None else (names.TPR, names.FPR)
    means = {name: configuration.mean(name) for name in wanted}
    return " and ".join(f"{name.upper()} {format_number(value)}" for name, value in means.items() if value is not None)


def _studied(results: Results) -> Table:
    """What was asked."""
    scenarios, config = results.scenarios, results.config
    states = results.trials["state"].value_counts()
    counts = ", ".join(f"{int(states[state])} {state}" for state in states.index)
    spread = "spread over the space" if config.sampler in SPACE_FILLING else "a search, crowded where it found most"
    until = " (flags alone: no final model is trained)" if config.until else ""
    rows = (
        ("defense", f"{describe_defense(results.defense)}{until}"),
        ("search space", f"{results.space}: {', '.join(results.ranges) or 'nothing is searched'}"),
        ("attacks", ", ".join(dict.fromkeys(scenarios["attack"]))),
        ("poison rates", ", ".join(f"{rate:g}" for rate in sorted(scenarios["poison_rate"].dropna().unique()))),
        ("target class", results.manifest.target),
        ("seeds", ", ".join(map(str, results.seeds))),
        ("preset", f"{config.preset}: {config.dataset}, width {config.width}"),
        ("trials", counts),
        ("sampler", f"{config.sampler}: {spread}"),
        ("objective", f"{results.goal.text} (an oracle: it uses ground truth)"),
    )
    return Table("studied", "What was studied", ("", "this study"), rows, left=2)


def _outcome(results: Results, compared: Sequence[ComparedConfiguration]) -> Table:
    """Each configuration over all scenarios whose attack works."""
    seeds = len(results.seeds)
    over = f"± the standard deviation over {seeds} seeds" if seeds > 1 else "one seed only"
    rows = tuple((one.label, *(_spread(one, metric) for metric in names.HEADLINE)) for one in compared)
    top = next((at for at, one in enumerate(compared) if one.trial is not None and one.trial == results.best), None)
    return Table(
        "outcome",
        f"Mean over scenarios whose attack works ({int((~results.scenarios['attack_failed']).sum())}), {over}",
        ("configuration", *(name.upper() for name in names.HEADLINE)),
        rows,
        strong=() if top is None else (top,),
    )


def _spread(configuration: ComparedConfiguration, metric: str) -> Cell:
    return mean_with_deviation(configuration.mean(metric), configuration.deviation(metric))


def _points(results: Results) -> Table:
    """The settings: the paper's, the best, and where was searched."""
    config = find_defense(results.defense).config_type
    top, first = results.best, results.default
    columns = [number for number in (first, top) if number is not None]
    name = results.best_name
    labels = {first: DEFAULT, top: f"{name} (#{top})"} if top != first else {first: f"{DEFAULT}, the {name}"}
    trials = results.trials.to_dict("index")
    rows = tuple(
        (
            config.symbol(field),
            *(format_value(trials[number][field]) for number in dict.fromkeys(columns)),
            f"{searched}{f', {name} at the edge' if _is_at_edge(searched, trials[top][field]) else ''}",
        )
        for field, searched in results.ranges.items()
    )
    header = ("hyperparameter", *(labels[number] for number in dict.fromkeys(columns)), "searched")
    return Table("settings", "Hyperparameters", header, rows)


def _is_at_edge(searched: Range, value: Any) -> bool:
    """Whether a value lies at the end of what was searched."""
    if isinstance(searched, Choice) or searched.high <= searched.low:
        return False
    low, high, at = float(searched.low), float(searched.high), float(value)
    if searched.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    share = (at - low) / (high - low)
    return share <= _EDGE or share >= 1 - _EDGE


def _warnings(results: Results) -> list[Note]:
    """What limits every answer of this study."""
    texts = [*_of_state(results), *_of_design(results), *untold_lines(results)]
    failed = [str(name) for name in results.scenarios.index[results.scenarios["attack_failed"]]]
    if failed:
        more = f" and {len(failed) - _SHOWN_FAILURES} more" if len(failed) > _SHOWN_FAILURES else ""
        texts.append(
            f"The attack fails even undefended on {', '.join(failed[:_SHOWN_FAILURES])}{more}: marked, and counted "
            "neither for nor against a defense."
        )
    if results.damaged:
        texts.append(f"{len(results.damaged)} files of results cannot be read and are left out; see the failures.")
    return [Note(text, "warning") for text in texts]


def untold_lines(results: Results) -> list[str]:
    """What the files of given sets do not tell, and on which scenarios."""
    lines: dict[str, list[str]] = {}
    for name, cell in results.evaluations.groupby("scenario", sort=False).first().iterrows():
        metrics = {metric: None if math.isnan(cell[metric]) else float(cell[metric]) for metric in names.METRICS}
        for line in untold(str(cell["attack"]), metrics):
            lines.setdefault(line, []).append(str(name))
    return [f"{', '.join(scenarios)}: {line}" for line, scenarios in lines.items()]


def _of_state(results: Results) -> list[str]:
    """Whether the study is whole."""
    planned, finished = results.manifest.planned, results.trials["state"].isin(["complete", "pruned", "fail"])
    done = int(finished.sum())
    if holder(results.folder) is not None:
        return [f"The study is being run now: {done} of {planned} trials have finished, and these are told of."]
    running = int((results.trials["state"] == "running").sum())
    if running or (isinstance(planned, int) and done < planned and results.config.sampler != "grid"):
        return [f"The study was stopped after {done} of {planned} trials; the command under Reproduce goes on with it."]
    return []


def _of_design(results: Results) -> list[str]:
    """What its design does not allow to say."""
    texts: list[str] = []
    trials = len(results.complete)
    if trials == 1:
        texts.append("A single trial is complete: nothing can be said of hyperparameters.")
    if len(results.seeds) == 1:
        texts.append("One seed only: differences below what a seed changes cannot be told from chance.")
    if trials > 1:
        texts.append(
            f"The {results.best_name} of {trials} trials is judged on the scenarios that it was picked on, so what it "
            "reaches is optimistic; a hold-out tells what it is worth on others."
        )
    return texts
