"""The papers' ablations as studies: what each asks for, that each runs, and that presets leave them what they are."""

from pathlib import Path
from typing import Any

import pytest
from small_study import TINY_PIPD, save_npz, small_plan

from search_spaces import SEARCH_SPACES
from study.attacks.groups import PIPD_TABLE2, PIPD_TABLE6, expand
from study.config.config import PRESETS, StudyConfig, resolve
from study.config.paper_deviations import changes_line, preset_changes
from study.datasets.images import Images
from study.planning.dry_run import describe
from study.planning.plan import build_scenarios
from study.report.sections.ablations import VIEWS
from study.scenarios.evaluation import evaluate_scenario
from study.scenarios.oracle_defenses import find_defense

FOUR = ["badnets", "blended_random", "trojan_square", "dynamic"]
THREE = ["badnets", "sig:rate_base=class", "issba"]
QT_SEVEN = ["badnets", "trojan_square", "blended_image", "blended_random", "dynamic", "issba", "sig:rate_base=class"]
TABLE6_RATES = {"sig:cap=true": 0.08, "label_consistent:cap=true": 0.08}

# Attacks and rates as the tables and the text around them have them; the values of what is varied; flags alone or not.
EXPECTED: dict[str, tuple[list[str], list[float], dict[str, set[Any]], bool]] = {
    "pipd.table1": (
        [*FOUR, "sig:cap=true", "label_consistent:cap=true", "wanet", "adaptive_blend", "refool"],
        [],
        {},
        False,
    ),
    "pipd.table2": ([*FOUR, "sig:cap=true", "label_consistent:cap=true", "refool"], [], {}, True),
    "pipd.fault_ratio": ([*FOUR, "adaptive_blend"], [0.05], {"fault_ratio": {0.0, 0.2, 0.4, 0.6, 0.8}}, True),
    "pipd.rounds": (FOUR, [0.2], {"rounds": {1, 2, 3, 4, 5, 8}}, False),
    "pipd.selective_vs_unlearning": (FOUR, [0.05], {"cleaning": {"selective", "unlearning"}}, False),
    "pipd.poison_rate": (FOUR, [0.05, 0.1, 0.15, 0.2, 0.3], {}, True),
    "pipd.clustering": (
        FOUR,
        [0.05],
        {"clustering": {"fisher_jenks", "kmeans", "bisecting_kmeans", "minibatch_kmeans"}},
        True,
    ),
    "pipd.channel_statistic": (
        [*FOUR, "sig:cap=true", "label_consistent:cap=true", "wanet", "adaptive_blend", "refool"],
        [],
        {"channel_statistic": {"max", "mean"}},
        True,
    ),
    "qt.table1": (QT_SEVEN, [0.1], {}, True),
    "qt.table2": (QT_SEVEN, [0.1], {}, False),
    "qt.backdoor_class": (THREE, [0.1], {}, False),
    "qt.pre_quarantine": (
        THREE,
        [0.1],
        {"pre_quarantine_model": {True, False}, "pre_quarantine_ratio": {0.1, 0.0}},
        True,
    ),
    "qt.fixed_epsilon": (THREE, [0.1], {"epsilon_schedule": {"linear", "fixed"}}, True),
    "qt.poison_rate": (["badnets", "blended_image", "dynamic"], [0.01, 0.05, 0.1, 0.2], {}, True),
}
ABLATIONS = [name for name in SEARCH_SPACES if SEARCH_SPACES[name].paper]

