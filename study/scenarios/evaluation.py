"""One cell: one configuration of one defense on one scenario, run and judged. Needs no Ray, Optuna or MLflow."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses import DEFENSES
from defenses.api import DefenseResult, Progress, StageRun, silent
from defenses.models import ModelSpec, load_model
from defenses.numerics import describe_numerics, numerics
from defenses.runner import RunContext, run_defense, run_stages
from defenses.signals import signals
from defenses.storage.atomic_files import canonical
from defenses.storage.store import Store, open_store
from defenses.storage.trajectory import KeptStates
from defenses.training.inference import predict_array
from study.datasets import DatasetSpec, load_dataset
from study.datasets.images import Images
from study.scenarios import metrics
from study.scenarios.oracle_defenses import find_defense, make_defense
from study.scenarios.poison import PoisonedDataset
from study.scenarios.scenario import Scenario, model_spec, stage_seed
from study.scenarios.stored_poison import poison_key, stored_poison, stored_trigger
from study.scenarios.undefended import NOT_JUDGED, needs_undefended
from tracking import names
from tracking.artifacts import Flags

JUDGE_VERSION = 1  # raise it when a metric of the undefended model would change


@dataclass(frozen=True)
class EvaluationContext:
    """What all cells of a study share. Small and picklable: it travels to every worker.

    Attributes:
        dataset: which images.
        store: folder of the artifact store, or its URL.
        model, width, blocks: the network.
        precision: ``bf16`` or ``fp32``, settled once for the whole study.
        device: ``cpu`` or ``cuda``.
        undefended: fields of `NoDefenseConfig` for the undefended model.
        asr_floor: an attack whose undefended ASR is lower has failed, and no defense is credited for it.
        step: how training steps are taken, one of `defenses.training.captured_step.STEP_MODES`.
        keep_states: which states trainings keep that are read early; see `defenses.storage.trajectory.KeptStates`.
        undefended_on: scenarios with an undefended model: ``every``, or those that are ``attacked``.
    """

    dataset: DatasetSpec
    store: Path | str
    model: str
    width: int
    blocks: tuple[int, ...]
    precision: str
    device: str
    undefended: dict[str, Any]
    asr_floor: float
    step: str = "auto"
    keep_states: str = "grid"
    undefended_on: str = "every"


@dataclass(frozen=True)
class EvaluationResult:
    """What one cell gave.

    Attributes:
        metrics: by name; undefined ones are None.
        series: per-epoch or per-round values, by ``stage.name``.
        stages: every stage that took part, the poisoning and the undefended model included.
        scores, flagged, labels, poison_mask, cover_mask: over the training set; no masks where nobody knows what is
            poisoned.
        attack_failed: the undefended ASR lies below the floor.
    """

    scenario: Scenario
    metrics: dict[str, float | None]
    series: dict[str, list[float]]
    stages: tuple[StageRun, ...]
    meta: dict[str, Any]
    attack_failed: bool
    wall_seconds: float
    scores: NDArray[np.float64] | None = field(repr=False, default=None)
    flagged: NDArray[np.bool_] | None = field(repr=False, default=None)
    labels: NDArray[np.int64] | None = field(repr=False, default=None)
    poison_mask: NDArray[np.bool_] | None = field(repr=False, default=None)
    cover_mask: NDArray[np.bool_] | None = field(repr=False, default=None)
    preview: NDArray[np.uint8] | None = field(repr=False, default=None)

    @property
    def flags(self) -> Flags | None:
        """Who was flagged, with the ground truth; None for a defense that flags nothing."""
        if self.flagged is None or self.labels is None:
            return None
        fingerprint = self.meta["fingerprint"]
        return Flags(self.flagged, self.scores, self.labels, self.poison_mask, fingerprint, self.cover_mask)


class ImageCache:
    """The images that this process met last, read once and shared by all its trials, which never write to them."""

    def __init__(self) -> None:
        self._known: dict[DatasetSpec, Images] = {}

    def __call__(self, spec: DatasetSpec) -> Images:
        """The images of a spec."""
        if spec not in self._known:
            self.lend(spec, load_dataset(spec))
        return self._known[spec]

    def lend(self, spec: DatasetSpec, images: Images) -> None:
        """Images that are in memory already: a worker's lie in Ray's object store, one copy a node."""
        if len(self._known) >= 2 and spec not in self._known:
            self._known.pop(next(iter(self._known)))
        self._known[spec] = images

    def cache_clear(self) -> None:
        """Forgets all."""
        self._known.clear()


Prepared = tuple[PoisonedDataset, ModelSpec]
"""Poisoned data, and the network for them."""


class PoisonCache:
    """The poisoned data that this process met last, with what its network must know of them.

    Args:
        most_bytes: that training and triggered images may take together; what is larger by itself is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._known: dict[tuple[object, ...], Prepared] = {}

    def __call__(self, source: tuple[object, ...], read: Callable[[], Prepared]) -> Prepared:
        """What `read` gives, unless it was read before from the same source."""
        made = self._known.pop(source) if source in self._known else read()
        self._known[source] = made  # as the last one: the first is let go of
        while self._known and sum(map(_bytes, self._known.values())) > self._most:
            self._known.pop(next(iter(self._known)))
        return made

    def cache_clear(self) -> None:
        """Forgets all."""
        self._known.clear()


