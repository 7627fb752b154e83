"""The nodes of the cluster: what they have, what is in use, and whether they run our code and share our folders."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from defenses.registry import UserError
from study.cli.bar import working
from study.code_version import code_hash
from study.driver.worker_watch import WorkerWatch, wait_for, worker_watch
from study.planning.devices import trials_at_once
from study.planning.plan import Plan
from study.planning.shared_folder import find_marks, leave_mark, remove_marks

_NODE_SECONDS = 120.0  # a node has to answer within: it may have to unpack the code and import torch first


def check_cluster(plan: Plan, folder: Path) -> None:
    """Refuses a cluster on which no trial fits, or one of whose nodes has other code or does not share the folders.

    Args:
        folder: the study's.
    """
    concurrency(trial_resources(plan))
    if plan.config.address is None:
        here = {node["NodeID"]: "this machine" for node in _alive()}
        _ask_nodes(here, leave_mark, [([], "", code_hash())], local=True)
        return
    store = plan.environment.store
    if isinstance(store, Path):
        store.mkdir(parents=True, exist_ok=True)
    places = [store, folder]
    nonce = secrets.token_hex(8)
    nodes = {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in _alive()}
    marks = {f".node_{nonce}_{position}": name for position, name in enumerate(nodes.values())}
    try:
        _ask_nodes(nodes, leave_mark, [(places, mark, code_hash()) for mark in marks], local=False)
        _ask_nodes(nodes, find_marks, [(places, marks)] * len(nodes), local=False)
    finally:
        remove_marks(places, marks)


def _ask_nodes(
    nodes: dict[str, str], question: Callable[..., str], arguments: Sequence[tuple[Any, ...]], local: bool
) -> None:
    """Asks every node what is wrong with it, each with its own arguments, and refuses the first that has an answer."""
    asked = {}
    for (node, name), given in zip(nodes.items(), arguments, strict=True):
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(question).options(num_cpus=0, scheduling_strategy=here)
        asked[name] = task.remote(*given)
    watches = {name: worker_watch(f"a worker on {name}", local, _NODE_SECONDS) for name in asked}
    with working("starting a worker" if local else f"asking {len(asked)} nodes of the cluster"):
        _refuse_first(asked, watches)


def _refuse_first(asked: dict[str, Any], watches: dict[str, WorkerWatch]) -> None:
    """Waits for every node's answer.

    Raises:
        UserError: a node has something wrong with it.
    """
    for name, answer in asked.items():
        try:
            wait_for(answer, watches[name])
            problem = ray.get(answer)
        except ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            problem = f"cannot run the study's code: {lines[-1].strip()}"
        if problem:
            raise UserError(f"node {name}: {problem}")


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def alive() -> frozenset[str]:
    """The nodes that Ray knows to be there."""
    return frozenset(node["NodeID"] for node in _alive())


def concurrency(resources: dict[str, float]) -> int:
    """How many trials fit on the cluster at once; each has to fit on one node.

    Raises:
        UserError: not even one fits.
    """
    nodes: list[dict[str, float]] = [node["Resources"] for node in _alive()]
    wanted = {name.upper(): amount for name, amount in resources.items()}
    at_once = sum(trials_at_once(node, wanted) for node in nodes)
    if at_once < 1:
        largest = {name: max(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
        raise UserError(
            f"a trial needs {resources} and the largest node has {largest['CPU']:g} CPUs and {largest['GPU']:g} "
            "GPUs: lower --cpus-per-trial or --gpus-per-trial"
        )
    return at_once


def in_use() -> str:
    """Which CPUs and GPUs are set aside for work now: ``2 of 2 CPUs, 0 of 1 GPUs``."""
    there, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    shown = [name for name in ("CPU", "GPU") if there.get(name)]
    return ", ".join(f"{there[name] - free.get(name, 0.0):g} of {there[name]:g} {name}s" for name in shown)


def trial_resources(plan: Plan) -> dict[str, float]:
    """What Ray sets aside for a trial."""
    return {"cpu": plan.config.cpus, "gpu": plan.gpus}
