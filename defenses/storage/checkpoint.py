"""Checkpoints of a stage that runs: one that is killed goes on an epoch back at most, and ends bit for bit the same.

They lie in the folder that the stage's entry will have in the store, so the entry's key (code version, config, data,
seed, inputs) is theirs, and points that share a stage share its checkpoint. Its lock makes one process write them. As
with an entry, a payload (safetensors) is complete once a JSON file names it, which is renamed into place; both have
checksums, and nothing that is loaded can execute code. Code that changes its numbers without a new version is told
from the old here as little as in the store.
"""

import copy
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from defenses.storage.atomic_files import write_atomic
from defenses.storage.state_codec import TrainingState, build_state, pack, restore, unpack

FORMAT = 1
SECONDS = 1.0
"""From one checkpoint to the next, at least: where epochs are shorter than this, what a kill costs is this."""
log = logging.getLogger(__name__)


class Checkpoint:
    """What a stage is handed to run its epochs with.

    Args:
        folder: of the stage's entry, whose lock is held; None keeps nothing.
        seconds: from one checkpoint to the next, at least; 0 for one after every epoch.

    Attributes:
        earlier_seconds: what processes before this one spent on the epochs that it did not have to run.
        earlier_epochs: how many these are, of all its loops.
        waited_seconds: how long this one waited for another that trained the same.
    """

    def __init__(self, folder: Path | None = None, seconds: float = SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds
        self._loops = 0
        self._started = time.monotonic()
        self.earlier_seconds = 0.0
        self.earlier_epochs = 0
        self.waited_seconds = 0.0

    def epochs(self, count: int, parts: TrainingState) -> Iterator[int]:
        """The numbers of the epochs that are still to run, from 0 when none was kept.

        A stage may have several such loops, one after another. State that is not among the parts must follow from the
        stage's inputs.

        Args:
            count: of the whole loop.
            parts: all that the loop changes and reads again, the generators that it draws from included.
        """
        self._loops += 1
        name = f"checkpoint-{self._loops}"
        done = self._restore(name, parts)
        last = time.monotonic()
        for epoch in range(done, count):
            yield epoch
            if self._folder is not None and time.monotonic() - last >= self._seconds:
                self._keep(name, epoch + 1, parts)
                last = time.monotonic()

    def written(self) -> None:
        """Told once the stage's entry is on the disk, which nothing then has to be kept for."""

    def _keep(self, name: str, epochs: int, parts: TrainingState) -> None:
        """Writes the parts as they are after so many epochs."""
        assert self._folder is not None
        spent = self.earlier_seconds + time.monotonic() - self._started
        _write(self._folder, name, {"epochs": epochs, "seconds": spent}, parts)

    def _restore(self, name: str, parts: TrainingState) -> int:
        """Puts the parts back to what they were; how many epochs that saves."""
        kept = _read(self._folder, name) if self._folder is not None else None
        if kept is None:
            return 0
        done, states = kept
        before = copy.deepcopy({part: build_state(live) for part, live in parts.items()})
        try:
            if states.keys() != parts.keys():
                raise KeyError(f"it holds {sorted(states)}, and not {sorted(parts)}")
            for part, live in parts.items():
                restore(live, states[part])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            for part, live in parts.items():
                restore(live, before[part])
            log.warning(
                "%s of %s does not fit this code or device, the stage starts anew: %s", name, self._folder, error
            )
            return 0
        log.info("%s goes on after epoch %d", self._folder, done["epochs"])
        self.earlier_seconds = max(self.earlier_seconds, done["seconds"])
        self.earlier_epochs += int(done["epochs"])
        return int(done["epochs"])


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints of a stage, and what was left of some by a process that died."""
    for file in folder.glob("*checkpoint-*"):
        file.unlink(missing_ok=True)


def _write(folder: Path, name: str, done: dict[str, float], parts: TrainingState) -> None:
    tensors: dict[str, Tensor] = {}
    tree = {part: pack(build_state(live), tensors) for part, live in parts.items()}
    data = safetensors.torch.save(tensors)
    payload = folder / f"{name}-{uuid.uuid4().hex[:8]}.safetensors"
    meta = {
        "format": FORMAT,
        **done,
        "payload": payload.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "parts": tree,
    }
    try:
        payload.write_bytes(data)
        write_atomic(folder / f"{name}.json", _with_checksum(meta))
    except BaseException:
        payload.unlink(missing_ok=True)
        raise
    for stale in folder.glob(f"{name}-*.safetensors"):
        if stale != payload:
            stale.unlink(missing_ok=True)


def _read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What is done, with its ``epochs`` and ``seconds``, and the parts' states.

    None where there is no checkpoint, or a damaged one.
    """
    try:
        text = (folder / f"{name}.json").read_bytes()
    except FileNotFoundError:
        return None
    try:
        meta = json.loads(text)
        del meta["checksum"]
        if meta["format"] != FORMAT or _with_checksum(meta).encode() != text:
            raise ValueError("its checksum is wrong, or its format an older one")
        data = (folder / meta["payload"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != meta["sha256"]:
            raise ValueError("the checksum of its payload is wrong")
        tensors = safetensors.torch.load(data)
        return meta, {part: unpack(tree, tensors) for part, tree in meta["parts"].items()}
    except (
        FileNotFoundError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        log.warning("%s of %s cannot be read, the stage starts anew: %s", name, folder, error)
        return None


def _with_checksum(meta: dict[str, Any]) -> str:
    text = json.dumps(meta)  # not `canonical`, which refuses NaN: a loss may be it
    return json.dumps(meta | {"checksum": hashlib.sha256(text.encode()).hexdigest()})
