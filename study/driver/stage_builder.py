"""Builds the stages that all trials share, as Ray tasks with their own resources, before any trial starts."""

from typing import Any

import ray

from defenses.registry import UserError
from study.cli.terminal import Bar
from study.code_version import code_hash
from study.driver import gpu_memory
from study.driver.worker import OOM, BoardReader, ProgressBoard, WorkerEnvironment, build_stage
from study.driver.worker_watch import worker_watch
from study.planning.plan import Plan
from study.scenarios.evaluation import cached_images

_POLL_SECONDS = 0.5

Undefended = dict[str, dict[str, float | None]]
"""Scenario name -> ``ca_undefended`` and ``asr_undefended``."""


def build_shared(plan: Plan) -> Undefended:
    """Builds what all trials share, as many stages at once as there is room for, while no trial holds a GPU.

    Returns:
        CA and ASR of the undefended model of each scenario.
    """
    board = ProgressBoard.remote()  # type: ignore[attr-defined]  # Ray adds it
    images = ray.put(cached_images(plan.environment.dataset))
    references: list[Any] = []
    for build in plan.builds:
        networks = build.stage != "poison" or bool(build.scenario.parsed.trained)
        needs_gpu = networks and plan.environment.device == "cuda"
        gpus = 1.0 if needs_gpu else 0.0
        task = build_stage.options(num_cpus=plan.config.cpus, num_gpus=gpus, name=build.label)
        needs = [references[position] for position in build.needs]
        place = WorkerEnvironment(plan.config.threads, gpus, code_hash())
        references.append(task.remote(build, plan.environment, images, place, board, *needs))
    bar = Bar(len(references), "shared stages", unit="stage")
    waiting = {reference: build for reference, build in zip(references, plan.builds, strict=True)}
    watch = worker_watch("a shared stage", plan.config.address is None)
    progress = BoardReader(board)
    try:
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
            for reference in finished:
                build = waiting.pop(reference)
                task_result(reference, build.label)
                bar.advance(1, build.label)
            unfinished = {build.label for build in waiting.values()}
            steps = progress.read()
            watch.look(running=bool(finished) or not unfinished.isdisjoint(steps))
            bar.note(_running(steps, unfinished))
    finally:
        bar.close()
    return {
        build.scenario.name: task_result(reference, build.label)
        for build, reference in zip(plan.builds, references, strict=True)
        if build.stage == "standard_training"
    }


def task_result(reference: Any, label: str) -> Any:
    """What a task of ours gave.

    Args:
        label: what it did, for people.

    Raises:
        UserError: it broke a rule, or does not fit a whole GPU.
        ray.exceptions.RayTaskError: anything else that it raised.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if gpu_memory.ran_out(error.cause):
            raise UserError(f"{OOM}: {label} does not fit a whole GPU: take a smaller --width or batch_size") from None
        raise error.cause if isinstance(error.cause, UserError) else error from None


def _running(steps: dict[str, tuple[int, int]], unfinished: set[str]) -> str:
    shown = [f"{label} {step}/{total}" for label, (step, total) in steps.items() if label in unfinished]
    return ", ".join(shown[:2])
