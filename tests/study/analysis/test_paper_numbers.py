"""The papers' numbers: all there, typed as printed, and held against what the pages say of themselves."""

import tomllib
from pathlib import Path

import pytest
from checkout import ROOT

from defenses import DEFENSES
from defenses.cuts import CLUSTERINGS
from study.analysis import paper_numbers
from study.analysis.paper_numbers import AVERAGE, Cell, Where, load_tables, paper_tables
from study.attacks import ATTACKS
from study.attacks.groups import PIPD_TABLE6, expand
from tracking import names

TABLES = paper_tables()
SHAPES = {  # rows x columns of each part of each table, counted on the page
    ("pipd.table1", "cifar10"): 9 * 12,
    ("pipd.table1", "imagenet30"): 4 * 12,
    ("pipd.table2", "cifar10"): 7 * 14,
    ("pipd.table3", "cifar10"): 5 * 8,
    ("pipd.table4", "cifar10"): 5 * 8,
    ("pipd.table6", "cifar10"): 9 * 2,
    ("pipd.table7", "cifar10"): 5 * 8,
    ("pipd.table8", "cifar10"): 4 * 8,
    ("qt.table1", "cifar10"): 7 * 4,
    ("qt.table1", "cifar100"): 6 * 4,
    ("qt.table2", "cifar10"): 7 * 10,
    ("qt.table2", "cifar100"): 6 * 10,
}
SPACES = {
    "pipd.rounds": {"pipd.figure4", "pipd.table4"},
    "pipd.fault_ratio": {"pipd.table3"},
    "pipd.selective_vs_unlearning": {"pipd.figure5"},
    "pipd.poison_rate": {"pipd.table7"},
    "pipd.clustering": {"pipd.table8"},
    "pipd.table1": {"pipd.table1"},
    "pipd.table2": {"pipd.table2"},
    "qt.pre_quarantine": {"qt.figure3"},
    "qt.fixed_epsilon": {"qt.figure4"},
    "qt.poison_rate": {"qt.figure5"},
    "qt.backdoor_class": {"qt.figure2"},
    "qt.table1": {"qt.table1"},
    "qt.table2": {"qt.table2"},
}


def numbers() -> list[tuple[str, Cell, float]]:
    return [
        (table.name, cell, value)
        for table in TABLES.values()
        for cell, value in {**table.values, **table.averages}.items()
    ]


def printed(table: str, attack: str, setting: str, metric: str, dataset: str = "cifar10") -> float:
    """A number of a table, or one of its averages."""
    return {**TABLES[table].values, **TABLES[table].averages}[Cell(dataset, attack, setting, metric)]


def test_every_table_has_all_its_rows_and_columns() -> None:
    found: dict[tuple[str, str], int] = {}
    for table in TABLES.values():
        for cell in table.values:
            found[table.name, cell.dataset] = found.get((table.name, cell.dataset), 0) + 1
    assert found == SHAPES
    for table in TABLES.values():
        for dataset in table.axis("dataset"):
            cells = [cell for cell in table.values if cell.dataset == dataset]
            crossed = {(a.attack, b.setting, c.metric) for a in cells for b in cells for c in cells}
            assert crossed == {cell[1:] for cell in cells}, f"{table.name} {dataset}: not every row has every column"
    assert {name: len(table.averages) for name, table in TABLES.items() if table.averages} == {
        "pipd.table1": 2 * 12,
        "pipd.table2": 7 * 2,
        "qt.table1": 2 * 4,
        "qt.table2": 2 * 10,
    }


@pytest.mark.parametrize(
    ("where", "percent"),
    [  # read off the page once more, from corners, middles and doubtful places
        (("pipd.table1", "badnets", "no_defense", "ca"), 93.58),
        (("pipd.table1", "refool", "pipd", "ca"), 94.79),
        (("pipd.table1", "wanet", "none", "asr"), 94.86),
        (("pipd.table1", "sig", "asd", "ca", "imagenet30"), 85.85),
        (("pipd.table1", AVERAGE, "pipd", "asr"), 0.43),
        (("pipd.table2", "refool", "dbd", "tpr"), 96.6),
        (("pipd.table2", "refool", "pipd", "fpr"), 0.42),
        (("pipd.table2", AVERAGE, "pipd", "tpr"), 99.95),
        (("pipd.table3", "adaptive_blend", "0.4", "tpr"), 99.76),
        (("pipd.table4", "badnets", "1", "asr"), 99.81),
        (("pipd.table4", "badnets", "2", "ca"), 94.14),
        (("pipd.table4", "badnets", "3", "ca"), 94.24),
        (("pipd.table7", "trojan_square", "0.3", "tpr"), 98.48),
        (("pipd.table8", "dynamic", "kmeans", "fpr"), 0.41),
        (("pipd.table8", "trojan_square", "bisecting_kmeans", "fpr"), 0.77),
        (("qt.table1", "issba", "ss", "auroc", "cifar100"), 36.14),
        (("qt.table2", "blended_image", "abl", "ca"), 73.65),
        (("qt.table2", "dynamic", "qt", "asr", "cifar100"), 0.02),
        (("qt.table2", AVERAGE, "dbd", "asr", "cifar100"), 100.0),
    ],
)
def test_cells_are_those_of_the_page(where: tuple[str, ...], percent: float) -> None:
    assert printed(*where) == pytest.approx(percent / 100, abs=1e-12)


