"""`python -m study.attack_table`: what defenses reach on every attack, as a table of means and spreads over seeds.

Runs a study of each space (or goes on with one that is there), then puts each scenario's own best trial beside the
undefended model. These bests are oracles: they are picked with ground truth.
"""

import csv
import statistics
import subprocess
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from defenses.registry import UserError
from search_spaces import SEARCH_SPACES
from study.cli.options import Parser, add_options, given_options
from study.cli.terminal import print_error, print_exception, print_line, show_logs
from study.config.config import StudyConfig, resolve

METRICS = ("tpr", "fpr", "auroc", "ca", "asr")
FAILED = "†"


@dataclass(frozen=True)
class Trial:
    """One line of a study's results: a trial judged on a scenario."""

    scenario: str
    attack_failed: bool
    metrics: dict[str, float | None]

    @property
    def score(self) -> float:
        """Mean of TPR - FPR and CA - ASR, over what is defined."""
        m = self.metrics
        parts = [(m["tpr"], m["fpr"]), (m["ca"], m["asr"])]
        found = [high - low for high, low in parts if high is not None and low is not None]
        return sum(found) / len(found) if found else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    show_logs()
    parser = Parser(
        prog="python -m study.attack_table",
        description="Run a study of each space and print each scenario's own best beside the undefended model.",
        epilog="Everything but --spaces is handed to study.run, whose --help explains it. "
        "Exit codes: 0 done, 2 bad input, 130 interrupted, and study.run's own "
        "where one of its studies ends with another.",
        allow_abbrev=False,
    )
    parser.add_argument("--spaces", nargs="+", metavar="SPACE", help="spaces to study [pipd qt]")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options from a file, with the same names")
    add_options(parser, StudyConfig)
    try:
        handed_on = list(sys.argv[1:] if arguments is None else arguments)
        namespace = parser.parse_args(handed_on)
        return _run(namespace, _without(handed_on, "--spaces"))
    except UserError as error:
        print_exception(error)
        return 2
    except KeyboardInterrupt:
        print_error("stopped; the same command goes on from there")
        return 130


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments without one option and its values."""
    kept, dropping = [], False
    for argument in arguments:
        dropping = argument == option or (dropping and not argument.startswith("-"))
        if not dropping:
            kept.append(argument)
    return kept


def _run(namespace: Namespace, handed_on: list[str]) -> int:
    given = given_options(namespace, StudyConfig)
    spaces = namespace.spaces or ["pipd", "qt"]
    found: dict[str, list[Trial]] = {}
    for space in spaces:
        SEARCH_SPACES.check(space)
        if "name" in given or "space" in given:
            raise UserError("a table makes a study of each of --spaces: leave out --name and --space")
        config = resolve(StudyConfig, {**given, "space": space}, namespace.config)
        code = subprocess.run([sys.executable, "-m", "study.run", "--space", space, *handed_on]).returncode
        if code:
            return code
        found[space] = read_trials(config.out / config.study_name / "summary" / "results.csv")
    print_line(markdown(found))
    return 0


def read_trials(path: Path) -> list[Trial]:
    """All lines of a ``results.csv``."""
    names = (*METRICS, "ca_undefended", "asr_undefended")
    with path.open(newline="") as file:
        return [
            Trial(
                row["scenario"],
                row["attack_failed"] == "1",
                {name: float(row[name]) if row[name] else None for name in names},
            )
            for row in csv.DictReader(file)
        ]


def markdown(found: dict[str, list[Trial]]) -> str:
    """A row an attack and model: mean ± standard deviation over the seeds of each scenario's own best trial.

    Args:
        found: trials by space.
    """
    lines = [
        "| attack and rate | model | " + " | ".join(name.upper() for name in METRICS) + " |",
        "|" + " --- |" * (len(METRICS) + 2),
    ]
    groups: dict[str, dict[str, list[Trial]]] = defaultdict(dict)
    for space, trials in found.items():
        for name, best in _bests(trials).items():
            groups[name][space] = best
    for name, spaces in groups.items():
        trials = next(iter(spaces.values()))
        failed = sum(trial.attack_failed for trial in trials)
        mark = f" {FAILED}{failed}/{len(trials)}" if failed else ""
        undefended = [
            _spread(t.metrics[f"{m}_undefended"] for t in trials) if m in ("ca", "asr") else "" for m in METRICS
        ]
        lines.append(f"| {name}{mark} | undefended | {' | '.join(undefended)} |")
        for space, bests in spaces.items():
            cells = [_spread(trial.metrics[metric] for trial in bests) for metric in METRICS]
            lines.append(f"| | {space} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _bests(trials: list[Trial]) -> dict[str, list[Trial]]:
    """Each scenario's best trial, by the scenario's name without its seed."""
    of_scenario: dict[str, Trial] = {}
    for trial in trials:
        known = of_scenario.get(trial.scenario)
        if known is None or trial.score > known.score:
            of_scenario[trial.scenario] = trial
    found: dict[str, list[Trial]] = defaultdict(list)
    for name, trial in of_scenario.items():
        found[name.rpartition("-s")[0]].append(trial)
    return found


def _spread(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.3f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
