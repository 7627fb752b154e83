"""`python -m study.evaluate`: one configuration on one scenario, in this process. Needs no ray, mlflow or optuna."""

import dataclasses
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from search_spaces.space import SearchSpace
from study.cli.bar import EpochProgress, working
from study.cli.command import run_command
from study.cli.numbers import format_number
from study.cli.options import Parser, add_options, given_options
from study.cli.paths import check_two_files, is_stdout
from study.cli.terminal import duration, print_error, print_line, print_raw, table, wrap
from study.cli.terms import METRICS
from study.cli.waiting import wait_passively
from study.config.config import MOST_REPEATS, CommonConfig, PoisonRate, Seed, resolve
from study.config.objectives import in_words
from study.config.option_groups import OPTION_GROUPS
from study.scenarios.oracle_defenses import check_defense, find_defense
from study.scenarios.untold import untold
from tracking import names

if TYPE_CHECKING:
    from study.scenarios.evaluation import EvaluationContext
    from study.scenarios.scenario import Scenario
    from tracking.artifacts import Flags


class EvaluateConfig(CommonConfig):
    """Options of `python -m study.evaluate`."""

    defense: str = Field("pipd", description="no_defense, pipd, qt or another, see study.run --list")
    attack: str = Field("badnets", description="an attack, with options as name:option=value")
    poison_rate: PoisonRate = Field(0.1, description="poisoned share of the training set, in (0, 0.5]")
    seed: Seed = Field(0, description="seed of the scenario")
    repeat: int = Field(
        0,
        description="which training on its poisoned data, from 0, as study.run --repeats counts",
        ge=0,
        lt=MOST_REPEATS,
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")


_EPILOG = f"""\
In brackets: the default, which another preset than smoke may change.
{METRICS}
Exit codes: 0 done, 2 bad input, 130 interrupted; the same command goes on from there.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.evaluate",
        description="Run one configuration of a defense on one scenario (an attack with a poison rate and a seed), and "
        "show how well it does beside training without a defense.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options from a file, with the same names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole result here; - for standard output")
    parser.add_argument(
        "--flags", type=Path, metavar="FILE", help="write who was flagged, and the scores, as .csv or .npz"
    )
    add_options(parser, EvaluateConfig, OPTION_GROUPS)

    def work() -> int:
        namespace = parser.parse_args(arguments)
        config = resolve(EvaluateConfig, given_options(namespace, EvaluateConfig), namespace.config)
        check_defense(config.defense)
        return _evaluate(config, Targets(namespace.json, namespace.flags))

    return run_command(work, "stopped; finished stages are in the store and the same command goes on from there")


@dataclass(frozen=True)
class Targets:
    """Files that are written; None for those that nobody asked for.

    Attributes:
        json: the whole result; ``-`` is standard output.
        flags: who was flagged.
    """

    json: Path | None
    flags: Path | None

    @property
    def to_stdout(self) -> bool:
        """Standard output holds JSON and nothing else."""
        return is_stdout(self.json)

    def check(self, defense: str) -> None:
        """Refuses now what could not be written once the work is done.

        Raises:
            UserError: a file that cannot be written, or is named twice, or flags of a defense that flags nothing.
        """
        from study.planning.places import check_file

        if self.json is not None and not self.to_stdout:
            check_file(self.json, "--json")
        if self.flags is None:
            return
        if self.flags.suffix.lower() not in (".csv", ".npz"):
            raise UserError(f"--flags must name a file that ends in .csv or .npz, got {self.flags}: rename it")
        if find_defense(defense).flagged is None:
            raise UserError(f"--flags writes who was flagged, and {defense} flags nothing: leave it out")
        check_file(self.flags, "--flags")
        check_two_files(self.json, self.flags, "--json and --flags")

    def write(self, report: dict[str, Any], flags: "Flags | None") -> None:
        """Writes the files, and JSON on standard output if that was asked for."""
        from defenses.storage.atomic_files import disk_errors, write_atomic
        from tracking.artifacts import write_flags_file

        text = json.dumps(report, indent=1) + "\n"
        if self.to_stdout:
            print_raw(text)
        elif self.json is not None:
            with disk_errors(self.json):
                write_atomic(self.json, text)
        if self.flags is not None and flags is not None:
            with disk_errors(self.flags):
                write_flags_file(self.flags, flags)


def _evaluate(config: EvaluateConfig, targets: Targets) -> int:
    wait_passively()
    with working("loading torch"):
        import torch

    from study.attacks.groups import split_rate
    from study.planning.clean_reserve import needs_sentence
    from study.planning.devices import settle_precision
    from study.planning.idle_options import check_options_act, idle_options, idle_values
    from study.planning.places import check_places
    from study.planning.plan import build_evaluation_context, build_scenario, fixed_fields
    from study.planning.scenario_checks import check_scenarios, tell_misread
    from study.scenarios.evaluation import cached_images, evaluate_scenario

    targets.check(config.defense)
    space = _load_space(config.defense)
    fields = fixed_fields(config, space)
    device = _device(config.device)
    check_places(config)
    torch.set_num_threads(config.threads)
    environment = build_evaluation_context(config, space, device, settle_precision(config.precision, device))
    attack, own_rate = split_rate(config.attack)
    if own_rate is not None and "poison_rate" in config.model_fields_set:
        raise UserError(
            f"--poison-rate changes nothing, since {config.attack} has a rate of its own: leave one of them out"
        )
    scenario = build_scenario(attack, own_rate or config.poison_rate, config.seed, config, config.repeat)
    check_options_act(config, [scenario.attack])
    kind = find_defense(config.defense)
    for note in (*idle_options(config, kind), *idle_values(config.set, fields, (), kind)):
        print_error(f"warning: {note}")
    with working(f"reading {config.dataset}") as say:
        images = cached_images(environment.dataset)
        say(f"checking {scenario.name}")
        check_scenarios([scenario], images, environment)
    tell_misread(config.target_label, images)
    started = time.perf_counter()
    with EpochProgress(f"running {config.defense} on {scenario.name}") as progress:
        result = evaluate_scenario(config.defense, fields, scenario, environment, config.until, progress)
    control = _run_control(config, fields, scenario, environment)
    defense = find_defense(config.defense)
    needs = needs_sentence(space, config)
    report = _report(result, dataclasses.asdict(defense.config_type.from_mapping(fields)), config, environment)
    report["clean_reserve"] = environment.dataset.reserve
    report |= {"cost": _cost(report["stages"]), "clean_control": control}
    targets.write(report, result.flags)
    if not targets.to_stdout:
        print_line(_text(report, scenario.name, time.perf_counter() - started, needs))
    return 0


def _run_control(
    config: EvaluateConfig, fields: dict[str, Any], scenario: "Scenario", environment: "EvaluationContext"
) -> dict[str, Any] | None:
    """What is flagged of the same data unpoisoned; None where that makes no sense, was left out, or just ran."""
    from study.scenarios.clean_control import clean_scenarios, run_on_clean

    controls = [one for one in clean_scenarios(config.defense, [scenario]) if one != scenario.first_repeat]
    if config.clean_control == "none" or not controls:
        return None
    with EpochProgress(f"running {config.defense} on {controls[0].name}") as progress:
        run = run_on_clean(config.defense, fields, controls[0], environment, progress)
    return {
        "scenario": controls[0].name,
        names.FPR_CLEAN: run.flagged_share,
        "stages": [dataclasses.asdict(stage) for stage in run.stages],
        "wall_seconds": run.wall_seconds,
    }


def _cost(stages: list[dict[str, Any]]) -> dict[str, float | None]:
    """Of the defense's own stages, and of those among them that this command built."""
    from study.ledger.method_cost import method_cost

    return dataclasses.asdict(method_cost(stages, ()))


def _load_space(defense: str) -> SearchSpace:
    """The space whose presets suit a defense: its own, or that of the ablation that runs it."""
    spaces = [defense] if defense in SEARCH_SPACES else list(SEARCH_SPACES)
    return next(SEARCH_SPACES[name] for name in spaces if SEARCH_SPACES[name].defense == defense)


def _device(wanted: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("--device cuda needs a GPU that torch can use, and this machine has none: use --device cpu")
    return "cuda" if available and wanted != "cpu" else "cpu"


def _report(result: Any, defense_config: dict[str, Any], config: EvaluateConfig, environment: Any) -> dict[str, Any]:
    import numpy
    import torch

    from study.code_version import code_version

    return {
        "scenario": result.scenario.fields(),
        "defense": config.defense,
        "config": defense_config,
        "metrics": result.metrics,
        "attack_failed": result.attack_failed,
        "series": result.series,
        "stages": [dataclasses.asdict(stage) for stage in result.stages],
        "data": result.meta,
        "environment": {
            "preset": config.preset,
            "dataset": config.dataset,
            "model": environment.model,
            "width": environment.width,
            "blocks": list(environment.blocks),
            "precision": environment.precision,
            "device": torch.cuda.get_device_name() if environment.device == "cuda" else platform.processor() or "cpu",
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
            "code_version": code_version(),
        },
        "wall_seconds": result.wall_seconds,
    }


def _headline(report: dict[str, Any], name: str) -> str:
    """Which defense, and what it was put to."""
    scenario, data = report["scenario"], report["data"]
    rate = scenario["poison_rate"] or data.get("effective_rate")
    parts = [
        f"attack {scenario['attack']}",
        f"poison rate {rate:.4g}" if rate else "",
        f"seed {scenario['seed']}",
        f"repeat {scenario['repeat']}" if "repeat" in scenario else "",
        f"target class {data['target_class']}" if "target_class" in data else "",
        f"{report['environment']['dataset']}, preset {report['environment']['preset']}",
    ]
    return f"{report['defense']} on {name}: {', '.join(filter(None, parts))}"


def _text(report: dict[str, Any], name: str, seconds: float, needs: str) -> str:
    metrics = report["metrics"]
    undefended = {"ca": metrics.get("ca_undefended"), "asr": metrics.get("asr_undefended")}
    rows = [
        ["undefended", *(format_number(undefended.get(metric), 4) for metric in names.HEADLINE)],
        [report["defense"], *(format_number(metrics.get(metric), 4) for metric in names.HEADLINE)],
    ]
    heading = table(["model", *(metric.upper() for metric in names.HEADLINE)], rows)
    lines = [_headline(report, name), "", heading, *untold(report["scenario"]["attack"], metrics)]
    if report["attack_failed"]:
        lines.append("ATTACK FAILED: it does not work undefended either, so no defense is credited for it")
    if needs:
        lines.append(wrap(needs))
    lines += _beside(report)
    stages = ", ".join(
        f"{stage['stage']} {duration(stage['wall_seconds'])}{' (reused)' if stage['hit'] else ''}"
        for stage in report["stages"]
    )
    lines += [wrap(METRICS), *_caveats(report), "", wrap(f"Took {duration(seconds)}: {stages}")]
    return "\n".join(lines)


def _beside(report: dict[str, Any]) -> list[str]:
    """What is flagged of clean data, and what the defense costs, a line each."""
    control, cost = report["clean_control"], report["cost"]
    clean = [] if control is None else [f"{in_words(names.FPR_CLEAN)}: {format_number(control[names.FPR_CLEAN], 4)}"]

    def cost_text(which: str) -> str:
        epochs = format_number(cost[f"{which}_epochs"], 1)
        return f"{epochs} epoch-equivalents, {duration(cost[f'{which}_seconds'])}"

    text = f"Cost of {report['defense']}: {cost_text('built')}; spent here, the rest reused: {cost_text('spent')}"
    return [*clean, wrap(text)]


def _caveats(report: dict[str, Any]) -> list[str]:
    """What a reader should know besides, a line each."""
    from study.analysis.caveats import budget_caveat, flags_nothing, flags_too_much

    share, control = report["metrics"].get(names.FLAGGED_SHARE), report["clean_control"]
    of_clean = control[names.FPR_CLEAN] if control else None
    lines = [f"{report['defense']} flags nothing."] if flags_nothing(share, report["scenario"]["attack"]) else []
    lines += [
        f"{report['defense']} flags more than half of the samples{where}: {format_number(of, 4)}."
        for of, where in ((share, ""), (of_clean, " when nothing is poisoned"))
        if flags_too_much(of)
    ]
    budget = budget_caveat(report["defense"], report["config"].items())
    return list(map(wrap, [*lines, *([budget] if budget else [])]))


if __name__ == "__main__":
    sys.exit(main())
