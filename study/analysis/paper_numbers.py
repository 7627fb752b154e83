"""The numbers that the papers print, beside which ours are shown. Typed in once, as printed."""

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

AVERAGE = "average"
"""The attack of a printed average."""

_FILE = Path(__file__).with_name("paper_numbers.toml")
_PERCENT = 0.01


class Cell(NamedTuple):
    """Where a number stands.

    Attributes:
        attack: our name, or `AVERAGE`.
        setting: a defense (our name), or the value of what the table varies, such as ``0.2``.
        metric: as in `tracking.names`.
    """

    dataset: str
    attack: str
    setting: str
    metric: str


@dataclass(frozen=True)
class Where:
    """The cells that a footnote concerns; what is empty means all."""

    table: str
    dataset: str = ""
    attack: str = ""
    setting: str = ""
    metric: str = ""

    def holds(self, cell: Cell) -> bool:
        """Whether a cell of this table is meant."""
        return all(getattr(self, part) in ("", getattr(cell, part)) for part in Cell._fields)


@dataclass(frozen=True)
class Footnote:
    """What a reader must know before comparing with a number.

    Attributes:
        anomaly: its number in specs/baselines.md, section 13; None for our own remarks.
    """

    name: str
    text: str
    at: tuple[Where, ...]
    anomaly: int | None = None


@dataclass(frozen=True)
class Said:
    """What the text states of a figure or beside a table.

    Attributes:
        value: a share in [0, 1] where it is a number; `relation` tells how it is meant: equal, about, above.
    """

    text: str
    setting: str = ""
    metric: str = ""
    attack: str = ""
    dataset: str = ""
    value: float | None = None
    relation: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A table, or a figure, of which only what is said in words is known.

    Attributes:
        place: table and section.
        paper: its title. short: its defense, for headers.
        spaces: our grid spaces that ask the same.
        varies: ``defense``, or the hyperparameter or fact that changes (``rounds``, ``poison_rate`` ...).
        values: fractions in [0, 1], printed in percent; target labels as they are.
        averages: of the same kind, as printed.
        rates: poison rate by dataset. own_rates: of the attacks that have another, by our name.
        footnotes: those that concern a cell of it.
    """

    name: str
    paper: str
    short: str
    place: str
    caption: str
    spaces: tuple[str, ...]
    varies: str
    values: Mapping[Cell, float]
    averages: Mapping[Cell, float]
    rates: Mapping[str, float]
    own_rates: Mapping[str, float]
    said: tuple[Said, ...]
    footnotes: tuple[Footnote, ...]

    def axis(self, part: str) -> tuple[str, ...]:
        """The values of one part of its cells (``attack``, ``setting`` ...), in the order of the page."""
        return tuple(dict.fromkeys(getattr(cell, part) for cell in self.values))

    def images(self, dataset: str) -> str:
        """The part to compare with: of the same images where the table has them, its first otherwise."""
        known = self.axis("dataset")
        return dataset if dataset in known else known[0] if known else ""

    def rate(self, cell: Cell) -> float | None:
        """The poison rate of a cell; None where the table varies it or says nothing."""
        if self.varies == "poison_rate" and self.values:
            return float(cell.setting)
        return self.own_rates.get(cell.attack, self.rates.get(cell.dataset, self.rates.get("")))

    def notes(self, cells: Iterable[Cell]) -> tuple[Footnote, ...]:
        """The footnotes that concern one of the cells."""
        wanted = list(cells)
        return tuple(
            note
            for note in self.footnotes
            if any(place.table == self.name and place.holds(cell) for place in note.at for cell in wanted)
        )


def load_tables(space: str) -> tuple[PaperTable, ...]:
    """The tables and figures that ask what a grid space of ours asks; empty where no paper does."""
    return tuple(table for table in paper_tables().values() if space in table.spaces)


@functools.cache
def paper_file() -> Mapping[str, Any]:
    """The file as it stands, which `study.analysis.reported_numbers` reads too."""
    with _FILE.open("rb") as file:
        return tomllib.load(file)


@functools.cache
def paper_tables() -> Mapping[str, PaperTable]:
    """All of them by name, in the order of the papers."""
    content = paper_file()
    notes = [_footnote(entry, content) for entry in content["footnotes"]]
    return {name: _table(name, entry, content, notes) for name, entry in content["tables"].items()}


@dataclass(frozen=True)
class _Names:
    """A paper's names in ours; a name that is none of its attacks or settings stays."""

    attacks: Mapping[str, str]
    settings: Mapping[str, str]

    def of(self, part: str, name: str) -> str:
        if part == "attack":
            return self.attacks[name] if name not in ("", "Average", AVERAGE) else name.lower()
        return self.settings.get(name, name) if part == "setting" else name


def _names(content: Mapping[str, Any], table: str) -> _Names:
    of_paper = content[content["tables"][table]["paper"]]
    return _Names(of_paper["attacks"], of_paper["settings"])


def _footnote(entry: Mapping[str, Any], content: Mapping[str, Any]) -> Footnote:
    places = tuple(
        Where(**{part: _names(content, place["table"]).of(part, name) for part, name in place.items()})
        for place in entry["at"]
    )
    return Footnote(entry["name"], entry["text"], places, entry.get("anomaly"))


def _table(name: str, entry: Mapping[str, Any], content: Mapping[str, Any], notes: list[Footnote]) -> PaperTable:
    of_paper, ours = content[entry["paper"]], _names(content, name)
    cells = dict(_cells(entry, ours))
    rate = entry.get("poison_rate", {})
    return PaperTable(
        name=name,
        paper=of_paper["title"],
        short=of_paper["short"],
        place=entry["place"],
        caption=entry["caption"],
        spaces=tuple(entry["spaces"]),
        varies=entry["varies"],
        values={cell: value for cell, value in cells.items() if cell.attack != AVERAGE},
        averages={cell: value for cell, value in cells.items() if cell.attack == AVERAGE},
        rates=rate if isinstance(rate, dict) else {"": rate},
        own_rates={ours.of("attack", attack): value for attack, value in entry.get("own_rates", {}).items()},
        said=tuple(_said(one, ours) for one in entry.get("said", ())),
        footnotes=tuple(note for note in notes if any(place.table == name for place in note.at)),
    )


def _said(entry: Mapping[str, Any], ours: _Names) -> Said:
    parts: dict[str, Any] = {part: ours.of(part, value) for part, value in entry.items()}
    return Said(**parts)


def _cells(entry: Mapping[str, Any], ours: _Names) -> Iterable[tuple[Cell, float]]:
    """Every number with its place; a row's name is an attack or a setting, and so is a column's, the other one."""
    unit = entry.get("unit", _PERCENT)
    rows = [(data, row, values) for data, of_data in entry.get("rows", {}).items() for row, values in of_data.items()]
    by_attack = entry["by_row"] == "attack"
    rows += [(data, AVERAGE, values) for data, values in entry.get("averages", {}).items()]
    for data, row, values in rows:
        for column, value in zip(entry["columns"], values, strict=True):
            name, _, metric = column.rpartition(" ")
            attack, setting = (row, name) if by_attack else (name, row)
            yield Cell(data, ours.of("attack", attack), ours.of("setting", setting), metric), round(value * unit, 6)
