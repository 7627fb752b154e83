"""What a trial costs beyond what it computes: `python tests/benchmarks/bench_trials.py [TRIALS]`, 1,000 by default.

A study of `--until isolate` on digits with all stages built, then the same points in a loop in this process, without
Ray, Optuna and MLflow: the same evaluation, the same files and records. Prints wall and processor seconds a trial of
both (of the study those between the tenth trial and the last, in all its processes), and the driver's memory.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_load import command, resident_mib

from study.config.config import StudyConfig
from study.driver.worker import write_artifacts
from study.ledger.records import TrialRecord, build_record, scenario_path, trial_path, write_record
from study.ledger.snapshot import read_ledger
from study.planning.plan import Plan, make_plan
from study.scenarios.evaluation import evaluate_scenario
from study.scenarios.scenario import scenario_order

SETTLED = 10  # trials after which nothing is being started any more
TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(root: int, known: dict[int, float]) -> float:
    """Of a process and all that came from it, those that have ended included."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        known[-int(folder.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    own = {root, *(pid for pid in known if pid > 0)}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in own} - own
        own, grown = own | more, bool(more)
    for pid in own:
        known[pid] = known.pop(-pid, known.get(pid, 0.0))
    for other in [pid for pid in known if pid < 0]:
        del known[other]
    return sum(known.values())


def watch(driver: "subprocess.Popen[bytes]", ledger: Path) -> list[tuple[int, float, float, float]]:
    """Trials done, the time, processor seconds and the driver's memory, each second while trials run."""
    known: dict[int, float] = {}
    seen: list[tuple[int, float, float, float]] = []
    while driver.poll() is None:
        time.sleep(1)
        done = sum(trial.finished for trial in read_ledger(ledger).trials) if ledger.is_file() else 0
        try:
            if not seen or done > seen[-1][0]:
                moment = time.perf_counter(), processor_seconds(driver.pid, known), resident_mib(driver.pid)
                seen.append((done, *moment))
        except OSError:
            break
    return [moment for moment in seen if moment[-1]]


def loop(plan: Plan, points: list[dict[str, object]], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds a point."""
    torch.set_num_threads(plan.config.threads)
    started = time.perf_counter(), time.process_time()
    for number, point in enumerate(points):
        if number == SETTLED:
            started = time.perf_counter(), time.process_time()
        key = plan.point_key(point)
        for scenario in scenario_order(plan.scenarios, key):
            config = {**plan.base, **point}
            gave = evaluate_scenario(plan.space.defense, config, scenario, plan.environment, plan.config.until)
            write_artifacts(folder / key / scenario.name, gave, plots=False)
            write_record(scenario_path(folder / key, scenario.name), build_record(gave, Path(key)))
        names = [scenario.name for scenario in plan.scenarios]
        write_record(trial_path(folder / key), TrialRecord(key, point, names))
    counted = len(points) - SETTLED
    return (time.perf_counter() - started[0]) / counted, (time.process_time() - started[1]) / counted


def main() -> None:
    """Runs the study in two parts, the shared stages and two trials, then the rest; then the loop."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)  # a folder with stages, to spare the building
        subprocess.run(command(out, 2), check=True, capture_output=True)
        with (out / "log").open("wb") as log:
            driver = subprocess.Popen(command(out, trials), stdout=log, stderr=log)
            seen = watch(driver, out / "load" / "study.db")
        if driver.returncode:
            raise SystemExit((out / "log").read_text()[-3000:])
        first = next(moment for moment in seen if moment[0] >= SETTLED)
        last = seen[-1]
        wall, used = ((last[place] - first[place]) / (last[0] - first[0]) for place in (1, 2))
        early = next(moment for moment in seen if moment[0] >= min(100, trials))
        plan = make_plan(StudyConfig(space="pipd", until="isolate", name="load", out=out), "cpu", 0.0, "fp32")
        points = [dict(trial.point) for trial in read_ledger(out / "load" / "study.db").trials]
        alone = loop(plan, points[: min(200, trials)], out / "points")
        cores = len(os.sched_getaffinity(0))
        sys.stdout.write(
            f"{last[0]} trials: {wall:.3f} s a trial on {cores} cores, {used:.3f} s of a processor; "
            f"a loop: {alone[0]:.3f} s, {alone[1]:.3f} s of a processor; "
            f"{wall * cores / alone[0]:.2f} times a core's time, {used / alone[1]:.2f} times by processor seconds\n"
            f"driver {early[3]:.0f} MiB at trial {early[0]}, {last[3]:.0f} MiB at trial {last[0]}, "
            f"{max(moment[3] for moment in seen):.0f} MiB at most\n"
        )


if __name__ == "__main__":
    main()