TINY: dict[str, dict[str, str]] = {
    "pipd": {**TINY_PIPD, "isolation_rate": "0.05"},
    "pipd_fault_ratio": {**TINY_PIPD, "isolation_rate": "0.05"},
    "pipd_cleaning": {
        **TINY_PIPD,
        "isolation_rate": "0.05",
        "finetuning_epochs": "1",
        "finetuning_lr": "0.01",
        "unlearning_epochs": "2",
    },
    "qt": {"pre_epochs": "1", "quarantine_epochs": "2", "backdoor_free_epochs": "1", "batch_size": "32"},
    "qt_backdoor_class": {"epochs": "2", "batch_size": "32", "lr": "0.01"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, images: Images) -> str:
    return save_npz(tmp_path_factory.mktemp("images") / "data.npz", images)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all ablations, as a user's studies share theirs."""
    return tmp_path_factory.mktemp("store")


def test_nothing_is_left_out() -> None:
    assert set(ABLATIONS) == set(EXPECTED) == set(VIEWS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_asks_what_its_table_shows(name: str, preset: str) -> None:
    attacks, rates, values, flags_only = EXPECTED[name]
    config, space = resolve(StudyConfig, {"space": name, "preset": preset}), SEARCH_SPACES[name]
    scenarios = build_scenarios(config)
    wanted = {(attack, rate) for attack in attacks for rate in (rates or [TABLE6_RATES.get(attack, 0.05)])}
    assert {(scenario.attack, scenario.poison_rate) for scenario in scenarios} == wanted
    assert {field: set(found.options) for field, found in space.ranges.items()} == values
    assert (config.until == "isolate") == flags_only
    assert config.sampler == "grid"
    default = space.default(find_defense(space.defense).config_type())
    assert all(default[field] in values[field] for field in values), "the paper's own setting is one of the grid's"


def test_attacks_are_those_of_the_papers_main_tables() -> None:
    assert {name for name, _ in expand(("pipd_table2",), "cifar10")} == {
        name for name, _ in expand(PIPD_TABLE6, "cifar10") if not name.startswith(("wanet", "adaptive"))
    }
    assert len(PIPD_TABLE2) == 7
    assert {(name, 0.1) for name in THREE} <= set(expand(("qt_table1",), "cifar10"))
    assert {(name, 0.05) for name in FOUR} <= set(expand(("pipd_table6",), "cifar10"))


def test_the_user_goes_before_the_ablation_and_the_ablation_before_the_preset() -> None:
    changed = resolve(
        StudyConfig, {"space": "pipd.rounds", "preset": "small", "attacks": ["badnets"], "set": {"q": "1"}}
    )
    assert changed.attacks == ("badnets",)
    assert changed.poison_rates == (0.2,)
    kept = resolve(StudyConfig, {"space": "pipd.selective_vs_unlearning", "set": {"beta": "2"}})
    assert kept.set == {"snapshots": "true", "beta": "2"}
    undone = resolve(StudyConfig, {"space": "pipd.selective_vs_unlearning", "set": {"snapshots": "false"}})
    assert undone.set == {"snapshots": "false"}
    assert resolve(StudyConfig, {"space": "pipd"}).sampler == "tpe"


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_point_of_an_ablation_runs(name: str, dataset: str, store: Path, tmp_path: Path) -> None:
    fields = {
        field: value
        for field, value in TINY[SEARCH_SPACES[name].defense].items()
        if field not in SEARCH_SPACES[name].ranges
    }
    plan = small_plan(
        dataset, tmp_path, space=name, store=store, attacks=("badnets",), poison_rates=(0.2,), set=fields, asr_floor=0.0
    )
    assert plan.grid is not None
    points = list(plan.grid.points(0))
    assert plan.config.trials == len(points)
    told = []
    for point in points:
        config = {**plan.base, **point}
        result = evaluate_scenario(
            plan.space.defense, config, plan.scenarios[0], plan.environment, until=plan.config.until
        )
        view = VIEWS[name]
        assert all(result.metrics[metric] is not None for metric in view.metrics)
        for series in view.series:
            assert any(found == series or (series[-1] == "/" and found.startswith(series)) for found in result.series)
        told.append(result)
    if "rounds" in plan.space.ranges:
        longest = {len(result.series["isolate.fpr"]) for result in told}
        assert min(longest) == 1  # one round is one


def test_what_a_preset_changes_is_read_off_the_fields(dataset: str, tmp_path: Path) -> None:
    plan = small_plan(dataset, tmp_path, space="pipd.rounds", set={"beta": "3.0", "gamma": "0.4"})
    changes = {change.field: (change.paper, change.here) for change in plan.changes}
    assert changes["taps"] == ("convolutions", "blocks")
    assert changes["pre_isolation_epochs"] == ("200", "30")
    assert changes["gamma"] == ("0.5", "0.4")  # the user's, not the preset's
    assert changes["width"] == ("64", "4")
    assert "beta" not in changes  # said, but as in the paper
    assert "rounds" not in changes
    text = describe(plan)
    assert "It makes anew: PIPD, Fig. 4 and Table 4" in text
    assert "What preset smoke changes" in text
    assert "preset smoke changes (paper -> here): " in changes_line("smoke", plan.changes)


def test_the_paper_preset_changes_nothing() -> None:
    config = resolve(StudyConfig, {"space": "pipd.table1", "preset": "paper"})
    changes = preset_changes(config, find_defense("pipd").config_type, {})
    assert changes == []
    assert changes_line("paper", changes) == ""


def test_a_preset_s_sizes_are_at_most_on_other_data() -> None:
    def sizes(**given: Any) -> list[str]:
        config = resolve(StudyConfig, {"preset": "small", **given})
        changes = preset_changes(config, find_defense("pipd").config_type, {})
        return [change.here for change in changes if change.field.endswith("_size")]

    assert sizes() == ["10000", "2000"]
    assert sizes(dataset="npz:a.npz") == ["at most 10000", "at most 2000"]
    assert sizes(dataset="npz:a.npz", train_size=300) == ["300", "at most 2000"]
