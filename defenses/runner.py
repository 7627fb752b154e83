"""Runs a defense: asks the store for each stage, builds what is missing, and puts the result together."""

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from defenses.api import (
    CleanReserve,
    Defense,
    DefenseResult,
    Outputs,
    Params,
    Progress,
    Snapshots,
    Stage,
    StageContext,
    StageRun,
    SuspectDataset,
    Weights,
    silent,
    stage_params,
)
from defenses.config import Config
from defenses.cost import stage_cost
from defenses.models import ModelSpec, load_model
from defenses.numerics import numerics
from defenses.registry import UserError
from defenses.storage.atomic_files import canonical
from defenses.storage.checkpoint import Checkpoint
from defenses.storage.inventory import STATES_KEY
from defenses.storage.store import Artifact, Store, build_digest
from defenses.storage.trajectory import KeptStates
from defenses.trajectories import key_params, read_epoch, shared_params


@dataclass(frozen=True)
class RunContext:
    """Where and how a defense runs. Everything but `store`, `progress`, `step` and `kept` is part of each stage's key.

    Of the device that is what decides a sum (`defenses.numerics`), torch's threads in this process included. Of the
    clean reserve it is what a stage is handed, in the key of that stage alone. `step` says how training steps are taken
    (one of `STEP_MODES` of `defenses.training.captured_step`); it is noted beside what they gave. `kept` says which
    states trainings leave that are read early.
    """

    store: Store
    model: ModelSpec
    seed: int
    device: torch.device
    precision: str
    progress: Progress = silent
    reserve: CleanReserve | None = None
    step: str = "auto"
    kept: KeptStates = field(default_factory=KeptStates)


@dataclass(frozen=True)
class StageOutputs:
    """A stage's outputs, from the store (loaded when asked for) or from memory."""

    run: StageRun
    digests: Mapping[str, str]
    artifact: Artifact | None
    outputs: Outputs

    def load(self, name: str) -> Any:
        """One output, from memory or from the store."""
        if name not in self.outputs:
            assert self.artifact is not None
            self.outputs[name] = self.artifact.load(name)
        return self.outputs[name]


def clean_part(stage: Stage, config: Config, reserve: CleanReserve | None) -> CleanReserve | None:
    """The clean images that a stage is handed; None where it needs none.

    Raises:
        UserError: the reserve has fewer than the stage needs.
    """
    count = 0 if stage.clean_images is None else int(getattr(config, stage.clean_images))
    if count == 0:
        return None
    there = 0 if reserve is None else len(reserve)
    if reserve is None or there < count:
        fewer = f", or set {stage.clean_images} to at most {there}" if there else ""
        raise UserError(
            f"the stage {stage.name} needs {count} clean images and the reserve has {there}: give it more{fewer}",
            about="clean reserve",
        )
    return reserve.first(count)


