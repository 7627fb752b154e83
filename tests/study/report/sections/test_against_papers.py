"""Our numbers beside the papers': the right cells, the right difference, and no claim that they do not bear."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from written_study import Metrics, write_study

from study.analysis.results import Results, read_results
from study.report.elements import Note, Section, Table
from study.report.sections import against_papers

Found = Mapping[tuple[str, float, int], Metrics]


def cells(*attacks: str, rate: float = 0.05, seeds: tuple[int, ...] = (0, 1), **metrics: float) -> Found:
    usual = {"tpr": 0.9, "fpr": 0.125, "auroc": 0.75, "ca": 0.875, "asr": 0.25} | metrics
    return {(attack, rate, seed): usual for attack in attacks for seed in seeds}


def table(section: Section | None, name: str) -> dict[tuple[object, object], dict[str, object]]:
    """Rows of a table by attack and setting; the columns of a metric as ``tpr paper``, ``tpr``, ``tpr difference``."""
    assert section is not None
    (found,) = [item for item in section.items if isinstance(item, Table) and item.name == name]
    header = list(found.header)
    for at, column in enumerate(header):
        if column.endswith(" paper") and at > 3:
            metric = column.removesuffix(" paper").lower()
            header[at : at + 3] = [f"{metric} paper", metric, f"{metric} difference"]
    assert all(len(row) == len(header) for row in found.rows)
    return {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in found.rows}


def notes(section: Section | None, kind: str) -> str:
    assert section is not None
    return "\n".join(item.text for item in section.items if isinstance(item, Note) and item.kind == kind)


def study(out: Path, *trials: Found, values: tuple[float, ...] = (), **options: object) -> Results:
    scored = values or tuple(0.5 for _ in trials)
    write_study(out / "mine", list(zip(scored, trials, strict=True)), **options)  # type: ignore[arg-type]
    return read_results(out, "mine")


def test_main_table_has_the_paper_s_number_ours_and_the_difference(tmp_path: Path) -> None:
    found = against_papers.section(study(tmp_path, cells("badnets", "wanet")), "pipd.table1")
    rows = table(found, "pipd-table1")
    row = rows["badnets", "pipd"]
    assert row["ca paper"] == 0.9463
    assert (row["ca"], row["ca difference"]) == (0.875, "-0.071")
    assert (row["asr paper"], row["asr"], row["asr difference"]) == (0.0073, 0.25, "+0.243")
    assert (row["rate paper"], row["seeds"]) == ("0.05", 2)
    undefended = rows["badnets", "no_defense"]
    assert (undefended["ca paper"], undefended["ca"]) == (0.9358, 0.95)
    assert (undefended["asr paper"], undefended["asr"]) == (1.0, 1.0)
    mean = rows["mean of these 2", "pipd"]
    assert mean["ca paper"] == pytest.approx((0.9463 + 0.9448) / 2)
    assert {setting for _, setting in rows} == {"pipd", "no_defense"}, "what we did not run is not ours to show"


def test_it_names_its_scale_and_claims_no_reproduction(tmp_path: Path) -> None:
    found = against_papers.section(study(tmp_path, cells("badnets")), "pipd.table1")
    assert found is not None
    assert found.lead.startswith("Ours at preset smoke (digits, a network of width 16): not the scale of PIPD's paper")
    assert "claims no reproduction" in found.lead
    assert "Ours minus the paper's, mean: ASR +0.243, CA -0.071." in found.lead
    assert found.title == "Table 1 of PIPD, and ours"
    missing = "Table 1 has these too, without a number of ours: trojan_square, blended_random"
    assert missing in notes(found, "warning")
    assert "trojan_watermark" not in notes(found, "warning"), "that one stands with ImageNet"


def test_only_the_paper_s_scale_claims_the_paper_s_scale(tmp_path: Path) -> None:
    found = against_papers.section(study(tmp_path, cells("badnets"), preset="paper", space="qt"), "qt.table2")
    assert found is not None
    assert "the paper's images, network and epochs" in found.lead
    other = against_papers.section(
        study(tmp_path / "b", cells("badnets"), preset="paper", dataset="digits"), "qt.table2"
    )
    assert other is not None
    assert "claims no reproduction" in other.lead


def test_the_part_of_the_same_images_is_taken(tmp_path: Path) -> None:
    found = against_papers.section(study(tmp_path, cells("badnets"), space="qt", dataset="cifar100"), "qt.table1")
    row = table(found, "qt-table1")["badnets", "qt"]
    assert (row["auroc paper"], row["auroc"], row["rate paper"]) == (1.0, 0.75, "0.05")
    assert "sig" not in notes(found, "warning"), "QT has no SIG on CIFAR-100"


def test_rounds_are_matched_by_trial(tmp_path: Path) -> None:
    trials = [cells("badnets", "dynamic", rate=0.2, fpr=fpr, asr=asr) for fpr, asr in ((0.01, 0.0), (0.5, 0.75))]
    results = study(tmp_path, *trials, points={0: {}, 1: {"rounds": 1}})
    found = against_papers.section(only(results, "rounds"), "pipd.rounds")
    rows = table(found, "pipd-table4")
    assert set(rows) == {("badnets", "1"), ("dynamic", "1"), ("mean of these 2", "1")}, "eight rounds stand nowhere"
    assert (rows["badnets", "1"]["asr paper"], rows["badnets", "1"]["asr"]) == (0.9981, 0.75)
    said = table_rows(found, "pipd-figure4-said")
    assert (said[0][1], said[0][2]) == ("about 0.3", pytest.approx(0.5))
    assert "other rate for Table 4" in notes(found, "footnote")


def only(results: Results, field: str, **columns: list[object]) -> Results:
    """As a study of an ablation, which varies this field alone."""
    frame = results.trials.assign(**columns)
    return replace(results, trials=frame, ranges={field: results.ranges.get(field)})  # type: ignore[dict-item]


def table_rows(section: Section | None, name: str) -> tuple[tuple[object, ...], ...]:
    assert section is not None
    return next(item.rows for item in section.items if isinstance(item, Table) and item.name == name)


@pytest.mark.parametrize(
    ("space", "field", "values", "name", "cell", "paper"),
    [
        ("pipd.fault_ratio", "fault_ratio", [0.0, 0.4], "pipd-table3", ("trojan_square", "0.4", "fpr"), 0.0001),
        (
            "pipd.clustering",
            "clustering",
            ["fisher_jenks", "kmeans"],
            "pipd-table8",
            ("dynamic", "kmeans", "fpr"),
            0.0041,
        ),
    ],
)
def test_other_ablations_are_matched_by_their_field(
    tmp_path: Path,
    space: str,
    field: str,
    values: list[object],
    name: str,
    cell: tuple[str, str, str],
    paper: float,
) -> None:
    results = study(tmp_path, *(cells("dynamic", "trojan_square", fpr=fpr) for fpr in (0.25, 0.5)))
    rows = table(against_papers.section(only(results, field, **{field: values}), space), name)
    attack, setting, metric = cell
    assert rows[attack, setting][f"{metric} paper"] == paper
    assert rows[attack, setting][metric] == 0.5
    assert {at for _, at in rows} <= set(map(str, values))


def test_poison_rates_are_matched_by_scenario(tmp_path: Path) -> None:
    found = {
        **cells("badnets", rate=0.1, fpr=0.25),
        **cells("badnets", rate=0.3, fpr=0.5),
        **cells("badnets", rate=0.4),
    }
    section = against_papers.section(study(tmp_path, found), "pipd.poison_rate")
    rows = table(section, "pipd-table7")
    assert set(rows) == {("badnets", "0.1"), ("badnets", "0.3")}
    assert (rows["badnets", "0.3"]["fpr paper"], rows["badnets", "0.3"]["fpr"]) == (0.01, 0.5)
    assert "rate is not the paper's" not in notes(section, "warning")


def test_footnotes_are_those_of_the_rows_that_are_shown(tmp_path: Path) -> None:
    results = study(tmp_path, cells("badnets", "sig", "label_consistent", rate=0.08))
    section = against_papers.section(results, "pipd.table2")
    rows = table(section, "pipd-table2")
    assert [rows[attack, "pipd"]["see"] for attack in ("badnets", "sig", "label_consistent")] == ["", "1", "1"]
    told = notes(section, "footnote")
    assert told.startswith("[1] The rows of SIG and CL mean a poison rate of about 5 %")
    assert "[2]" not in told
    assert "The poison rate is not the paper's on badnets:" in notes(section, "warning")


def test_figures_are_told_in_the_paper_s_words(tmp_path: Path) -> None:
    section = against_papers.section(study(tmp_path, cells("badnets"), space="qt"), "qt.fixed_epsilon")
    assert section is not None
    assert "No number of ours stands beside one of the paper's." in section.lead
    ((text, number, ours),) = table_rows(section, "qt-figure4-said")
    assert str(text).startswith("fixed at 0.9 it works on SIG only")
    assert (number, ours) == (None, None)
    assert "What 10 % means for a clean-label attack is open" in notes(section, "footnote")


def test_limits_are_told(tmp_path: Path) -> None:
    first = cells("badnets", "wanet", seeds=(0,), ca=0.5)
    second = cells("badnets", "wanet", seeds=(0,), ca=0.75)
    results = study(tmp_path, first, second, values=(0.1, 0.9), default=False, failed=[("wanet", 0.05, 0)])
    section = against_papers.section(results, "pipd.table1")
    told = notes(section, "warning")
    assert "One seed only" in told
    assert "Ours is the best of 2 trials by overall score, trial 1, not the paper's hyperparameters" in told
    assert "Left out, since the attack failed undefended: wanet-0.05-s0." in told
    assert table(section, "pipd-table1")["badnets", "pipd"]["ca"] == 0.75


def test_a_study_without_results_of_the_table_says_so(tmp_path: Path) -> None:
    section = against_papers.section(study(tmp_path, cells("issba")), "pipd.table2")
    assert section is not None
    assert "No number of ours stands beside one of the paper's." in section.lead
    assert not any(isinstance(item, Table) for item in section.items)


def test_undefined_metrics_are_dashes(tmp_path: Path) -> None:
    found = {("badnets", 0.05, seed): {"tpr": 1.0, "fpr": 0.0} for seed in (0, 1)}
    row = table(against_papers.section(study(tmp_path, found), "pipd.table1"), "pipd-table1")["badnets", "pipd"]
    assert (row["ca paper"], row["ca"], row["ca difference"]) == (0.9463, None, None)


def test_no_paper_asks_it(tmp_path: Path) -> None:
    results = study(tmp_path, cells("badnets"))
    assert against_papers.section(results, "pipd.channel_statistic") is None
    assert against_papers.section(results, "pipd") is None


@pytest.mark.parametrize("space", ["pipd.rounds", "pipd.table1", "pipd.poison_rate"])
def test_a_study_without_a_complete_trial(space: str, tmp_path: Path) -> None:
    write_study(tmp_path / "mine", [(None, cells("badnets"))])
    section = against_papers.section(read_results(tmp_path, "mine"), space)
    assert section is not None
    assert "No number of ours stands beside one of the paper's." in section.lead
