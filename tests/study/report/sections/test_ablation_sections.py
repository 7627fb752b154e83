"""What an ablation's section shows: means and deviations by hand, what is left out, and what is said about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import pytest

from search_spaces import SEARCH_SPACES
from study.analysis.results import Results
from study.config.config import StudyConfig, resolve
from study.config.objectives import Goal
from study.ledger.manifest import Manifest
from study.report.elements import Curves, Note, Section, Table
from study.report.sections import studied, summary
from study.report.sections.ablations import VIEWS, sections
from study.scenarios.oracle_defenses import describe_defense
from tracking import names


@dataclass(frozen=True)
class Told(Results):
    """Results that hold their series instead of reading them."""

    held: Mapping[tuple[int, str], dict[str, list[float]]] = field(default_factory=dict)

    def series(self, trial: int, scenario: str) -> dict[str, list[float]]:
        return self.held.get((trial, scenario), {})


def told(
    space: str,
    points: list[dict[str, Any]],
    cells: list[dict[str, Any]],
    held: Mapping[tuple[int, str], dict[str, list[float]]] | None = None,
    **options: Any,
) -> Told:
    """A study's results: a point a trial, and cells with ``trial``, ``attack``, ``seed`` and metrics."""
    config = resolve(StudyConfig, {"space": space, **options})
    rows = []
    for cell in cells:
        rate = cell.get("poison_rate", 0.05)
        scenario = f"{cell['attack']}-{rate}-s{cell.get('seed', 0)}"
        of_cell = {"poison_rate": rate, "seed": 0, "scenario": scenario, "attack_failed": False, **cell}
        of_cell |= {"repeat": 0, "poisoning": scenario}
        rows.append({**dict.fromkeys(names.METRICS, float("nan")), "stratum": scenario.rpartition("-s")[0], **of_cell})
    trials = pandas.DataFrame(
        [
            {"number": n, "state": "complete", "paper_default": n == 0, "calibrated": False, "value": 1.0, **point}
            for n, point in enumerate(points)
        ]
    ).set_index("number")
    found = SEARCH_SPACES[space]
    ranges = {name: found.ranges[name] for name in points[0] if name in found.ranges}
    return Told(
        "mine",
        Path(),
        Manifest(config.identity, (), config.model_dump(mode="json")),
        space,
        found.defense,
        ranges,
        Goal(("isolation_score",), "mean"),
        trials,
        pandas.DataFrame(rows),
        pandas.DataFrame(),
        command="python -m study.run as it was",
        held=held or {},
    )


def only(found: list[Section]) -> Section:
    assert len(found) == 1
    return found[0]


def table_of(section: Section) -> Table:
    return next(item for item in section.items if isinstance(item, Table))


def notes_of(section: Section) -> str:
    return " ".join(item.text for item in section.items if isinstance(item, Note))


def test_a_space_that_is_searched_has_no_table() -> None:
    assert sections(told("pipd", [{"beta": 3.0}], [{"trial": 0, "attack": "badnets"}])) == []


def test_means_and_deviations_over_seeds_in_the_order_of_the_options() -> None:
    cells = [
        {"trial": trial, "attack": attack, "seed": seed, "tpr": tpr, "fpr": 0.0}
        for trial, attack, seed, tpr in [
            (0, "badnets", 0, 1.0),
            (0, "badnets", 1, 0.5),
            (1, "badnets", 0, 0.25),
            (1, "badnets", 1, 0.75),
            (0, "trojan_square", 0, 1.0),
            (1, "trojan_square", 0, 0.0),
        ]
    ]
    # Trial 0 has the second option: rows follow the options, and not the order in which trials ran.
    section = only(sections(told("pipd.clustering", [{"clustering": "kmeans"}, {"clustering": "fisher_jenks"}], cells)))
    table = table_of(section)
    assert table.header == ("attack", "clustering", "TPR", "FPR", "failed runs")
    assert table.rows == (
        ("badnets", "fisher_jenks", "0.500 ± 0.354", "0.000 ± 0.000", "1 of 2"),
        ("badnets", "kmeans", "0.750 ± 0.354", "0.000 ± 0.000", "0 of 2"),
        ("trojan_square", "fisher_jenks", 0.0, 0.0, "1 of 1"),
        ("trojan_square", "kmeans", 1.0, 0.0, "0 of 1"),
    )
    assert "fisher_jenks: TPR 0.333, FPR 0.000; kmeans: TPR 0.833, FPR 0.000" in section.lead
    assert section.name == "pipd-clustering"
    assert section.command == "python -m study.run as it was"


def test_rates_are_the_settings_of_a_table_by_rate() -> None:
    cells = [{"trial": 0, "attack": "badnets", "poison_rate": rate, "tpr": 1.0, "fpr": 0.1} for rate in (0.05, 0.3)]
    table = table_of(only(sections(told("pipd.poison_rate", [{}], cells))))
    assert table.header == ("attack", "poison rate", "TPR", "FPR")
    assert table.rows == (("badnets", "0.05", 1.0, 0.1), ("badnets", "0.3", 1.0, 0.1))


