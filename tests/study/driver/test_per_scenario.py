"""A study a scenario: how they are made of one, and what is shown of all. And the order of scenarios in a trial."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import BAD, GOOD, Desk, judged, rows_of
from small_study import save_npz, small_plan
from study_process import command, run, states, wait_for
from test_study_end_to_end import workplace  # noqa: F401  (a fixture)

from defenses.registry import UserError
from study.datasets.images import Images
from study.driver.per_scenario import build_plans
from study.planning.plan import Plan
from study.report.sections.joint_closing import joint_text
from study.scenarios.scenario import Scenario, scenario_order


@pytest.fixture
def make(images: Images, tmp_path: Path) -> Callable[..., Plan]:
    """Plans of studies of single scenarios."""
    dataset = save_npz(tmp_path / "data.npz", images)

    def plan(*attacks: str, **options: Any) -> Plan:
        return small_plan(dataset, tmp_path / "out", attacks=attacks, per_scenario=True, name="all", **options)

    return plan


def test_each_scenario_has_a_study_of_its_own(make: Callable[..., Plan]) -> None:
    whole = make("badnets", "blended_random", "clean")
    parts = build_plans(whole)
    assert [part.config.study_name for part in parts] == [f"all.{scenario.name}" for scenario in whole.scenarios]
    assert [part.scenarios for part in parts] == [(scenario,) for scenario in whole.scenarios]
    assert tuple(key for part in parts for key in part.data_keys) == whole.data_keys
    assert len({part.point_key(part.default_point) for part in parts}) == 3
    built = [build.label for part in parts for build in part.builds]
    assert sorted(built) == sorted(build.label for build in whole.builds)
    assert all(need < len(part.builds) for part in parts for build in part.builds for need in build.needs)
    # The control has no poison to find, so its study looks for what it tells.
    assert [part.objective for part in parts] == ["overall_score", "overall_score", "fpr"]


def test_what_one_scenario_cannot_tell_is_refused(make: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match="no scenario tells tpr"):
        make("badnets", "clean", objective="tpr")


def test_the_worst_of_one_scenario_is_refused(make: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match="--aggregate worst changes nothing with --per-scenario"):
        make("badnets", "sig", aggregate="worst")


def test_one_table_shows_each_scenario_s_own_best(make: Callable[..., Plan], tmp_path: Path) -> None:
    summaries = []
    for position, part in enumerate(build_plans(make("badnets", "blended_random", "clean"))):
        folder = tmp_path / part.config.study_name
        folder.mkdir()
        desk = Desk(part, folder)
        desk.ledger.enqueue_default(part.default_point)
        for step in range(0 if position == 2 else 3):
            good = 1.0 if step == position + 1 else 0.5
            desk.trial(judged(good, 0.0, good, 0.0))
        summaries.append(desk.closing())
    text = joint_text(summaries)
    assert [tuple(row[:3]) for row in rows_of(text, "scenario               trial")] == [
        (BAD, "paper default", "0.5000"),
        ("", "best (#1)", "1.0000"),
        (GOOD, "paper default", "0.5000"),
        ("", "best (#2)", "1.0000"),
    ]
    models = [row[1] for row in rows_of(text, "scenario               model")]
    assert models == ["undefended", "paper default", "best (#1)", "undefended", "paper default", "best (#2)"]
    assert "clean-0-s0: No trial has finished yet." in text
    assert joint_text(summaries[2:]) == "No trial has finished yet."


def test_the_order_of_scenarios_is_the_trial_s_own() -> None:
    scenarios = tuple(Scenario("badnets", rate, 0, 0) for rate in (0.05, 0.1, 0.15, 0.2))
    orders = {key: scenario_order(scenarios, key) for key in map(str, range(50))}
    assert all(sorted(order, key=lambda s: s.poison_rate) == list(scenarios) for order in orders.values())
    assert all(scenario_order(scenarios, key) == order for key, order in orders.items()), "again the same"
    first = Counter(order[0] for order in orders.values())
    assert len(first) == 4, "each of them comes first somewhere"


@pytest.mark.ray
@pytest.mark.slow
def test_studies_of_single_scenarios_go_on_after_a_kill(workplace: Path) -> None:  # noqa: F811
    options = ("--name", "each", "--trials", "3", "--per-scenario")
    studies = [workplace / "runs" / f"each.{name}-0.1-s0" for name in ("badnets", "trojan_square")]
    process = subprocess.Popen(
        command(workplace, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: list(studies[1].glob("points/*/*-s0.json")) or process.poll() is not None)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for study in studies for path in study.glob("points/*/*-s0.json")}
    again = run(workplace, *options)
    assert again.returncode == 0, again.stderr
    for study in studies:
        assert states(study)["COMPLETE"] == 3
        assert not {"RUNNING", "WAITING"} & set(states(study))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert "badnets-0.1-s0: " in again.stdout
    for path in studies[0].glob("points/*/result.json"):
        assert json.loads(path.read_text())["record"]["scenarios"] == ["badnets-0.1-s0"]
