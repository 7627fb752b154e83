"""What can be known to fail is refused here, in one line, before anything is started."""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from defenses.models import ModelSpec
from defenses.registry import UserError
from defenses.storage.remote import Remote
from study.attacks.api import TRAIN, Attack
from study.attacks.support.fitting import FitContext
from study.code_version import check_code
from study.config.config import CommonConfig, StudyConfig
from study.datasets.images import Images
from study.scenarios.evaluation import EvaluationContext
from study.scenarios.poison import select
from study.scenarios.scenario import Scenario

_LEAST_FREE_BYTES = 500 << 20  # a default study writes about 100 MB; Ray's own log and spill folders need room too


def settle_device(wanted_gpus: float | Literal["auto"] | None, remote: bool) -> tuple[str, float]:
    """``cuda`` or ``cpu``, and the GPUs a trial.

    Args:
        wanted_gpus: the user's ``--gpus-per-trial``; None takes a GPU where this machine has one, and ``auto`` a whole
            one until a trial was measured.
        remote: the work is done on a cluster, whose GPUs cannot be seen from here.
    """
    import torch

    available = torch.cuda.is_available()
    if wanted_gpus is None:
        wanted_gpus = 1.0 if available and not remote else 0.0
    if wanted_gpus == 0:
        return "cpu", 0.0
    if not remote and not available:
        raise UserError(
            f"--gpus-per-trial {wanted_gpus} needs a GPU that torch can use, and this machine has none: "
            "leave it out to run on the CPU, or name a cluster with --address"
        )
    if wanted_gpus == "auto":
        return "cuda", 1.0
    if wanted_gpus > 1 and wanted_gpus != int(wanted_gpus):
        raise UserError(f"--gpus-per-trial must be at most 1 or a whole number, got {wanted_gpus:g}")
    return "cuda", wanted_gpus


def check_cpus(wanted: float, remote: bool) -> None:
    """Refuses more cores a trial than this machine has; a cluster's are known once it is reached."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not remote and wanted > here:
        raise UserError(f"--cpus-per-trial must be at most {here}, the cores of this machine, got {wanted:g}")


def settle_precision(wanted: str, device: str) -> str:
    """``bf16`` or ``fp32``, settled once so that all of a study's stages agree."""
    from defenses.training.precision import best_precision

    return best_precision(device) if wanted == "auto" and device == "cpu" else "bf16" if wanted == "auto" else wanted


def check_folder(folder: Path, option: str) -> Path:
    """The folder, made and shown to be writable."""
    if re.match(r"[a-z][a-z0-9+]+:/", str(folder)):
        raise UserError(
            f"{option} must be a folder, since a study's ledger needs file locks, got the URL {folder}: mount it, and "
            "name the folder; --store alone may be a URL"
        )
    resolved = folder.expanduser().resolve()
    try:
        resolved.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=resolved):
            pass
    except OSError as error:
        raise UserError(
            f"{option} must be a folder that can be written, got {resolved}: {error.strerror}; choose another"
        ) from error
    return resolved


def check_file(path: Path, option: str) -> None:
    """Refuses a file that could not be written once the work is done; its folder is made."""
    if path.is_dir():
        raise UserError(f"{option} must name a file, got the folder {path}: add a name, such as {path / 'result.json'}")
    check_folder(path.parent, f"the place of {option}")


def check_room(folder: Path) -> None:
    """Refuses to start on a disk that is nearly full."""
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        raise UserError(
            f"a study needs at least {_LEAST_FREE_BYTES >> 20} MiB of disk, and {folder} has {free >> 20}: "
            "free some, or choose another --out and --store"
        )


def check_home() -> None:
    """Ray keeps an access token below the home folder and fails obscurely where it cannot."""
    home = Path.home()
    token = home / ".ray"
    place = token if token.exists() else home
    try:
        if not os.access(place, os.W_OK):
            raise PermissionError
        with tempfile.NamedTemporaryFile(dir=place):  # root may write anywhere, where there is a folder at all
            pass
    except OSError:
        raise UserError(
            f"Ray must be able to write below the home folder, and {home} is missing or read-only: set HOME to another"
        ) from None