def test_an_attack_at_two_rates_is_two_rows() -> None:
    cells = [
        {"trial": 0, "attack": attack, "poison_rate": rate, "tpr": value, "fpr": 0.0}
        for attack, rate, value in (("badnets", 0.05, 0.9), ("badnets", 0.1, 0.7), ("dynamic", 0.1, 0.5))
    ]
    section = only(sections(told("pipd.table2", [{}], cells)))
    assert section.lead.startswith("Mean over 2 attacks")
    rows = table_of(section).rows
    assert [(row[0], row[2]) for row in rows] == [("badnets at 0.05", 0.9), ("badnets at 0.1", 0.7), ("dynamic", 0.5)]


def test_series_of_an_attack_at_two_rates_are_two_figures_with_names_for_links() -> None:
    cells = [{"trial": 0, "attack": "badnets", "poison_rate": rate} for rate in (0.05, 0.1)]
    held = {(0, f"badnets-{rate}-s0"): {"quarantine_training.tpr": [0.1, 0.2]} for rate in (0.05, 0.1)}
    section = only(sections(told("qt.fixed_epsilon", [{"epsilon_schedule": "linear"}], cells, held)))
    names = [item.name for item in section.items if isinstance(item, Curves)]
    assert names == ["qt-fixed-epsilon-badnets-at-0-05-tpr", "qt-fixed-epsilon-badnets-at-0-1-tpr"]


def test_counts_are_not_drawn_as_shares() -> None:
    cells = [{"trial": 0, "attack": "badnets"}]
    series = {"quarantine_training.tpr": [0.5, 1.0], "quarantine_training.released_classes": [0.0, 3.0]}
    section = only(
        sections(told("qt.fixed_epsilon", [{"epsilon_schedule": "linear"}], cells, {(0, "badnets-0.05-s0"): series}))
    )
    found = {item.y_label: item.y_range for item in section.items if isinstance(item, Curves)}
    assert list(found.values()) == [(0.0, 1.0), None]


def test_a_table_of_models_shows_plain_training_too() -> None:
    cells = [{"trial": 0, "attack": "sig:cap=true", "ca": 0.9, "asr": 0.1, "ca_undefended": 0.8, "asr_undefended": 1.0}]
    table = table_of(only(sections(told("pipd.table1", [{}], cells))))
    assert table.header == ("attack", "setting", "CA", "ASR")
    assert table.rows == (("sig", "no_defense", 0.8, 1.0), ("sig", "pipd", 0.9, 0.1))


def test_a_failed_attack_is_left_out_and_named() -> None:
    cells = [
        {"trial": 0, "attack": "badnets", "tpr": 1.0, "fpr": 0.0},
        {"trial": 0, "attack": "refool", "tpr": 0.0, "fpr": 1.0, "attack_failed": True},
    ]
    section = only(sections(told("pipd.table2", [{}], cells)))
    assert table_of(section).rows == (("badnets", "pipd", 1.0, 0.0), ("refool", "pipd", None, None))
    assert "The attack failed (undefended ASR below 0.9) on refool-0.05-s0" in notes_of(section)
    assert section.lead == "Mean over 1 attack by setting. pipd: TPR 1.000, FPR 0.000."


def test_nothing_is_drawn_where_no_attack_works() -> None:
    cells = [{"trial": 0, "attack": "badnets", "attack_failed": True}]
    section = only(sections(told("pipd.table2", [{}], cells)))
    assert "nothing to compare" in section.lead
    assert all(isinstance(item, Note) for item in section.items)


def test_trials_that_are_not_complete_do_not_count() -> None:
    cells = [{"trial": trial, "attack": "badnets", "tpr": tpr, "fpr": 0.0} for trial, tpr in [(0, 1.0), (1, 0.0)]]
    results = told("pipd.clustering", [{"clustering": "kmeans"}, {"clustering": "fisher_jenks"}], cells)
    results.trials.loc[1, "state"] = "running"
    section = only(sections(results))
    assert table_of(section).rows == (("badnets", "kmeans", 1.0, 0.0),)
    assert "1 of 2 trials are not complete" in notes_of(section)


def test_rounds_are_drawn_over_their_number() -> None:
    cells = [
        {"trial": trial, "attack": "badnets", "seed": seed, "fpr": fpr, "tpr": 1.0, "ca": 0.9, "asr": 0.0}
        for trial, values in enumerate([(0.1, 0.3), (0.4, 0.4)])
        for seed, fpr in enumerate(values)
    ]
    section = only(sections(told("pipd.rounds", [{"rounds": 8}, {"rounds": 1}], cells)))
    figures = {item.name: item for item in section.items if isinstance(item, Curves)}
    assert set(figures) == {"pipd-rounds-fpr", "pipd-rounds-tpr", "pipd-rounds-ca", "pipd-rounds-asr"}
    (line,) = figures["pipd-rounds-fpr"].lines
    assert (line.label, line.x) == ("badnets", (1.0, 8.0))
    assert line.y == pytest.approx((0.4, 0.2))
    assert line.low == pytest.approx((0.4, 0.2 - 0.02**0.5))
    assert line.high == pytest.approx((0.4, 0.2 + 0.02**0.5))


