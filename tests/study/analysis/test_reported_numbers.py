"""Who reported what: every source of the file, under our names, with its scale."""

import pytest

from defenses import DEFENSES
from study.analysis.paper_numbers import AVERAGE, paper_file, paper_tables
from study.analysis.reported_numbers import Reported, reported_numbers, reported_of
from study.attacks import ATTACKS
from tracking import names

LATER = {"dbd", "asd", "cd_l", "d_st", "flare"}  # defenses that sources have under names that ours will be


def one(defense: str, attack: str, metric: str, source: str, dataset: str = "cifar10") -> Reported:
    (row,) = [
        row
        for row in reported_of(defense)
        if (row.attack, row.metric, row.dataset) == (attack, metric, dataset) and row.source.startswith(source)
    ]
    return row


def test_names_are_ours_and_values_are_shares() -> None:
    for row in reported_numbers():
        assert row.attack in ATTACKS or row.attack == AVERAGE, row
        assert row.defense in DEFENSES or row.defense in LATER, row
        assert row.metric in names.HEADLINE, row
        assert 0 <= row.value <= 1, row
        assert row.rate is None or 0 < row.rate <= 0.5, row
        assert row.source, row
    assert len(set(reported_numbers())) == len(reported_numbers())


def test_every_number_of_the_papers_tables_of_defenses_is_there() -> None:
    of_papers = {name: table for name, table in paper_tables().items() if table.varies == "defense"}
    assert set(of_papers) == {"pipd.table1", "pipd.table2", "qt.table1", "qt.table2"}
    count = sum(len(table.values) for table in of_papers.values())
    others = sum(
        sum(value == value for value in values)
        for part in paper_file()["reported"].values()
        for values in part["rows"].values()
    )
    assert len(reported_numbers()) == count + others


def test_a_row_has_the_sources_own_trigger_rate_and_network() -> None:
    row = one("dbd", "blended_random", "asr", "QT, Table 2", "cifar100")
    assert row == Reported(
        "dbd", "blended_random", "Blend(random)", 0.05, "PreActResNet-18", "cifar100", "asr", 0.9999, "QT, Table 2"
    )
    row = one("dbalfa", "badnets", "fpr", "PIPD, Table 2")
    assert (row.value, row.rate, row.network, row.trigger) == (0.0719, 0.05, "ResNet-18", "BadNets")
    assert one("scale_up", "sig", "tpr", "PIPD").rate == 0.08


@pytest.mark.parametrize(
    ("where", "percent"),
    [  # recent_defenses.md, section 7, and the seed numbers and pitfalls of baselines.md
        (("ac", "blended_random", "tpr", "FLARE"), 46.5),
        (("ibd_psc", "badnets", "tpr", "FLARE"), 98.01),
        (("ibd_psc", "trojan_square", "fpr", "FLARE"), 1.75),
        (("ibd_psc", "badnets_all_to_all", "tpr", "FLARE"), 0.15),
        (("flare", "clean", "fpr", "FLARE"), 2.89),
        (("ibd_psc", AVERAGE, "auroc", "IBD-PSC"), 99.2),
        (("ibd_psc", "badnets", "auroc", "a user of BackdoorBox", ""), 70.0),
        (("scale_up", "badnets", "tpr", "PIPD, Table 2"), 32.36),
        (("scale_up", "badnets", "tpr", "FLARE"), 94.6),
        (("scale_up", "badnets", "fpr", "FLARE"), 27.7),
        (("scale_up", "badnets", "auroc", "users of BackdoorBox"), 45.0),
        (("dbalfa", "dynamic", "tpr", "DBALFA's public code"), 99.46),
        (("dbd", "blended_random", "asr", "PIPD, Table 1"), 1.73),
        (("dbd", "blended_random", "asr", "QT, Table 2"), 0.73),
        (("dbd", "blended_random", "asr", "the authors of ASD", "imagenet30"), 100.0),
        (("cd_l", "badnets", "auroc", "QT, Table 1"), 99.89),
    ],
)
def test_numbers_are_those_of_the_sources(where: tuple[str, ...], percent: float) -> None:
    assert one(*where).value == pytest.approx(percent / 100, abs=1e-9)


def test_what_a_source_leaves_out_is_no_number() -> None:
    assert [row.metric for row in reported_of("ac") if row.attack == "clean"] == ["fpr"]