def _bytes(prepared: Prepared) -> int:
    return int(prepared[0].suspect.images.nbytes + prepared[0].triggered_images.nbytes)


cached_images = ImageCache()
cached_store = functools.lru_cache(maxsize=2)(open_store)
cached_poison = PoisonCache(256 << 20)


def prepare(
    scenario: Scenario, environment: EvaluationContext, progress: Progress = silent
) -> tuple[PoisonedDataset, RunContext, tuple[StageRun, ...]]:
    """The poisoned data of a scenario, the context in which a defense runs on it, and what making the data took.

    The last of the runs is the poisoning itself; before it come the parts that the attack trains.
    """
    images: Images = cached_images(environment.dataset)
    store: Store = cached_store(environment.store)
    device = torch.device(environment.device)
    trained = stored_trigger(scenario, images, store, device, progress)
    started = time.perf_counter()
    network = (environment.model, environment.width, environment.blocks)

    def read() -> tuple[Prepared, bool]:
        made, known = stored_poison(scenario, images, store, device)
        return (made, model_spec(*network, images, made.suspect)), known

    key = poison_key(scenario, images, device)
    artifact = store.find("poison", key)
    if artifact is None:
        (poisoned, spec), hit = read()
        artifact = store.find("poison", key)
    else:  # the names of its files are its own: one that was built again is read again
        source = (artifact.folder, *artifact.files.values(), *network)
        (poisoned, spec), hit = cached_poison(source, lambda: read()[0]), True
    context = RunContext(
        store=store,
        model=spec,
        seed=stage_seed(scenario),
        device=device,
        precision=environment.precision,
        progress=progress,
        reserve=images.reserve,
        step=environment.step,
        kept=KeptStates(environment.keep_states),
    )
    built = artifact.built_seconds if artifact else 0.0
    run = StageRun("poison", key, hit, time.perf_counter() - started, built)
    return poisoned, context, (*trained, run)


def train_trigger(scenario: Scenario, environment: EvaluationContext, progress: Progress = silent) -> list[StageRun]:
    """Trains what the attack of a scenario needs, unless it is in the store; what took part and what it cost."""
    store: Store = cached_store(environment.store)
    return stored_trigger(
        scenario, cached_images(environment.dataset), store, torch.device(environment.device), progress
    )