def test_series_are_drawn_step_by_step_and_cut_to_the_shortest() -> None:
    cells = [
        {"trial": trial, "attack": "badnets", "seed": seed, "ca": 0.9, "asr": 0.0}
        for trial in (0, 1)
        for seed in (0, 1)
    ]
    held = {
        (0, "badnets-0.05-s0"): {"cleaning.ca": [0.5, 0.7, 0.9], "cleaning.loss": [1.0]},
        (0, "badnets-0.05-s1"): {"cleaning.ca": [0.7, 0.9]},
        (1, "badnets-0.05-s0"): {"cleaning.ca": [1.0, 0.0]},
    }
    points = [{"cleaning": "selective"}, {"cleaning": "unlearning"}]
    section = only(sections(told("pipd.selective_vs_unlearning", points, cells, held)))
    (figure,) = (item for item in section.items if isinstance(item, Curves))
    assert (figure.name, figure.x_label) == ("pipd-selective-vs-unlearning-badnets-ca", "epochs of cleaning done")
    first, second = figure.lines
    assert (first.label, first.x, first.y) == ("selective", (0.0, 1.0), pytest.approx((0.6, 0.8)))
    assert first.low is not None
    assert (second.label, second.y, second.low) == ("unlearning", (1.0, 0.0), None)


def test_classes_are_lines_of_one_figure() -> None:
    held = {
        (0, "badnets-0.05-s0"): {
            "backdoor_class_training.loss": [3.0],
            "backdoor_class_training.loss/class_0": [2.0, 1.0],
            "backdoor_class_training.loss/backdoor": [1.0, 0.0],
            "backdoor_class_training.accuracy/backdoor": [0.5, 1.0],
        }
    }
    cells = [{"trial": 0, "attack": "badnets", "ca": 0.9, "asr": 0.0, "clean_quarantined": 0.0}]
    section = only(sections(told("qt.backdoor_class", [{}], cells, held)))
    loss, accuracy = (item for item in section.items if isinstance(item, Curves))
    assert [(line.label, line.x, line.y) for line in loss.lines] == [
        ("class_0", (1.0, 2.0), (2.0, 1.0)),
        ("backdoor", (1.0, 2.0), (1.0, 0.0)),
    ]
    assert loss.y_range is None
    assert [line.label for line in accuracy.lines] == ["backdoor"]
    assert "an experiment of the paper that knows which samples are poisoned" in notes_of(section)


def test_several_searched_fields_are_named_in_a_setting() -> None:
    points = [
        {"pre_quarantine_model": model, "pre_quarantine_ratio": ratio}
        for model in (False, True)
        for ratio in (0.0, 0.1)
    ]
    cells = [{"trial": trial, "attack": "badnets", "tpr": 0.5, "fpr": 0.0} for trial in range(4)]
    rows = table_of(only(sections(told("qt.pre_quarantine", points, cells)))).rows
    assert [row[1] for row in rows] == [
        "pre_quarantine_model=True, pre_quarantine_ratio=0.1",
        "pre_quarantine_model=True, pre_quarantine_ratio=0",
        "pre_quarantine_model=False, pre_quarantine_ratio=0.1",
        "pre_quarantine_model=False, pre_quarantine_ratio=0",
    ]


def test_scale_seeds_and_oracles_are_told() -> None:
    cells = [{"trial": 0, "attack": "badnets", "tpr": 1.0, "fpr": 0.0}]
    section = only(sections(told("pipd.table2", [{}], cells, set={"beta": "2"})))
    smoke = notes_of(section)
    assert section.uses_labels
    assert "oracle" not in smoke
    assert "One seed only" in smoke
    assert "taps convolutions -> blocks" in smoke
    assert "beta 3.0 -> 2.0" in smoke
    paper = notes_of(only(sections(told("pipd.table2", [{}], cells, preset="paper"))))
    assert "Not at the paper's scale" not in paper


@pytest.mark.parametrize("space", sorted(VIEWS))
def test_everything_is_told_of_an_instrument_as_of_a_defense(space: str) -> None:
    searched = {name: ranges.options[0] for name, ranges in SEARCH_SPACES[space].ranges.items()}
    cells = [{"trial": 0, "attack": attack, "isolation_score": 1.0} for attack in ("badnets", "dynamic")]
    table = table_of(studied.section(told(space, [searched], cells)))
    assert str(table.rows[0][1]).startswith(describe_defense(SEARCH_SPACES[space].defense))


@pytest.mark.parametrize(
    ("points", "said"), [(1, "the only trial"), (2, "tied with one other"), (3, "tied with 2 others")]
)
def test_trials_that_are_as_good_as_the_best_are_counted(points: int, said: str) -> None:
    rounds = [{"rounds": at} for at in (8, 1, 2, 3)[:points]]
    cells = [{"trial": at, "attack": "badnets", "isolation_score": 1.0} for at in range(points)]
    assert said in only(summary.sections(told("pipd.rounds", rounds, cells))).lead