def test_everything_is_a_share() -> None:
    for table, cell, value in numbers():
        assert 0 <= value <= 1, f"{table} {cell}"
        if table != "pipd.table6":
            assert value * 10_000 == pytest.approx(round(value * 10_000)), f"{table} {cell} has more than two digits"


def test_printed_averages_are_the_rows_averages() -> None:
    """To rounding; those that are cut off instead, and no others, have the footnote that says so."""
    cut = set()
    for table in TABLES.values():
        for average, printed in table.averages.items():
            rows = [
                value
                for cell, value in table.values.items()
                if (cell.dataset, *cell[2:]) == (average.dataset, *average[2:])
            ]
            mean = sum(rows) / len(rows)
            assert -1e-9 <= mean - printed + 0.5e-4 <= 1.5e-4, f"{table.name} {average}: printed {printed}, is {mean}"
            if mean - printed > 0.5e-4 + 1e-9:
                cut.add((table.name, average))
    noted = {
        (table.name, cell)
        for table in TABLES.values()
        for cell in table.averages
        if "cut-averages" in [note.name for note in table.notes([cell])]
    }
    assert cut == noted
    assert len(cut) == 7


def on_grid(value: float, images: int) -> bool:
    """Whether a rate over so many images can be printed like this."""
    return abs(round(value * images) / images - value) <= 0.5e-4 + 1e-9


def test_rates_that_2500_images_cannot_give_have_a_footnote() -> None:
    """At 5 % of 50,000 images a TPR is a multiple of 1/2500; anomalies 2 and 3, and what we found besides."""
    for name in ("pipd.table2", "pipd.table3", "pipd.table8"):
        table = TABLES[name]
        for cell, value in table.values.items():
            noted = {note.name for note in table.notes([cell])} & {"other-set", "off-grid"}
            if cell.metric == "tpr":
                assert on_grid(value, 2500) != bool(noted), f"{name} {cell} {value}"
    for attack, setting in (("sig", "dbd"), ("label_consistent", "dbd"), ("label_consistent", "asd")):
        assert on_grid(printed("pipd.table2", attack, setting, "tpr"), 2500)
        assert not on_grid(printed("pipd.table2", attack, setting, "tpr") + 0.0001, 2500), "the grid is coarse"


def implied_rate(attack: str, defense: str) -> float:
    """The poison rate at which TPR and FPR make half of the set."""
    tpr, fpr = (printed("pipd.table2", attack, defense, metric) for metric in ("tpr", "fpr"))
    return (0.5 - fpr) / (tpr - fpr)


def test_the_anomalies_follow_from_the_numbers() -> None:
    for attack, defense in (("sig", "dbd"), ("label_consistent", "dbd"), ("label_consistent", "asd")):
        assert 0.0498 - 5e-5 <= implied_rate(attack, defense) <= 0.0502 + 5e-5  # anomaly 2
    for attack, defense in (("badnets", "dbd"), ("badnets", "asd"), ("sig", "asd")):
        assert implied_rate(attack, defense) == pytest.approx(0.046, abs=2e-4)  # anomaly 3
    shares = {"badnets": 5.4, "blended_random": 5, "sig": 5, "dynamic": 6, "trojan_square": 6.5}
    for attack, percent in {**shares, "label_consistent": 6, "refool": 5}.items():  # anomaly 1
        tpr, fpr = (printed("pipd.table2", attack, "abl", metric) for metric in ("tpr", "fpr"))
        assert 0.05 * tpr + 0.95 * fpr == pytest.approx(percent / 100, abs=5e-4)


def test_all_eight_anomalies_stand_at_cells_that_exist() -> None:
    notes = {note.name: note for table in TABLES.values() for note in table.footnotes}
    assert sorted(note.anomaly for note in notes.values() if note.anomaly) == list(range(1, 9))
    for note in notes.values():
        for place in note.at:
            table = TABLES[place.table]
            cells = [*table.values, *table.averages]
            assert not cells or any(place.holds(cell) for cell in cells), f"{note.name}: {place} is nowhere"