def evaluate_scenario(
    defense: str,
    config: Mapping[str, Any],
    scenario: Scenario,
    environment: EvaluationContext,
    until: str | None = None,
    progress: Progress = silent,
) -> EvaluationResult:
    """Runs a defense on a scenario and judges it beside the undefended model.

    Args:
        defense: a key of `defenses.DEFENSES` or `study.scenarios.oracle_defenses.ORACLE_DEFENSES`.
        config: fields of its Config; the rest have the paper's values.
        until: ``"isolate"`` judges flags alone and trains no final model.
    """
    started = time.perf_counter()
    poisoned, context, attack_runs = prepare(scenario, environment, progress)
    undefended, undefended_runs = NOT_JUDGED
    if needs_undefended(find_defense(defense), config, scenario, environment):
        undefended, undefended_runs = judge_undefended(poisoned, attack_runs[-1].key, context, environment)
    result = run_defense(make_defense(defense, config, poisoned), poisoned.suspect, context, until)
    snapshot_series, snapshot_runs = judge_snapshots(result, poisoned, attack_runs[-1].key, context)
    visible = signals(result, poisoned.suspect.labels, poisoned.suspect.num_classes)
    values = {**judge(result, poisoned, context), **undefended, **{names.signal(n): v for n, v in visible.items()}}
    floor = undefended["asr_undefended"]
    # A defense may share its training with the undefended model, as `no_defense` and detectors do.
    own, listed = {run.key for run in result.stages}, {run.key for run in undefended_runs}
    return EvaluationResult(
        scenario=scenario,
        metrics=values,
        series={**{n: list(v) for n, v in result.series.items()}, **_flag_series(result, poisoned), **snapshot_series},
        stages=(
            *_of_others((*attack_runs, *undefended_runs), own),
            *(run for run in result.stages if run.key not in listed),
            *_of_others(snapshot_runs, own),
        ),
        meta=_meta(poisoned, cached_images(environment.dataset), context, result),
        attack_failed=floor is not None and floor < environment.asr_floor,
        wall_seconds=time.perf_counter() - started,
        scores=result.scores,
        flagged=result.flagged,
        labels=poisoned.suspect.labels,
        poison_mask=poisoned.poison_mask if poisoned.poison_known else None,
        cover_mask=poisoned.cover_mask if poisoned.covers_known else None,
        preview=poisoned.preview,
    )


def _of_others(runs: Iterable[StageRun], own: Container[str]) -> list[StageRun]:
    """What the attack or the judge needs, marked as no part of the defense unless its key is among `own`."""
    return [dataclasses.replace(run, of_defense=run.key in own) for run in runs]


def _meta(poisoned: PoisonedDataset, images: Images, context: RunContext, result: DefenseResult) -> dict[str, Any]:
    """What is told beside the metrics: of the data counts and what the attacker wants images to be called."""
    computed_on = describe_numerics(context.device)
    if context.device.type == "cuda":
        taken = sorted({run.step for run in result.stages if run.step is not None})
        computed_on = ", ".join([computed_on, *(f"{step} steps" for step in taken)])
    meta = {**poisoned.meta, "fingerprint": poisoned.suspect.fingerprint, names.COMPUTED_ON: computed_on}
    targets = np.unique(poisoned.triggered_labels).tolist()
    if targets:
        meta["target_class"] = images.class_text(targets[0]) if len(targets) == 1 else f"one of {len(targets)}"
    return meta


def judge(result: DefenseResult, poisoned: PoisonedDataset, context: RunContext) -> dict[str, float | None]:
    """All metrics of a result, by the names of `tracking.names`."""
    values: dict[str, float | None] = {}
    if result.flagged is not None:
        values |= _judge_flags(result.flagged, result.scores, poisoned)
    if result.model is not None:
        num_classes = context.model.num_classes
        clean = predict_array(result.model, poisoned.test_images, context.device, context.precision)
        values["ca"] = metrics.ca(clean.argmax(axis=1), poisoned.test_labels)
        if clean.shape[1] > num_classes:
            values["ca_folded"] = metrics.ca_folded(clean, poisoned.test_labels, num_classes)
            values["clean_quarantined"] = metrics.quarantined(clean.argmax(axis=1), num_classes)
        values["asr"] = None
        if len(poisoned.triggered_labels):
            triggered = predict_array(result.model, poisoned.triggered_images, context.device, context.precision)
            values["asr"] = metrics.asr(triggered.argmax(axis=1), poisoned.triggered_labels)
    return values


