"""Runs a cell stage by stage; each gives a line as soon as it is done, and lies in the store from then on."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from defenses import DEFENSES
from defenses.api import DefenseResult
from defenses.models import load_model
from defenses.runner import RunContext, StageOutputs, run_stages
from defenses.training.precision import best_precision
from gpu_parts import results
from gpu_parts.cells import Cell
from gpu_parts.truth import Watch, WatchedStore, flag_metrics, flag_series
from study.datasets import DatasetSpec
from study.scenarios.evaluation import EvaluationContext, judge, prepare
from study.scenarios.poison import PoisonedDataset
from study.scenarios.scenario import Scenario

NETWORKS = {"qt": "preact_resnet18"}
"""The papers' networks where they are not ResNet-18."""


@dataclasses.dataclass(frozen=True)
class Session:
    """What all cells of a session share. Picklable: it goes to every process.

    Attributes:
        store: folder in which stages are kept; a later session with the same one goes on from there.
        results: the file of lines.
        step: how training steps are taken, one of `defenses.training.captured_step.STEP_MODES`.
        width, blocks: of the networks.
    """

    dataset: DatasetSpec
    store: Path
    results: Path
    device: str
    step: str
    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    processes: int = 1


def run_cell(session: Session, cell: Cell, time_left: Callable[[], float]) -> None:
    """Runs what the results do not have yet; a stage that fails says why, and ends the cell."""
    known = results.done(session.results, "stage")
    lines = [(stage, f"{cell.name} / {stage}") for stage in cell.stages]
    if all(name in known for _, name in lines):
        return
    poisoned, context = _prepare(session, cell)
    for stage, name in lines:
        if time_left() <= 0:
            return
        if name in known:
            continue
        told = {"name": name, "stage": stage, "cell": dataclasses.asdict(cell), "processes": session.processes}
        try:
            told |= _run_stage(session, cell, stage, poisoned, context)
        except Exception as error:  # the others go on, whatever it was
            results.append(session.results, "stage", {**told, "unfinished": f"{type(error).__name__}: {error}"})
            return
        results.append(session.results, "stage", told)


def _prepare(session: Session, cell: Cell) -> tuple[PoisonedDataset, RunContext]:
    precision = best_precision(session.device)
    network = NETWORKS.get(cell.defense, "resnet18")
    environment = EvaluationContext(
        session.dataset, session.store, network, session.width, session.blocks, precision, session.device, {}, 0.0
    )
    poisoned, context, _ = prepare(Scenario(cell.attack, cell.rate, 0, cell.seed), environment)
    return poisoned, dataclasses.replace(context, step=session.step)


def _run_stage(
    session: Session, cell: Cell, stage: str, poisoned: PoisonedDataset, context: RunContext
) -> dict[str, Any]:
    defense = DEFENSES[cell.defense]
    made = defense(defense.config_type.from_mapping(cell.settings))
    watch = Watch(poisoned, context.device, context.precision, "pre_isolation", "pre_quarantine")
    watched = dataclasses.replace(context, store=WatchedStore(session.store, watch))
    started = time.perf_counter()
    run = run_stages(made, poisoned.suspect, watched, stop_at=stage)[stage]
    told = {
        "seconds": round(time.perf_counter() - started, 3),
        "built_seconds": round(run.run.built_seconds, 3),
        "from_store": run.run.hit,
        "seed": cell.seed,
        "precision": context.precision,
        "network": [context.model.name, context.model.width, list(context.model.blocks)],
        "step": session.step,
        "images": len(poisoned.suspect),
        "truth": watch.series,
    }
    outputs = {name: run.load(name) for name in run.digests if name != "activations"}
    if "series" in outputs:
        told["series"] = {name: [float(value) for value in values] for name, values in outputs["series"].items()}
    if "flagged_series" in outputs:
        told["truth"] = {**watch.series, **flag_series(np.asarray(outputs["flagged_series"]), poisoned)}
    if "flagged" in outputs:
        told["metrics"] = flag_metrics(outputs, poisoned)
    if made.weights == f"{stage}.weights":
        told["metrics"] = {**told.get("metrics", {}), **_judge(made.heads, run, poisoned, context)}
    return told


def _judge(heads: int, run: StageOutputs, poisoned: PoisonedDataset, context: RunContext) -> dict[str, float | None]:
    """CA and ASR of a final model."""
    spec = context.model.with_outputs(heads * poisoned.suspect.num_classes)
    model = load_model(spec, run.load("weights")).to(context.device)
    return judge(DefenseResult(None, None, model), poisoned, context)


def work(session: Session, queue: Any, deadline: float) -> None:
    """What each process does: cells from a queue, until it is empty or the time is over.

    Args:
        queue: of `Cell`; None for the end.
        deadline: as `time.time` tells it.
    """
    torch.set_num_threads(1)  # on a CPU as in a study; a GPU's work needs no more
    while (cell := queue.get()) is not None:
        run_cell(session, cell, lambda: deadline - time.time())
