"""What a machine with a GPU is good for, unattended, within the minutes of a lease.

    python tests/benchmarks/gpu_session.py --dataset cifar10 --minutes 14 --results results.jsonl
    python tests/benchmarks/gpu_session.py --device cpu --rehearse --results rehearsal.jsonl

In this order: the tests marked `gpu`; images a second of a training loop whose steps are eager, captured and compiled,
with their share of what a large matrix product reaches; then stages of defenses, the open questions of
`gpu_parts/cells.py` first, several processes on the card. Each gives a line of the results when it is done, and is
skipped where the results have it: the session may be cut off anywhere, and the same command goes on. Stages lie in
``--store``, and one that was cut off goes on from its last epoch where that folder is kept.

It needs torch, torchvision, numpy, scikit-learn, pandas, Pillow, pytest, hypothesis, fsspec and safetensors, and no
installed package: neither Ray nor Optuna, MLflow, pydantic or jenkspy. `gpu_bundle.py` packs the code and the data.
"""

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import torch  # noqa: E402
from gpu_parts import cells, results, speed, stages  # noqa: E402

from defenses.models import ModelSpec  # noqa: E402
from study.datasets import DatasetSpec  # noqa: E402

PARTS = ("tests", "speed", "stages")
NETWORKS = [("preact_resnet18", 64, 64), ("resnet18", 64, 128), ("resnet18", 64, 512), ("resnet18", 16, 128)]
"""Network, width and batch, as in the first measurements on a GPU."""


def main(arguments: list[str] | None = None) -> None:
    """Runs what fits into the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path, default=Path(".data"), help="where the dataset lies")
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines, added to")
    parser.add_argument("--store", type=Path, help="folder of stages [a temporary one]")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--step", choices=("auto", *speed.MODES), default="auto", help="of the stages")
    parser.add_argument("--undefended-epochs", type=int, default=30, help="of the model that detectors share")
    parser.add_argument("--processes", type=int, default=3, help="at once on the device")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks on digits, an epoch each")
    options = parser.parse_args(arguments)
    deadline = time.time() + 60 * options.minutes
    if "tests" in options.only:
        run_tests(options, deadline)
    if "speed" in options.only:
        measure_speed(options, deadline)
    if "stages" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            run_stages(options, options.store or Path(folder), deadline)


def run_tests(options: argparse.Namespace, deadline: float) -> None:
    """The tests marked `gpu`, none of which needs what a leased machine lacks; how they ended, and which failed."""
    if "gpu" in results.done(options.results, "tests"):
        return
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--tb=line", *files]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1, left(deadline)))
    except subprocess.TimeoutExpired:
        results.append(options.results, "tests", {"name": "gpu", "unfinished": "the time was over"})
        return
    lines = ended.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    told = {"name": "gpu", "ended": ended.returncode, "failed": failed, "summary": lines[-1:], "files": len(files)}
    results.append(options.results, "tests", told)


def measure_speed(options: argparse.Namespace, deadline: float) -> None:
    """Each network in each mode, and what the device can do."""
    torch.set_num_threads(1)  # of a CPU; see `study.run --threads`
    device, known = torch.device(options.device), results.done(options.results, "speed")
    peak = speed.measured_peak(device, 8192 if device.type == "cuda" else 512)
    networks = [("resnet18", 4, 32)] if options.rehearse else NETWORKS
    blocks, images = ((1, 1), 64) if options.rehearse else ((2, 2, 2, 2), 50_000)
    for mode in speed.MODES:  # one after the other: a mode that fails leaves what the others gave
        for network, width, batch in networks:
            name = f"{network} width {width} batch {batch} {mode}"
            if name in known or left(deadline) <= 0:
                continue
            told = {"name": name, "peak": peak}
            try:
                told |= speed.throughput(ModelSpec(network, width, blocks), batch, mode, images, device)
                told["share_of_peak"] = told["flops"] / peak
            except RuntimeError as error:
                told["unfinished"] = f"{type(error).__name__}: {error}"
            results.append(options.results, "speed", told)


def run_stages(options: argparse.Namespace, store: Path, deadline: float) -> None:
    """Cells from one queue, several processes at once; one that dies takes its cell with it and no other."""
    dataset = DatasetSpec(options.dataset, data_dir=options.data_dir)
    sizes = {}
    wanted = cells.cells(options.undefended_epochs)
    if options.rehearse:
        dataset, wanted = DatasetSpec("digits", train_size=200, test_size=40), cells.rehearsal()
        sizes = {"width": 4, "blocks": (1, 1)}
    count = min(options.processes, len(wanted))
    session = stages.Session(dataset, store, options.results, options.device, options.step, processes=count, **sizes)
    if count == 1:
        torch.set_num_threads(1)
        for cell in wanted:
            stages.run_cell(session, cell, lambda: left(deadline))
        return
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for cell in [*wanted, *[None] * count]:
        queue.put(cell)
    workers = [context.Process(target=stages.work, args=(session, queue, deadline)) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(1.0, left(deadline)))
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
            worker.join()


def left(deadline: float) -> float:
    """Seconds."""
    return deadline - time.time()


if __name__ == "__main__":
    main()
