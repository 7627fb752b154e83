"""`study.analyze` and `study.report`, 1,000 trials, 10 scenarios: `python tests/benchmarks/bench_answers.py [TRIALS]`.

Makes the study in a temporary folder (nothing is trained; records have the size of real ones), then prints the time and
the peak memory of each command in a process of its own, and how long each part of the former takes.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import numpy as np
from synthetic_study import PAPER, draw, rates, unit, write_study

from search_spaces import SEARCH_SPACES

ATTACKS = ("badnets", "blended_random", "trojan_square", "sig", "wanet")
RANGES = SEARCH_SPACES["pipd"].ranges


def truth(point: Mapping[str, Any], attack: str, rate: float, seed: int) -> dict[str, Any]:
    """Something that depends on all hyperparameters, differs by attack, and has noise."""
    noise = np.random.default_rng([int(point["beta"] * 1e6), ATTACKS.index(attack), seed]).normal(size=2) * 0.01
    p, q, b = (unit(RANGES[name], point[name]) for name in ("isolation_rate", "clean_rate", "beta"))
    mean = point["channel_statistic"] == "mean"
    tpr = 1 - 0.5 * p**2 * (1 - 0.2 * ATTACKS.index(attack)) - 0.1 * (b > 0.8) + noise[0]
    fpr = 0.3 * q * (1 - p) + 0.02 * (not mean) + 0.005 * (12 - point["rounds"]) + noise[1]
    tpr, fpr = float(np.clip(tpr, 0, 1)), float(np.clip(fpr, 0, 1))
    return rates(tpr, fpr, ca=0.99 - 0.3 * fpr, asr=1 - tpr)


def timed(label: str, part: Callable[[], Any]) -> Any:
    started = time.perf_counter(), time.process_time()
    found = part()
    wall, own = time.perf_counter() - started[0], time.process_time() - started[1]
    sys.stdout.write(f"  {label:20} {wall:6.2f} s ({own:.2f} s of CPU)\n")
    return found


def parts(folder: Path) -> None:
    """What the command does, one after the other."""
    from study.analysis import results
    from study.report import text
    from study.report.sections import curves, importance, interactions, region, robustness

    read = timed("read_results", lambda: results.read_results(folder.parent, folder.name))
    found = timed("importances", lambda: importance.importances(read))
    sections = [
        timed("robustness", lambda: robustness.robustness_section(read)),
        timed("importance tables", lambda: importance.importance_section(read, found)),
        timed("curves", lambda: curves.curves_section(read)),
        timed("interactions", lambda: interactions.interactions_section(read, found)),
        timed("region", lambda: region.region_section(read)),
    ]
    timed("text", lambda: text.as_text(read, sections))
    timed("json", lambda: text.as_json(read, sections))


def measured(module: str, *options: str) -> str:
    """Runs a command in a process of its own and tells what it took; gives what it printed."""
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: code = end.code\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "sys.stderr.write(f'\\n{used.ru_utime + used.ru_stime:.1f} {used.ru_maxrss / 1024:.0f}')\n"
        "sys.exit(code)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, module, *options], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    seconds = time.perf_counter() - started
    own, peak = done.stderr.splitlines()[-1].split()
    sys.stdout.write(f"{module}: {seconds:.1f} s ({own} s of CPU), {peak} MiB at most\n")
    return done.stdout


def main() -> None:
    """Makes the study and measures."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as out:
        points = draw(RANGES, trials)
        folder = write_study(Path(out) / "big", points, truth, ATTACKS, seeds=(0, 1), default=PAPER, bulk=30)
        size = np.mean([path.stat().st_size for path in (folder / "points" / "k0").iterdir()])
        sys.stdout.write(f"{trials} trials, {len(ATTACKS) * 2} scenarios, {size / 1024:.1f} KiB a record\n")
        told = measured("study.analyze", "big", "--out", out, "--json", f"{out}/big.json")
        measured("study.report", "big", "--out", out, "-o", f"{out}/big.html")
        page = Path(out, "big.html").stat().st_size / 2**20
        sys.stdout.write(f"the report has {page:.1f} MiB\n")
        parts(folder)
        if len(sys.argv) > 2:
            Path(sys.argv[2]).write_text(told)


if __name__ == "__main__":
    main()
