"""What others report of the same defenses on the same attacks, beside ours: every source with its scale."""

from collections.abc import Iterator, Mapping, Sequence

from search_spaces import SEARCH_SPACES
from study.analysis.compared import ComparedConfiguration, compared_configurations
from study.analysis.paper_numbers import AVERAGE
from study.analysis.reported_numbers import Reported, reported_of
from study.analysis.results import Results
from study.cli.numbers import several
from study.config.objectives import in_words
from study.report.elements import Cell, Item, Note, Section, Table, slug
from study.report.formatting import format_cell
from study.report.screen import without_empty_columns
from tracking import names

_APART = 0.25
"""Sources that differ by more than this on a metric are said to contradict each other."""
_OWN_TABLES = ("pipd", "qt", "no_defense")
"""A study of one of them alone has the papers' own tables, or nothing to compare."""
_HEADER = ("defense", "source", "images", "network", "rate", *map(in_words, names.HEADLINE))
_Row = tuple[Cell, ...]


def section(studies: Sequence[Results]) -> Section | None:
    """A table an attack: each defense, ours first and then every source.

    Returns:
        None where no source has one of the defenses on one of the attacks, or where the only defense is that of a
        paper whose tables stand elsewhere in the report.
    """
    of_defense = {results.defense: reported_of(results.defense) for results in studies}
    if set(of_defense) <= set(_OWN_TABLES):
        return None
    ours = [row for results in studies for row in _ours(results)]
    attacks = [attack for attack, _, _ in ours if any(_on(rows, attack) for rows in of_defense.values())]
    tables = {attack: _block(attack, ours, of_defense) for attack in dict.fromkeys(attacks)}
    blocks = {attack: rows for attack, rows in tables.items() if rows}
    averages = [row for rows in of_defense.values() for row in _source_rows(_on(rows, AVERAGE))]
    if not blocks and not averages:
        return None
    apart = [
        sentence for attack in blocks for rows in of_defense.values() for sentence in _contradictions(_on(rows, attack))
    ]
    items: list[Item] = [_table(attack, rows) for attack, rows in blocks.items()]
    if averages:
        items.append(_table(AVERAGE, averages))
    items += [Note(sentence, "warning") for sentence in apart]
    return Section("reported", "What others report", _lead(apart), tuple(items), uses_labels=True)


def _on(rows: Sequence[Reported], attack: str) -> list[Reported]:
    return [row for row in rows if row.attack == attack]


def _ours(results: Results) -> Iterator[tuple[str, str, _Row]]:
    """Attack, defense and row of each attack and rate of a study: the mean over seeds whose attack works."""
    spoken_for = _spoken_for(results)
    if spoken_for is None:
        return
    config = results.config
    size = f", {config.train_size:,} images" if config.train_size else ""
    model = config.model or SEARCH_SPACES[results.space].model
    network = f"{model}, width {config.width}, blocks {','.join(map(str, config.blocks))}"
    for (text, rate), part in spoken_for.counted.groupby(["attack", "poison_rate"], sort=False):
        seeds = part["seed"].nunique()
        who = f"ours ({spoken_for.label}, {several(seeds, 'seed')})"
        means = (part[metric].dropna().mean() for metric in names.HEADLINE)
        values = tuple(None if mean != mean else float(mean) for mean in means)
        head = (results.defense, who, f"{config.dataset}{size}", network, f"{float(str(rate)):g}")
        yield str(text).partition(":")[0], results.defense, (*head, *values)


def _spoken_for(results: Results) -> ComparedConfiguration | None:
    """The paper's default, or the best where that was not tried."""
    trials = [one for one in compared_configurations(results) if one.trial is not None]
    defaults = [one for one in trials if one.trial == results.default]
    return next(iter(defaults or trials), None)


def _block(
    attack: str, ours: Sequence[tuple[str, str, _Row]], of_defense: Mapping[str, Sequence[Reported]]
) -> list[_Row]:
    """The rows of one attack; a defense without a source there is left to the other tables."""
    rows: list[_Row] = []
    for defense, reported in of_defense.items():
        sources = _source_rows(_on(reported, attack))
        own = [row for known, of, row in ours if (known, of) == (attack, defense)]
        if sources and own:
            rows += [*own, *sources]
    return rows


def _source_rows(reported: Sequence[Reported]) -> list[_Row]:
    """A row a source, trigger and scale, with all that it has of them."""
    values: dict[Reported, dict[str, float]] = {}
    for row in reported:
        values.setdefault(row._replace(metric="", value=0.0), {})[row.metric] = row.value
    return [
        (
            head.defense,
            f"{head.source} ({head.trigger})" if head.trigger else head.source,
            head.dataset or "not said",
            head.network or "not said",
            "not said" if head.rate is None else f"{head.rate:g}",
            *(known.get(metric) for metric in names.HEADLINE),
        )
        for head, known in values.items()
    ]


def _table(attack: str, rows: Sequence[_Row]) -> Table:
    caption = "On average over a source's own attacks" if attack == AVERAGE else f"On {attack}"
    strong = tuple(at for at, row in enumerate(rows) if str(row[1]).startswith("ours ("))
    return without_empty_columns(
        Table(f"reported-{slug(attack)}", caption, _HEADER, tuple(rows), left=5, strong=strong)
    )


def _contradictions(reported: Sequence[Reported]) -> Iterator[str]:
    """A sentence for each metric on which the sources of one defense and attack lie far apart."""
    for metric in names.HEADLINE:
        known = sorted((row for row in reported if row.metric == metric), key=lambda row: row.value)
        if known and known[-1].value - known[0].value > _APART:
            low, high = known[0], known[-1]
            yield (
                f"Sources contradict each other on {low.defense} and {low.attack}: {in_words(metric)} is "
                f"{format_cell(low.value)} in {_where(low)} and {format_cell(high.value)} in {_where(high)}."
            )


def _where(row: Reported) -> str:
    return f"{row.source}{f' on {row.dataset}' if row.dataset else ''}"


def _lead(apart: Sequence[str]) -> str:
    told = (
        "Networks, images and poison rates are not the same, so no row reproduces another: look whether sources agree "
        "on which attacks a defense holds."
    )
    return f"{told} They contradict each other {len(apart)} times." if len(apart) > 1 else told
