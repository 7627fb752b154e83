"""What a study over read epochs costs beside its training: `python tests/benchmarks/bench_reads.py [TRIALS]`, 200.

Digits, one scenario, an empty store: PIPD's read epoch, cut and cheap fields are searched, what would start another
training is fixed. Prints the seconds of the study, Ray's start and MLflow included, beside those of one training to the
last epoch that is read, built in the same run, and what is left for a trial.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = (
    "--space pipd_wide --sampler random --until isolate --attacks badnets --poison-rates 0.1 --seeds 0 "
    "--clean-control none --name reads --set pre_isolation_lr=0.1 pre_isolation_schedule=one_cycle "
    "pre_isolation_augment=false gamma=0.2 granularity=batch batch_size=64 taps=blocks"
)
GOAL_TRAININGS, GOAL_SECONDS = 1.5, 0.3


def study(out: Path, trials: int) -> float:
    """Seconds of a study of so many trials."""
    command = [sys.executable, "-m", "study.run", *STUDY.split(), "--out", str(out), "--trials", str(trials)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def seconds_to_reads(out: Path) -> list[float]:
    """What the training took to each epoch after which it was read."""
    entries = (json.loads(path.read_bytes()) for path in out.glob("store/pre_isolation/*/meta.json"))
    return [float(entry["built_seconds"]) for entry in entries]


def main() -> None:
    """Runs it, and prints the ratio."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        seconds, reads = study(Path(folder), trials), seconds_to_reads(Path(folder))
    training = max(reads)
    allowed = GOAL_TRAININGS * training + GOAL_SECONDS * trials
    beyond = (seconds - training) / trials
    sys.stdout.write(
        f"{trials} trials over {len(reads)} read epochs: {seconds:.0f} s; a training to the last: {training:.0f} s\n"
        f"beyond one training {beyond:.2f} s a trial; {GOAL_TRAININGS} trainings and {GOAL_SECONDS} s a trial are "
        f"{allowed:.0f} s, of which it took {seconds / allowed:.2f}\n"
    )


if __name__ == "__main__":
    main()