def test_a_footnote_concerns_its_cells_and_no_others() -> None:
    table = TABLES["qt.table2"]
    asr, acc = (Cell("cifar100", "badnets", "abl", metric) for metric in ("asr", "ca"))
    assert [note.anomaly for note in table.notes([asr])] == [7]
    assert table.notes([acc]) == ()
    assert [note.anomaly for note in table.notes([acc._replace(dataset="cifar10")])] == [5]
    assert Where("qt.table2", metric="asr").holds(asr)
    assert not Where("qt.table2", metric="asr", attack="issba").holds(asr)


def test_names_are_ours() -> None:
    for table, cell, _ in numbers():
        assert cell.attack in ATTACKS or cell.attack == AVERAGE, f"{table}: {cell.attack}"
        assert cell.metric in names.METRICS or table == "pipd.table6", f"{table}: {cell.metric}"
    assert len(TABLES["pipd.table8"].axis("setting")) == 4
    assert set(TABLES["pipd.table8"].axis("setting")) < set(CLUSTERINGS)
    ours = {"no_defense", "pipd", "qt"}
    assert ours <= set(DEFENSES)
    assert ours <= {cell.setting for table in TABLES.values() for cell in table.values}


def test_the_group_of_table_6_is_table_6() -> None:
    ours = {name.partition(":")[0]: rate for name, rate in expand(PIPD_TABLE6, "cifar10")}
    table = TABLES["pipd.table6"]
    assert len(ours) == 9
    assert ours == {cell.attack: value for cell, value in table.values.items() if cell.metric == "poison_rate"}
    one = TABLES["pipd.table1"]
    assert {cell.attack: one.rate(cell) for cell in one.values if cell.dataset == "cifar10"} == ours


def test_rates() -> None:
    assert TABLES["pipd.table7"].rate(Cell("cifar10", "badnets", "0.3", "tpr")) == 0.3
    assert TABLES["qt.table1"].rate(Cell("cifar100", "badnets", "qt", "auroc")) == 0.05
    assert TABLES["pipd.table4"].rate(Cell("cifar10", "badnets", "1", "ca")) == 0.2


def test_every_ablation_has_its_table() -> None:
    assert {space: {table.name for table in load_tables(space)} for space in SPACES} == SPACES
    assert load_tables("pipd.channel_statistic") == (), "no paper reports it"
    assert {space for table in TABLES.values() for space in table.spaces} == set(SPACES)
    for table in TABLES.values():
        assert table.values or table.said, f"{table.name} says nothing"


def test_numbers_of_a_space_are_those_of_its_table() -> None:
    (rounds,) = (table for table in load_tables("pipd.rounds") if table.values)
    assert len(rounds.values) == 5 * 8
    assert rounds.values[Cell("cifar10", "badnets", "1", "asr")] == 0.9981
    (models,) = load_tables("qt.table2")
    assert [models.images(name) for name in ("cifar10", "cifar100", "digits")] == ["cifar10", "cifar100", "cifar10"]
    assert not any(table.values for table in load_tables("qt.pre_quarantine"))


def test_figures_state_what_the_text_states() -> None:
    (first,) = [said for said in TABLES["pipd.figure4"].said if said.value is not None]
    assert (first.value, first.relation, first.metric, first.setting) == (0.3, "about", "fpr", "1")


def test_the_differences_of_the_text_are_those_of_the_tables() -> None:
    def average(setting: str, metric: str, dataset: str = "cifar10", table: str = "pipd.table2") -> float:
        return printed(table, AVERAGE, setting, metric, dataset)

    assert average("pipd", "tpr") - average("abl", "tpr") == pytest.approx(0.0931)  # Section 5.3
    assert average("pipd", "tpr") - average("dbalfa", "tpr") == pytest.approx(0.0212)
    assert average("abl", "fpr") - average("pipd", "fpr") == pytest.approx(0.0101)
    for dataset, gain in (("cifar10", 0.0021), ("cifar100", -0.0001)):  # Section IV.B.2
        assert average("qt", "ca", dataset, "qt.table2") - average(
            "no_defense", "ca", dataset, "qt.table2"
        ) == pytest.approx(gain)


def test_the_file_goes_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "analysis/*.toml" in project["tool"]["setuptools"]["package-data"]["study"]
    assert Path(paper_numbers.__file__).with_name("paper_numbers.toml").is_file()
