"""One training read at several epochs: what a stage's key holds then, and what its trainings share.

A stage that is read after epoch e is what its training would have given, had it been stopped there under the same
schedule, bit for bit on a CPU. Its entry in the store is one like any other. Beside the entries lies, once for all
epochs of a training, what is needed to go on from some of them; see `defenses.storage.trajectory`.
"""

from typing import Any

from defenses.api import Params, Stage, Trajectory, stage_params
from defenses.config import Config
from defenses.models import ModelSpec, build_model

WITHOUT_END = ("constant",)
"""Schedules that do not know how long a training is: its beginning is a whole training of fewer epochs."""


def read_epoch(stage: Stage, config: Config) -> int | None:
    """After which epoch a stage is read, where its config says so; None where it is read at its end."""
    if stage.trajectory is None:
        return None
    read: int | None = getattr(config, stage.trajectory.read)
    return read


def key_params(stage: Stage, config: Config) -> dict[str, Any]:
    """The fields that a stage's outputs depend on: those that it reads, without what makes no difference.

    Read at its end a training is keyed as one without a `Trajectory`; under a schedule without end, read after epoch e,
    as one of e epochs.
    """
    params = stage_params(stage, config)
    if stage.trajectory is None:
        return params
    read, names = read_epoch(stage, config), stage.trajectory
    del params[names.read]
    if read is None or read == names.length(Params(**params)):
        return params
    return params | ({names.epochs: read} if _without_end(names, config) else {names.read: read})


def shared_params(stage: Stage, config: Config) -> dict[str, Any]:
    """The fields that trainings to all epochs have in common; `stage` has a trajectory."""
    assert stage.trajectory is not None
    names = stage.trajectory
    left_out = {names.read, names.epochs} if _without_end(names, config) else {names.read}
    return {name: value for name, value in stage_params(stage, config).items() if name not in left_out}


def _without_end(names: Trajectory, config: Config) -> bool:
    """Whether the beginning of a training is itself a training of the stage."""
    return names.counted is None and getattr(config, names.schedule) in WITHOUT_END


def state_bytes(spec: ModelSpec) -> int:
    """What one state of a training takes, about: the network, and a momentum for each of its weights."""
    model = build_model(spec, 0)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return 4 * (2 * weights + sum(buffer.numel() for buffer in model.buffers()))
