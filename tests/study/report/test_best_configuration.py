"""The best configuration as a file: `study.evaluate` makes the very same cell of it."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from desk import Desk, judged
from small_study import save_npz, small_plan

from study.config.config import CommonConfig, resolve
from study.datasets.images import Images
from study.evaluate import EvaluateConfig
from study.planning.plan import build_evaluation_context, build_scenario, fixed_fields
from study.report.best_configuration import best_configuration
from study.scenarios.oracle_defenses import find_defense


@pytest.fixture
def desk(tmp_path: Path, images: Images) -> Desk:
    """A study with options of its own, whose first attack fails and whose second trial is the best."""
    dataset = save_npz(tmp_path / "data.npz", images)
    options = {"attacks": ("badnets", "blended_random:alpha=0.3"), "poison_rates": (0.2,), "seeds": (4,), "width": 8}
    plan = small_plan(dataset, tmp_path / "out", target_label="1", asr_floor=0.8, **options)
    folder = tmp_path / "study"
    folder.mkdir()
    desk = Desk(plan, folder)
    desk.ledger.enqueue_default(plan.default_point)
    desk.trial(judged(0.5, 0.0, 0.5, 0.5), judged(0.5, 0.0, 0.5, 0.5), failed=(plan.scenarios[0].name,))
    desk.trial(judged(1.0, 0.0, 1.0, 0.0), judged(1.0, 0.0, 1.0, 0.0), failed=(plan.scenarios[0].name,))
    return desk


def test_evaluate_reads_the_same_cell(desk: Desk, tmp_path: Path) -> None:
    results = desk.closing().results
    text = best_configuration(results)
    assert text is not None
    file = tmp_path / "best.yaml"
    file.write_text(text, encoding="utf-8")
    config = resolve(EvaluateConfig, {}, file)
    plan = desk.plan
    scenario = plan.scenarios[1]  # the attack of the first fails
    assert build_scenario(config.attack, config.poison_rate, config.seed, config) == scenario
    fields = fixed_fields(config, plan.space)
    best = next(row for row in desk.ledger.rows() if row.number == results.best)
    config_type = find_defense(config.defense).config_type
    assert dataclasses.asdict(config_type.from_mapping(fields)) == dataclasses.asdict(plan.full_config(best.point))
    context = build_evaluation_context(config, plan.space, "cpu", plan.environment.precision)
    dataset = dataclasses.replace(context.dataset, store=plan.environment.dataset.store)
    same = dataclasses.replace(context, store=plan.environment.store, dataset=dataset)
    assert same == plan.environment


def test_what_says_where_things_are_is_not_in_it(desk: Desk) -> None:
    text = best_configuration(desk.closing().results) or ""
    assert not {"out", "store", "data_dir", "name"} & set(yaml.safe_load(text))
    assert set(yaml.safe_load(text)) <= {*CommonConfig.model_fields, "defense", "attack", "poison_rate", "seed"}


def test_a_study_without_a_best_has_none(desk: Desk) -> None:
    empty = desk.closing().results
    nothing = dataclasses.replace(empty, evaluations=empty.evaluations.assign(attack_failed=True))
    assert best_configuration(nothing) is None
