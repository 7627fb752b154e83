"""Builds the stages that all trials share, as Ray tasks with their own resources, before any trial starts."""

from typing import Any

import ray

from defenses.registry import UserError
from study.code_version import code_hash
from study.driver import gpu_memory
from study.driver.ray_nodes import concurrency
from study.driver.stage_progress import StageProgress
from study.driver.worker import OOM, BoardReader, ProgressBoard, WorkerEnvironment, build_stage
from study.driver.worker_watch import worker_watch
from study.ledger.activity import ActivityFile
from study.planning.plan import Plan
from study.planning.shared_stages import Build, is_undefended
from study.scenarios.evaluation import cached_images

_POLL_SECONDS = 0.5

Undefended = dict[str, dict[str, float | None]]
"""Scenario name -> ``ca_undefended`` and ``asr_undefended``."""


def build_shared(plan: Plan, activity: ActivityFile) -> Undefended:
    """Builds what all trials share, as many stages at once as there is room for, while no trial holds a GPU.

    Args:
        activity: told what is being built.

    Returns:
        CA and ASR of the undefended model of each scenario.
    """
    board = ProgressBoard.remote()  # type: ignore[attr-defined]  # Ray adds it
    references = _start(plan, board)
    waiting = {reference: position for position, reference in enumerate(references)}
    watch = worker_watch("a shared stage", plan.config.address is None)
    progress, screen = BoardReader(board), StageProgress(plan, _at_once(plan), activity)
    try:
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
            for reference in finished:
                position = waiting.pop(reference)
                screen.finished(position, task_result(reference, plan.builds[position].label).seconds)
            steps = progress.read()
            screen.look(steps)
            unfinished = {plan.builds[position].label for position in waiting.values()}
            watch.look(running=bool(finished) or not unfinished.isdisjoint(steps))
    finally:
        screen.close()
    return {
        build.scenario.name: task_result(reference, build.label).undefended
        for build, reference in zip(plan.builds, references, strict=True)
        if is_undefended(build, plan.environment)
    }


def _start(plan: Plan, board: Any) -> list[Any]:
    """Hands all stages to Ray. Returns a reference each, in the plan's order."""
    images = ray.put(cached_images(plan.environment.dataset))
    references: list[Any] = []
    for build in plan.builds:
        gpus = 1.0 if _needs_gpu(build, plan) else 0.0
        task = build_stage.options(num_cpus=plan.config.cpus, num_gpus=gpus, name=build.label)
        needs = [references[position] for position in build.needs]
        place = WorkerEnvironment(plan.config.threads, gpus, code_hash())
        references.append(task.remote(build, plan.environment, images, place, board, *needs))
    return references


def _needs_gpu(build: Build, plan: Plan) -> bool:
    networks = build.stage != "poison" or bool(build.scenario.parsed.trained)
    return networks and plan.environment.device == "cuda"


def _at_once(plan: Plan) -> int:
    """How many stages are built at once, while networks are trained."""
    gpus = 1.0 if any(_needs_gpu(build, plan) for build in plan.builds) else 0.0
    return concurrency({"cpu": plan.config.cpus, "gpu": gpus})


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
