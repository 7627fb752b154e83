"""Ours beside every source: the same attack, each with its scale, and where sources contradict each other."""

from collections.abc import Mapping
from pathlib import Path

from written_study import Metrics, write_study

from study.analysis.results import Results, read_results
from study.report.chapters import build_chapters
from study.report.elements import Note, Section, Table
from study.report.formatting import format_cell
from study.report.sections import reported_elsewhere
from study.report.sections.contents import sections

USUAL = {"tpr": 0.9, "fpr": 0.125, "auroc": 0.75, "ca": 0.875, "asr": 0.25}


def study(out: Path, space: str, *attacks: str, seeds: tuple[int, ...] = (0, 1), **options: object) -> Results:
    cells: Mapping[tuple[str, float, int], Metrics] = {
        (attack, 0.1, seed): USUAL for attack in attacks for seed in seeds
    }
    write_study(out / space, [(0.5, cells)], space=space, **options)  # type: ignore[arg-type]
    return read_results(out, space)


def told(section: Section | None) -> str:
    """Its captions, rows and notes, a line each."""
    assert section is not None
    lines = []
    for item in section.items:
        if isinstance(item, Table):
            lines += [item.caption, " | ".join(item.header), *(" | ".join(map(format_cell, row)) for row in item.rows)]
        elif isinstance(item, Note):
            lines.append(item.text)
    return "\n".join(lines)


EXPECTED = """\
On badnets
defense | source | images | network | rate | TPR | FPR | AUROC | CA | ASR
scale_up | ours (paper default, 2 seeds) | digits | resnet18, width 16, blocks 1,1,1,1 | 0.1 | 0.900 | 0.125 | 0.750 | 0.875 | 0.250
scale_up | PIPD, Table 2 (BadNets) | cifar10 | ResNet-18 | 0.05 | 0.324 | 0.325 | - | - | -
scale_up | FLARE (TIFS 2025), its comparison (BadNets) | cifar10 | ResNet-18 | not said | 0.946 | 0.277 | - | - | -
scale_up | users of BackdoorBox, issues 75 and 84 (BadNets, white square) | cifar10 | not said | not said | 0.155 | 0.195 | 0.450 | - | -
ac | ours (paper default, 2 seeds) | digits | resnet18, width 16, blocks 1,1,1,1 | 0.1 | 0.900 | 0.125 | 0.750 | 0.875 | 0.250
ac | QT, Table 1 (BadNets) | cifar10 | PreActResNet-18 | 0.1 | - | - | 0.891 | - | -
ac | QT, Table 1 (BadNets) | cifar100 | PreActResNet-18 | 0.05 | - | - | 0.815 | - | -
ac | FLARE (TIFS 2025), its comparison, as notesum.ai quotes it (BadNets) | cifar10 | ResNet-18 | not said | 0.000 | 0.002 | - | - | -
Sources contradict each other on scale_up and badnets: TPR is 0.155 in users of BackdoorBox, issues 75 and 84 on cifar10 and 0.946 in FLARE (TIFS 2025), its comparison on cifar10."""  # noqa: E501


def test_ours_stands_beside_every_source_with_the_scale_of_each(tmp_path: Path) -> None:
    section = reported_elsewhere.section([study(tmp_path, "scale_up", "badnets"), study(tmp_path, "ac", "badnets")])
    assert told(section) == EXPECTED
    assert section is not None
    assert section.uses_labels
    (table,) = [item for item in section.items if isinstance(item, Table)]
    assert table.strong == (0, 4), "ours"


def test_columns_without_a_number_are_left_out_and_averages_are_a_table_of_sources(tmp_path: Path) -> None:
    text = told(reported_elsewhere.section([study(tmp_path, "ibd_psc", "trojan_square", until="isolate")]))
    average = text.split("On average over a source's own attacks\n")[1]
    assert average.splitlines()[0] == "defense | source | images | network | rate | AUROC"
    assert "0.992" in average
    assert "ours" not in average


def test_a_report_of_several_has_it_once_and_one_of_pipd_or_qt_alone_does_not(tmp_path: Path) -> None:
    pipd, baseline = study(tmp_path, "pipd", "badnets"), study(tmp_path, "scale_up", "badnets")
    several = build_chapters([pipd, baseline])
    assert [section.name for section in several[0].sections][-1] == "reported"
    text = told(several[0].sections[-1])
    assert "pipd | ours (paper default, 2 seeds)" in text
    assert "pipd | PIPD, Table 1 (BadNets-Grid) | imagenet30" in text, "its own paper's numbers too, to compare with"
    assert "reported" not in {section.name for section in sections(pipd)}
    assert "reported" in {section.name for section in sections(baseline)}
    assert reported_elsewhere.section([study(tmp_path / "b", "scale_up", "adaptive_patch")]) is None
