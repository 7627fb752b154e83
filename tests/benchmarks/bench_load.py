"""A long study of `--until isolate` on digits: `python tests/benchmarks/bench_load.py [TRIALS]`, 1,000 by default.

Prints the wall time a trial once the shared stages are built (Ray's start and the last flush to MLflow included), the
driver's memory from trial 100 to the last, and of how many trials MLflow and the ledger do not tell the same.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient

from study.ledger.snapshot import read_ledger
from tracking import names

PAGE = 1000


def command(out: Path, trials: int) -> list[str]:
    options = ["--space", "pipd", "--until", "isolate", "--name", "load", "--out", str(out), "--trials", str(trials)]
    return [sys.executable, "-m", "study.run", *options]


def resident_mib(process: int) -> float:
    """Memory of one process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def watch(driver: subprocess.Popen[bytes], ledger: Path) -> dict[int, float]:
    """Memory of the driver by trials done, read every two seconds."""
    found: dict[int, float] = {}
    while driver.poll() is None:
        time.sleep(2)
        done = sum(trial.finished for trial in read_ledger(ledger).trials)
        try:
            found[done] = resident_mib(driver.pid)
        except FileNotFoundError:
            break
    return {done: memory for done, memory in found.items() if memory}


def disagreements(out: Path) -> list[int]:
    """Trials of which MLflow and the ledger do not tell the same, or that MLflow has twice or not at all."""
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pipd")
    assert experiment is not None
    logged: dict[str, list[float | None]] = {}
    token = None
    while True:
        kind = f"tags.`{names.TAG_KIND}` = 'trial'"
        page = client.search_runs([experiment.experiment_id], kind, max_results=PAGE, page_token=token)
        for run in page:
            value = run.data.metrics.get(names.OBJECTIVE) if run.info.status == "FINISHED" else None
            logged.setdefault(run.data.tags[names.TAG_RUN_KEY].rpartition("/")[2], []).append(value)
        token = page.token
        if not token:
            break
    trials = read_ledger(out / "load" / "study.db").trials
    return [trial.number for trial in trials if logged.get(trial.key) != list(trial.values or (None,))]


def main() -> None:
    """Runs the study in two parts: the shared stages and two trials, then the rest."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        subprocess.run(command(out, 2), check=True, capture_output=True)
        started = time.perf_counter()
        with (out / "log").open("wb") as log:
            driver = subprocess.Popen(command(out, trials), stdout=log, stderr=log)
            memory = watch(driver, out / "load" / "study.db")
        seconds = time.perf_counter() - started
        if driver.returncode:
            raise SystemExit((out / "log").read_text()[-3000:])
        early = min(done for done in memory if done >= min(100, trials))
        last = max(memory)
        sys.stdout.write(
            f"{trials} trials in {seconds:.0f} s, {seconds / (trials - 2):.3f} s a trial; "
            f"driver {memory[early]:.0f} MiB at trial {early}, {memory[last]:.0f} MiB at trial {last}, "
            f"{max(memory.values()):.0f} MiB at most; "
            f"MLflow and ledger disagree on {len(disagreements(out))} trials\n"
        )


if __name__ == "__main__":
    main()
