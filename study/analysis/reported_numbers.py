"""Who reported what of a defense: the tables of both papers by defense, and what others say of the same attacks."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from study.analysis.paper_numbers import paper_file, paper_tables

_PERCENT = 0.01


class Reported(NamedTuple):
    """One number that somebody reports.

    Attributes:
        defense, attack: our names; the attack may be `paper_numbers.AVERAGE`, over a source's own.
        trigger: what the source calls the attack; empty where it does not say.
        rate: poison rate; None where the source does not say.
        network, dataset: as the source has them; empty likewise.
        metric: as in `tracking.names`.
        value: a share in [0, 1].
        source: who, and where it stands.
    """

    defense: str
    attack: str
    trigger: str
    rate: float | None
    network: str
    dataset: str
    metric: str
    value: float
    source: str


@functools.cache
def reported_numbers() -> tuple[Reported, ...]:
    """All of them: the papers' first, in their order."""
    content = paper_file()
    others = (row for entry in content["reported"].values() for row in _others(entry))
    return (*_papers(content), *others)


def _papers(content: Mapping[str, Any]) -> Iterable[Reported]:
    """What the papers' tables say of defenses; their averages are of attacks that ours need not have."""
    for table in paper_tables().values():
        if table.varies != "defense":
            continue
        entry = content["tables"][table.name]
        paper = content[entry["paper"]]
        printed = _printed(entry, paper["attacks"])
        source = f"{table.short}, {table.place.partition(',')[0]}"
        for cell, value in table.values.items():
            trigger = printed.get((cell.dataset, cell.attack), "")
            yield Reported(
                cell.setting,
                cell.attack,
                trigger,
                table.rate(cell),
                paper["network"],
                cell.dataset,
                cell.metric,
                value,
                source,
            )


def _printed(entry: Mapping[str, Any], attacks: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """What a table calls each attack, by dataset and our name."""
    columns = [column.rpartition(" ")[0] for column in entry["columns"]]
    return {
        (dataset, attacks[name]): name
        for dataset, rows in entry["rows"].items()
        for name in (rows if entry["by_row"] == "attack" else columns)
        if name in attacks
    }


def _others(entry: Mapping[str, Any]) -> Iterable[Reported]:
    for attack, values in entry["rows"].items():
        for column, value in zip(entry["columns"], values, strict=True):
            defense, _, metric = column.partition(" ")
            if not math.isnan(value):
                yield Reported(
                    defense,
                    attack,
                    entry.get("triggers", {}).get(attack, ""),
                    entry.get("rate"),
                    entry.get("network", ""),
                    entry.get("dataset", ""),
                    metric,
                    round(value * _PERCENT, 6),
                    entry["source"],
                )


def reported_of(defense: str) -> tuple[Reported, ...]:
    """What is reported of a defense (our name)."""
    return tuple(row for row in reported_numbers() if row.defense == defense)
