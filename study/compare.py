"""`python -m study.compare A B`: two studies, or two configurations, on the scenarios that both have."""

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.registry import UserError
from defenses.storage.atomic_files import write_atomic
from study.cli.bar import working
from study.cli.command import EXIT_DONE, run_command
from study.cli.options import Parser
from study.cli.paths import check_two_files, is_stdout
from study.cli.terminal import print_line, print_raw
from study.config.objectives import UNJUDGED, parse_objective
from study.ledger.selection import RULES
from study.ledger.study_folder import add_out, locate, parse_out
from tracking import names

if TYPE_CHECKING:
    from study.analysis.paired_tests import Difference, Pairs
    from study.analysis.selected_trial import SelectedTrial


_EPILOG = """\
A and B are names of studies, or one name twice. NAME:default, NAME:best and NAME:7 (a trial) choose the configuration
of one side, whatever --rule says: python -m study.compare mine:default mine:best.
Only scenarios count that both have and whose attack works undefended. Every number uses ground-truth labels.
Exit codes: 0 done, whatever the data say; 2 bad input, such as studies that share no scenario.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = Parser(
        prog="python -m study.compare",
        description="Compare two defenses or two configurations, paired by scenario.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("a", metavar="A", help="a study (its name, its folder or latest), or NAME:TRIAL")
    parser.add_argument("b", metavar="B", help="another, or the same with another configuration")
    parser.add_argument("--metric", nargs="+", metavar="METRIC", help="what is compared [tpr fpr auroc ca asr]")
    parser.add_argument(
        "--rule",
        metavar="|".join(RULES),
        help="which trial of each study: the paper's default, or the best (of several objectives the knee of their "
        "front), which is picked with ground truth [default]",
    )
    add_out(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here; - for standard output")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the answer here as markdown")
    words = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> int:
        namespace = parser.parse_args(words)
        if namespace.rule not in (None, *RULES):
            raise UserError(f"--rule must be default or best, got {namespace.rule!r}")
        metrics = tuple(dict.fromkeys(_parse_metric(text) for text in namespace.metric or ()))
        _compare(namespace, metrics, shlex.join(["python", "-m", "study.compare", *words]))
        return EXIT_DONE

    return run_command(work, warnings=False)


def _parse_metric(text: str) -> str:
    metric = parse_objective(text)
    if metric in UNJUDGED:
        raise UserError(f"{metric} makes no defense better or worse, so that there is nothing to compare: leave it out")
    return metric


def _compare(namespace: Any, metrics: tuple[str, ...], command: str) -> None:
    out = parse_out(namespace)
    check_two_files(namespace.json, namespace.markdown, "--json and --markdown")
    rule = namespace.rule or "default"
    with working("reading the studies") as say:
        from study.analysis.paired_tests import differences, pair
        from study.report.elements import Note, Table
        from study.report.markdown import markdown
        from study.report.sections.comparison import section
        from study.report.text import BADGE_MEANS, section_text

        a, b = (_chosen(text, rule, out) for text in (namespace.a, namespace.b))
        say("comparing")
        pairs = pair(a, b)
        judged = differences(pairs, metrics or names.HEADLINE)
    missing = [metric for metric in metrics if metric not in {one.metric for one in judged}]
    if missing or not judged:
        raise UserError(
            f"no scenario defines {', '.join(missing or names.HEADLINE)} in both studies: "
            "a study that stops at isolation has no CA and ASR, a defense that flags nothing no TPR; leave it out"
        )
    answer = section(a, b, pairs, judged, command)
    # Its figures show what its tables say, and there is no report to draw them in.
    told = dataclasses.replace(answer, items=tuple(item for item in answer.items if isinstance(item, Note | Table)))
    if namespace.markdown:
        _write(namespace.markdown, markdown("Comparison", [told]), "--markdown")
    if namespace.json:
        numbers = json.dumps(_as_json(a, b, pairs, judged), indent=1, allow_nan=False) + "\n"
        if is_stdout(namespace.json):
            print_raw(numbers)
            return
        _write(namespace.json, numbers, "--json")
    print_line(f"{BADGE_MEANS}\n\n\n{section_text(told)}")


def _chosen(text: str, rule: str, out: Path) -> "SelectedTrial":
    from study.analysis.results import read_results
    from study.analysis.selected_trial import select_trial

    name, _, own = text.rpartition(":") if ":" in text else (text, "", "")
    return select_trial(read_results(*locate(out, name)), own or rule)


def _write(path: Path, text: str, option: str) -> None:
    if path.is_dir():  # write_atomic asks for a name, which "." has not
        raise UserError(f"{option} must name a file that can be written, got the folder {path}: add a name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        raise UserError(f"{option} must name a file that can be written, got {path}: {error.strerror}") from error


def _as_json(
    a: "SelectedTrial", b: "SelectedTrial", pairs: "Pairs", differences: "Sequence[Difference]"
) -> dict[str, Any]:
    """The same for machines; ``null`` is what is undefined or was not tested."""
    from study.analysis.paired_tests import ALPHA
    from study.report.sections.compared_runs import failed_runs
    from study.report.sections.comparison import settings_that_differ

    metrics = list(dict.fromkeys(one.metric for one in differences))
    columns = [f"{metric}_{side}" for metric in metrics for side in ("a", "b")]
    return {
        **{
            side: {
                "study": selected.results.name,
                "defense": selected.results.defense,
                "trial": selected.trial,
                "how": selected.how,
                "oracle": selected.oracle,
            }
            for side, selected in (("a", a), ("b", b))
        },
        "settings_that_differ": settings_that_differ(a, b),
        "pairs": [
            {
                "scenario": row["scenario"],
                "stratum": row["stratum"],
                "seed": int(row["seed"]),
                **{name: _defined(row[name]) for name in columns},
            }
            for _, row in pairs.frame.iterrows()
        ],
        "left_out": pairs.left_out,
        "other_test_images": list(pairs.other_tests),
        "picked_of": pairs.picked_of,
        "failed_runs": failed_runs(pairs),
        "alpha": ALPHA,
        "differences": [{**dataclasses.asdict(one), "holds_over_seeds": one.holds_over_seeds} for one in differences],
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


if __name__ == "__main__":
    sys.exit(main())