def _judge_flags(
    flagged: NDArray[np.bool_], scores: NDArray[np.float64] | None, poisoned: PoisonedDataset
) -> dict[str, float | None]:
    """What can be said of flags: their share alone where nobody knows what is poisoned."""
    values: dict[str, float | None] = {"flagged_share": float(flagged.mean())}
    if not poisoned.poison_known:
        return values
    poison, covers = poisoned.poison_mask, poisoned.cover_mask
    values["tpr"] = metrics.tpr(flagged, poison)
    values["fpr"] = metrics.fpr(flagged, poison)
    values["auroc"] = metrics.auroc(scores, poison)
    values["auroc_flags"] = metrics.auroc(flagged.astype(np.float64), poison)
    if covers.any():
        values["fpr_covers_excluded"] = metrics.fpr_covers_excluded(flagged, poison, covers)
        values["tpr_covers_poison"] = metrics.tpr_covers_poison(flagged, poison, covers)
    return values


def judge_undefended(
    poisoned: PoisonedDataset, poison: str, context: RunContext, environment: EvaluationContext
) -> tuple[dict[str, float | None], tuple[StageRun, ...]]:
    """CA and ASR of plain training on the scenario; trained and judged once, whoever asks.

    Returns:
        ``ca_undefended`` and ``asr_undefended``, and the stages that gave them.
    """
    no_defense = DEFENSES["no_defense"]
    config = no_defense.config_type.from_mapping(environment.undefended)
    done = run_stages(no_defense(config), poisoned.suspect, context)["standard_training"]
    key = _judge_key(done.digests["weights"], poison, context)

    def build() -> dict[str, Any]:
        result = DefenseResult(None, None, load_model(context.model, done.load("weights")))
        values = judge(result, poisoned, context)
        return {"metrics": {"ca_undefended": values["ca"], "asr_undefended": values["asr"]}}

    started = time.perf_counter()
    artifact, hit = context.store.get_or_build("undefended", key, build, {"dataset": poisoned.suspect.fingerprint})
    seconds = time.perf_counter() - started
    judged = StageRun("undefended", key, hit, seconds, artifact.built_seconds)
    return artifact.load("metrics"), (done.run, judged)


def _judge_key(weights: str, poison: str, context: RunContext) -> str:
    """Names what judging weights of this digest on poisoned data of this key gives."""
    identity = [JUDGE_VERSION, weights, context.precision, poison, numerics(context.device)]
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def judge_snapshots(
    result: DefenseResult, poisoned: PoisonedDataset, poison: str, context: RunContext
) -> tuple[dict[str, list[float]], tuple[StageRun, ...]]:
    """CA and ASR of a model as it was trained, before the first epoch and after each; judged once, whoever asks.

    Returns:
        ``stage.ca`` and ``stage.asr``, and the run that gave them; nothing where a defense kept no snapshots.
    """
    snapshots = result.snapshots
    if snapshots is None:
        return {}, ()
    key = _judge_key(snapshots.digest, poison, context)

    def build() -> dict[str, Any]:
        series: dict[str, list[float]] = {}
        for weights in snapshots.load():
            model = load_model(snapshots.model, weights).to(context.device)
            for name, value in judge(DefenseResult(None, None, model), poisoned, context).items():
                if name in (names.CA, names.ASR) and value is not None:
                    series.setdefault(f"{snapshots.stage}.{name}", []).append(value)
        return {"series": series}

    started = time.perf_counter()
    artifact, hit = context.store.get_or_build(
        "judged_snapshots", key, build, {"dataset": poisoned.suspect.fingerprint}
    )
    run = StageRun("judged_snapshots", key, hit, time.perf_counter() - started, artifact.built_seconds)
    return artifact.load("series"), (run,)


def _flag_series(result: DefenseResult, poisoned: PoisonedDataset) -> dict[str, list[float]]:
    """TPR and FPR of the flags as they developed: PIPD's rounds, QT's BQR and CQR by epoch."""
    series: dict[str, list[float]] = {}
    if not poisoned.poison_known:
        return series
    for name, steps in result.flagged_series.items():
        for metric, function in (("tpr", metrics.tpr), ("fpr", metrics.fpr)):
            values = [function(np.asarray(step), poisoned.poison_mask) for step in steps]
            series[f"{name}.{metric}"] = [value for value in values if value is not None]
    return series