def check_places(config: CommonConfig) -> Path:
    """The results folder, checked; the store's as well."""
    out = check_folder(config.out, "--out")
    check_room(out)
    if isinstance(place := config.store_place, str):
        Remote(place).check()
    elif config.store is not None:
        check_room(check_folder(place, "--store"))
    if isinstance(config, StudyConfig):
        check_home()
    return out


def check_scenarios(scenarios: Sequence[Scenario], images: Images, environment: EvaluationContext) -> None:
    """Refuses a network that cannot be built, and scenarios that cannot be made, by their first failure.

    Images are chosen for every scenario, but only one is triggered for each attack: it shows as much, and in no time.
    """
    ModelSpec(environment.model, environment.width, environment.blocks, images.num_classes, images.image_size)
    for scenario in scenarios:
        if not 0 <= scenario.target_label < images.num_classes:
            raise UserError(
                f"--target-label must lie in [0, {images.num_classes - 1}] for this dataset, "
                f"got {scenario.target_label}"
            )
        attack = scenario.parsed
        select(images.train_labels, attack, scenario.poison_rate, scenario.target_label, scenario.seed)
    for scenario in {scenario.attack: scenario for scenario in scenarios}.values():
        attack = scenario.parsed
        attack.check(images)
        if attack.poisons and not attack.trained:
            _try_trigger(attack, images, FitContext(scenario.seed, scenario.target_label))


def _try_trigger(attack: Attack, images: Images, context: FitContext) -> None:
    state = attack.fit(images, context)
    attack.apply(images.train_images[:1], np.zeros(1, dtype=np.int64), state, TRAIN)


def trials_at_once(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many trials fit on a node, given and wanted amounts by resource.

    A share of a GPU lies on one device: of two GPUs 0.4 fits four times, not five.
    """
    fits = [
        math.floor(1 / amount + 1e-9) * math.floor(node.get(name, 0.0))
        if name == "GPU" and amount < 1
        else math.floor(node.get(name, 0.0) / amount + 1e-9)
        for name, amount in wanted.items()
        if amount > 0
    ]
    return min(fits)


def leave_mark(places: Sequence[Path | str], mark: str, code: str) -> str:
    """Runs on a node of the cluster: leaves a file in each folder or URL. Returns what is wrong there, if anything."""
    try:
        check_code(code)
        for place in places:
            if isinstance(place, str):
                Remote(place).write_mark(mark)
            else:
                (place / mark).write_text(mark)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot write to {place} ({error.strerror}): share it with that node, or choose other --out and --store"
    return ""


def find_marks(places: Sequence[Path | str], marks: Mapping[str, str]) -> str:
    """Runs on a node of the cluster: looks for the others' files. Returns what is wrong there, or an empty string.

    Args:
        marks: file name -> the node that left it. No name was looked up before, so no cached answer can be stale.
    """
    for place in places:
        for mark, node in marks.items():
            if not _has_mark(place, mark):
                return (
                    f"does not see in {place} what node {node} wrote there: it must be one shared folder (NFS, a "
                    "mounted volume), or for --store a URL; choose other --out and --store"
                )
    return ""


def _has_mark(place: Path | str, mark: str) -> bool:
    if isinstance(place, str):
        return Remote(place).has_mark(mark)
    try:
        return (place / mark).read_text() == mark
    except OSError:
        return False


def remove_marks(places: Sequence[Path | str], marks: Iterable[str]) -> None:
    """Removes the files of all nodes."""
    for place in places:
        for mark in marks:
            if isinstance(place, str):
                Remote(place).remove_mark(mark)
            else:
                (place / mark).unlink(missing_ok=True)
