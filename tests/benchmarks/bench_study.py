"""What sharing saves, and what a whole study costs, as whole processes.

python tests/benchmarks/bench_study.py scaling    # 20 against 2 trials of `--until isolate` on one scenario
python tests/benchmarks/bench_study.py memory     # peak memory of a default study, all its processes
python tests/benchmarks/bench_study.py help       # `--help`, five times
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def timed(*options: str) -> float:
    """Seconds of a `study.run` command."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "study.run", *options], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"study.run {' '.join(options)} failed:\n{done.stderr}")
    return time.perf_counter() - started


def scaling() -> str:
    """Each side starts from an empty store, so both build the shared stages."""
    common = ["--space", "pipd", "--attacks", "badnets", "--until", "isolate"]
    seconds = {}
    for trials in (2, 20):
        with tempfile.TemporaryDirectory() as out:
            seconds[trials] = timed(*common, "--trials", str(trials), "--out", out)
    return f"2 trials {seconds[2]:.1f} s, 20 trials {seconds[20]:.1f} s, ratio {seconds[20] / seconds[2]:.2f}"


def proportional_bytes() -> int:
    """Memory of every Python and Ray process, shared pages divided among those that share them."""
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "study.run" not in name and "ray" not in name:
                continue
            for line in (folder / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except (OSError, ProcessLookupError):
            continue
    return total


def memory() -> str:
    """Peak of the sum over all processes, sampled twice a second. Nothing else of Ray's must run."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.5):
            peak = max(peak, proportional_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as out:
        seconds = timed("--space", "pipd", "--out", out)
    done.set()
    watcher.join()
    return f"default study: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB in all its processes"


def help_latency() -> str:
    """Whole processes, a warm-up first."""
    timed("--help")
    seconds = [timed("--help") for _ in range(5)]
    return f"--help: {statistics.median(seconds):.2f} s (median of 5, {min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Runs one of the benchmarks."""
    kinds = {"scaling": scaling, "memory": memory, "help": help_latency}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(kinds))
    sys.stdout.write(kinds[parser.parse_args().kind]() + "\n")


if __name__ == "__main__":
    main()