def stage_identity(
    stage: Stage, config: Config, fingerprint: str, context: RunContext, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """All that a stage's outputs depend on; its key is the hash of this.

    Args:
        fingerprint: of the suspect dataset.
        inputs: local name -> content digest of the input.
    """
    clean = clean_part(stage, config, context.reserve)
    return {
        **({} if clean is None else {"clean": clean.fingerprint}),
        "stage": stage.name,
        "version": stage.version,
        "params": key_params(stage, config),
        "model": dataclasses.asdict(context.model),
        "precision": context.precision,
        "numerics": numerics(context.device),
        "seed": context.seed,
        "dataset": fingerprint,
        "inputs": dict(inputs),
    }


def stage_key(identity: Mapping[str, Any]) -> str:
    """Where the store keeps a stage of this identity: 64 hexadecimal digits."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def missing_stages(defense: Defense, fingerprint: str, context: RunContext, stop_at: str) -> list[str]:
    """Which stages up to one are not in the store yet. Nothing is run."""
    digests: dict[str, dict[str, str]] = {}
    missing = []
    for stage in needed_stages(defense, stop_at):
        if stage.parents <= set(digests):
            inputs = {local: digests[s.split(".")[0]][s.split(".")[1]] for local, s in stage.inputs.items()}
            identity = stage_identity(stage, defense.config, fingerprint, context, inputs)
            artifact = context.store.find(stage.name, stage_key(identity))
            if artifact is not None:
                digests[stage.name] = artifact.digests
                continue
        missing.append(stage.name)
    return missing


def run_stages(
    defense: Defense, dataset: SuspectDataset, context: RunContext, until: str | None = None, stop_at: str | None = None
) -> dict[str, StageOutputs]:
    """Runs a defense's stages in order.

    Args:
        until: None for all, ``"isolate"`` to stop once samples are flagged.
        stop_at: the name of a stage to stop after, with only the stages that it needs.
    """
    stages = needed_stages(defense, stop_at) if stop_at else defense.stages_until(until)
    done: dict[str, StageOutputs] = {}
    for stage in stages:
        done[stage.name] = _run_stage(stage, defense.config, dataset, context, done)
    return done


def needed_stages(defense: Defense | type[Defense], last: str) -> tuple[Stage, ...]:
    """A stage and everything it takes inputs from, in order."""
    needed = {last}
    for stage in reversed(defense.stages):
        if stage.name in needed:
            needed |= stage.parents
    return tuple(stage for stage in defense.stages if stage.name in needed)


def _run_stage(
    stage: Stage, config: Config, dataset: SuspectDataset, context: RunContext, done: Mapping[str, StageOutputs]
) -> StageOutputs:
    started = time.perf_counter()
    sources = {local: source.split(".") for local, source in stage.inputs.items()}
    digests = {local: done[name].digests[output] for local, (name, output) in sources.items()}
    identity = stage_identity(stage, config, dataset.fingerprint, context, digests)
    key = stage_key(identity)
    how: dict[str, str] = {}
    ran: list[Checkpoint] = []
    read = read_epoch(stage, config)
    about = {} if read is None else identity | {"params": shared_params(stage, config), "trajectory": True}
    training = stage_key(about) if about else ""

    def build() -> Outputs:
        if read is None:
            return train(context.store.checkpoint(stage.name, key) if stage.cached else Checkpoint())
        how[STATES_KEY] = training
        with context.store.trajectory(stage.name, key, training, read, about, context.kept) as checkpoint:
            return train(checkpoint)

    def train(checkpoint: Checkpoint) -> Outputs:
        inputs = {local: done[name].load(output) for local, (name, output) in sources.items()}
        stage_context = StageContext(
            stage.name,
            dataset,
            context.model,
            context.device,
            context.precision,
            context.seed,
            context.progress,
            checkpoint,
            clean_part(stage, config, context.reserve),
            context.step,
            how,
        )
        outputs = stage.run(stage_context, inputs, Params(**stage_params(stage, config)))
        ran.append(checkpoint)
        if set(outputs) != set(stage.outputs):
            raise TypeError(f"stage {stage.name} declares {sorted(stage.outputs)} and gave {sorted(outputs)}")
        return outputs

    def run(hit: bool, seconds: float, built: float, step: str | None) -> StageRun:
        flagged = done[sources["flagged"][0]].load(sources["flagged"][1]) if _asks_for_flags(stage) else None
        cost = stage_cost(stage, stage_params(stage, config), len(dataset), flagged)
        saved = sum(checkpoint.earlier_epochs for checkpoint in ran) / read if read else 0.0
        spent = None if cost is None else cost * (1 - saved) * (not hit)
        return StageRun(stage.name, key, hit, seconds, built, cost, True, step, training, spent)

    if stage.cached:
        artifact, hit = context.store.get_or_build(stage.name, key, build, identity, how)
        seconds = time.perf_counter() - started
        done_by = run(hit, seconds, artifact.built_seconds, artifact.built_by.get("step"))
        return StageOutputs(done_by, artifact.digests, artifact, {})
    outputs = build()
    seconds = time.perf_counter() - started
    digests = {name: build_digest(value) for name, value in outputs.items()}
    return StageOutputs(run(False, seconds, seconds, how.get("step")), digests, None, outputs)


def _asks_for_flags(stage: Stage) -> bool:
    """Whether a stage's cost may depend on who was flagged."""
    return stage.cost is not None and "flagged" in stage.inputs


def run_defense(
    defense: Defense, dataset: SuspectDataset, context: RunContext, until: str | None = None
) -> DefenseResult:
    """Runs a defense on a dataset; what the store already holds is not computed again.

    Args:
        until: ``"isolate"`` stops once samples are flagged: the result then has no model.
    """
    done = run_stages(defense, dataset, context, until)

    def part(source: str | None) -> Any:
        stage, _, output = (source or "").partition(".")
        return done[stage].load(output) if stage in done else None

    scores, flagged, weights = part(defense.scores), part(defense.flagged), part(defense.weights)
    series = _series(defense, done)
    spec = context.model.with_outputs(defense.outputs(dataset.num_classes))
    return DefenseResult(
        scores=None if scores is None else np.asarray(scores, dtype=np.float64),
        flagged=None if flagged is None else np.asarray(flagged),
        model=None if weights is None else load_model(spec, weights).to(context.device),
        sample_losses=part(defense.losses),
        train_loss=series.get(f"{(defense.weights or '').partition('.')[0]}.loss", ()),
        stages=tuple(d.run for d in done.values()),
        series=series,
        flagged_series=_flagged_series(defense, done),
        snapshots=_snapshots(defense, done, spec),
    )


def _series(defense: Defense, done: Mapping[str, StageOutputs]) -> dict[str, list[float]]:
    return {
        f"{stage.name}.{name}": values
        for stage in defense.stages
        if "series" in stage.outputs and stage.name in done
        for name, values in done[stage.name].load("series").items()
    }


def _flagged_series(defense: Defense, done: Mapping[str, StageOutputs]) -> dict[str, np.ndarray]:
    return {
        stage.name: done[stage.name].load("flagged_series")
        for stage in defense.stages
        if "flagged_series" in stage.outputs and stage.name in done
    }


def _snapshots(defense: Defense, done: Mapping[str, StageOutputs], spec: ModelSpec) -> Snapshots | None:
    stage, _, output = (defense.snapshots or "").partition(".")
    if stage not in done or done[stage].digests[output] == build_digest({}):
        return None

    def load() -> list[Weights]:
        epochs: dict[str, Weights] = {}
        for name, tensor in done[stage].load(output).items():
            epoch, _, weight = name.partition(".")
            epochs.setdefault(epoch, {})[weight] = tensor
        return [epochs[epoch] for epoch in sorted(epochs, key=int)]

    return Snapshots(stage, done[stage].digests[output], load, spec)
