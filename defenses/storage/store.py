"""Content-addressed store of stage outputs: built once, by one process, shared by all.

An entry is a folder of payload files and a ``meta.json`` that is renamed into place last: its presence means that
the entry is complete. It holds the sha256 of every payload file and of its own content, so a damaged entry is found
and built again; a large file is read for that only where its size or time of last change is another than it was
written with. Arrays are ``.npy`` without pickle, weights safetensors, the rest JSON: nothing that is loaded can
execute code.
"""

import hashlib
import json
import logging
import os
import re
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike

from defenses.numerics import describe_machine
from defenses.registry import UserError
from defenses.storage.array_file import ArrayFile
from defenses.storage.atomic_files import canonical, disk_errors, write_atomic
from defenses.storage.checkpoint import SECONDS, Checkpoint, remove_checkpoints
from defenses.storage.inventory import ABOUT, MEASURING_PREFIX
from defenses.storage.occupancy import enter, entry_lock
from defenses.storage.remote import Remote, cache_folder, is_url
from defenses.storage.trajectory import KeptStates, TrajectoryCheckpoint
from defenses.storage.verification import FORMAT
from defenses.storage.verification import file_sha256 as _sha256
from defenses.storage.verification import meta_checksum as _checksum

LARGE_BYTES = 64 << 20  # larger files are verified by their size and time of last change, where these are as written
log = logging.getLogger(__name__)


def build_digest(value: Any) -> str:
    """sha256 of an output's content: array bytes with dtype and shape, weights by name, JSON canonically."""
    digest = hashlib.sha256()
    if isinstance(value, ArrayFile):
        return build_digest(value.read())
    if isinstance(value, np.ndarray):
        digest.update(canonical(["array", value.dtype.str, list(value.shape)]).encode())
        digest.update(np.ascontiguousarray(value).data)
    elif _is_weights(value):
        for name in sorted(value):
            digest.update(name.encode() + build_digest(value[name].detach().cpu().numpy()).encode())
    else:
        digest.update(canonical(value).encode())
    return digest.hexdigest()


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())


@dataclass(frozen=True)
class Artifact:
    """A finished entry. Outputs are loaded when they are asked for; arrays are memory maps.

    Attributes:
        folder: where it lies.
        built_seconds: what building it took, in all processes if some were killed and it went on.
        digests: output name -> content digest.
        built_by: the machine that built it, see `defenses.numerics.describe_machine`, and what the stage noted of how;
            empty for an entry of before.
    """

    folder: Path
    built_seconds: float
    digests: dict[str, str]
    files: dict[str, str]
    built_by: dict[str, Any]

    def load(self, name: str) -> Any:
        """One output. Arrays are read-only."""
        path = self.folder / self.files[name]
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return json.loads(path.read_text(encoding="utf-8"))


class Store:
    """A folder of artifacts. Any number of processes may use it at once.

    Args:
        root: the folder; made when it is missing.
        checkpoint_seconds: see `Checkpoint`.
        remote: where other nodes find what is built here, and the other way round.
    """

    def __init__(self, root: Path, checkpoint_seconds: float = SECONDS, remote: Remote | None = None) -> None:
        self.root = root
        self.remote = remote
        self.checkpoint_seconds = checkpoint_seconds
        self._entered = False
        self._known: dict[tuple[str, str], Artifact] = {}
        self._checkpoints: dict[tuple[str, str], Checkpoint] = {}
        self._array_files: dict[tuple[str, str], list[ArrayFile]] = {}

    def folder(self, stage: str, key: str) -> Path:
        """Where an entry lies. Names and links are checked, so that no key can leave the store.

        Raises:
            ValueError: a stage or key with other characters than a-z, 0-9 and _.
            UserError: there is a link in its place.
        """
        for part in (stage, key):
            if not re.fullmatch(r"[a-z0-9_]+", part):
                raise ValueError(f"a store's names hold a-z, 0-9 and _ alone, got {part!r}")
        folder = self.root / stage / key
        if folder.is_symlink() or (folder.parent.is_symlink() and not self._lends(folder.parent)):
            raise UserError(f"an entry of the store must be a folder in it, and {folder} is a link: remove it")
        return folder

    def _lends(self, stage: Path) -> bool:
        """Whether a linked folder is a stage of the store that this one lies in."""
        return (
            self.root.name.startswith(MEASURING_PREFIX) and stage.resolve() == self.root.resolve().parent / stage.name
        )

    def checkpoint(self, stage: str, key: str) -> Checkpoint:
        """For whoever builds an entry: where its epochs are kept until it is written."""
        self._checkpoints[stage, key] = Checkpoint(self.folder(stage, key), self.checkpoint_seconds)
        return self._checkpoints[stage, key]

    @contextmanager
    def trajectory(
        self,
        stage: str,
        key: str,
        shared: str,
        stop: int,
        about: Mapping[str, Any] | None = None,
        kept: KeptStates | None = None,
    ) -> Iterator[Checkpoint]:
        """For whoever builds an entry that is an early epoch of a training: what other epochs of it left.

        One process at a time trains it.

        Args:
            stage, key: where the entry will lie.
            shared: the key that all epochs of the training have in common.
            stop: how many epochs the entry is of.
            about: what the shared key was made of, kept beside the states for people.
            kept: after which epochs its state stays there; by default on the grid.
        """
        self._enter()
        folder = self.folder(stage, shared)
        asked = time.perf_counter()
        with entry_lock(folder):
            waited = time.perf_counter() - asked
            if about is not None and not (folder / ABOUT).exists():
                write_atomic(folder / ABOUT, json.dumps(about, indent=1))
            checkpoint = TrajectoryCheckpoint(folder, stop, self.checkpoint_seconds, kept)
            checkpoint.waited_seconds = waited
            self._checkpoints[stage, key] = checkpoint
            yield checkpoint

    def array_file(self, stage: str, key: str, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> ArrayFile:
        """For whoever builds an entry: an output that is written where it will lie, and never is in memory whole.

        Args:
            name: of the output, which the build then gives as this file.
            shape, dtype: of the array [N, ...].

        Raises:
            OSError: the disk has no room for it.
        """
        path = self.folder(stage, key) / f"{uuid.uuid4().hex[:8]}-{name}-payload.npy"
        made = ArrayFile(path, shape, dtype)
        self._array_files.setdefault((stage, key), []).append(made)
        return made

    def find(self, stage: str, key: str) -> Artifact | None:
        """The finished entry, or None. Checksums are verified once a process; a damaged entry is removed."""
        artifact, damaged = self._read(stage, key)
        if damaged is not None:
            log.warning("%s/%s is damaged, or of an older format: it is built again", stage, key[:12])
            with disk_errors(self.root):
                _remove(self.folder(stage, key), damaged)
        return artifact

    def look(self, stage: str, key: str) -> Artifact | None:
        """The finished entry, or None, as `find` gives it; but what is damaged stays, and nothing is fetched."""
        try:
            return _intact(folder := self.folder(stage, key), (folder / "meta.json").read_bytes())
        except OSError:
            return None

    def _read(self, stage: str, key: str) -> tuple[Artifact | None, bytes | None]:
        """The finished entry, or the text of a ``meta.json`` that is damaged or whose payload is; both may be None."""
        self._enter()
        folder = self.folder(stage, key)
        if (stage, key) in self._known and (folder / "meta.json").exists():
            return self._known[stage, key], None
        try:
            text = (folder / "meta.json").read_bytes()
        except FileNotFoundError:
            if not self._fetch(stage, key, folder):
                return None, None
            text = (folder / "meta.json").read_bytes()
        artifact = _intact(folder, text)
        if artifact is None:
            return None, text
        self._known[stage, key] = artifact
        with suppress(OSError):  # a store that cannot be written to is read all the same
            os.utime(folder / "meta.json")  # when it was last used: what nobody uses goes first
        return artifact, None

    def _enter(self) -> None:
        """Says, until this object goes, that a process uses the store."""
        if not self._entered and (descriptor := enter(self.root)) is not None:
            self._entered = True
            weakref.finalize(self, os.close, descriptor)

    def _fetch(self, stage: str, key: str, folder: Path) -> bool:
        """Takes an intact entry from the remote store, if there is one."""
        text = self.remote.fetch(stage, key, folder) if self.remote is not None else None
        if text is None:
            return False
        if _intact(folder, text) is None:
            log.warning(
                "%s/%s is damaged in the remote store, or of an older format: it is built again", stage, key[:12]
            )
            return False
        write_atomic(folder / "meta.json", text.decode())
        return True

    def get_or_build(
        self,
        stage: str,
        key: str,
        build: Callable[[], dict[str, Any]],
        describe: dict[str, Any] | None = None,
        how: Mapping[str, str] | None = None,
    ) -> tuple[Artifact, bool]:
        """The entry and whether it was there already. One process builds; the others wait for it.

        The lock is the kernel's: a builder that dies lets go of it at once, and one that is slow keeps it.

        Args:
            stage, key: where the entry lies.
            build: gives the outputs by name; called at most once.
            describe: what the key was made of, kept in ``meta.json`` for people.
            how: what `build` noted of how it computed, kept with the machine.

        Raises:
            UserError: the disk is full or cannot be written to, or `build` raised one.
            RuntimeError: the entry vanished while it was written.
        """
        artifact = self.find(stage, key)
        if artifact is not None:
            return artifact, True
        with disk_errors(self.root):
            folder = self.folder(stage, key)
            with entry_lock(folder):
                artifact, _ = self._read(stage, key)  # a damaged entry needs no removal: the new one replaces it
                if artifact is not None:
                    return artifact, True
                for stale in folder.glob("*-payload.*"):
                    stale.unlink()  # left by a builder that died; the lock is ours, so nobody reads or writes them
                started = time.perf_counter()
                outputs = self._outputs(stage, key, build)
                checkpoint = self._checkpoints.pop((stage, key), Checkpoint())
                spent = time.perf_counter() - started - checkpoint.waited_seconds
                seconds = checkpoint.earlier_seconds + spent
                self._write(folder, outputs, seconds, describe or {}, how or {})
                remove_checkpoints(folder)
                checkpoint.written()
                if self.remote is not None:
                    self.remote.publish(stage, key, folder)
                built, _ = self._read(stage, key)  # under the lock: whoever removes comes before or after
        if built is None:
            raise RuntimeError(f"{folder} vanished while it was written: is another program cleaning {self.root}?")
        return built, False

    def _outputs(self, stage: str, key: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a build gives; where it fails, no file of its own is left."""
        try:
            return build()
        except BaseException as error:
            for file in self._array_files.get((stage, key), ()):
                file.remove()
            if isinstance(error, UserError):  # a verdict on the inputs: it would be the same again
                remove_checkpoints(self.folder(stage, key))
            raise
        finally:
            for file in self._array_files.pop((stage, key), ()):
                file.close()

    def _write(
        self,
        folder: Path,
        outputs: dict[str, Any],
        seconds: float,
        describe: dict[str, Any],
        how: Mapping[str, str],
    ) -> None:
        tag = uuid.uuid4().hex[:8]  # a new name each time: a reader of a removed entry never sees half of a new one
        files = {}
        for name, value in outputs.items():
            files[name] = _write_payload(folder, f"{tag}-{name}-payload", value)
        meta = {
            "format": FORMAT,
            "built_seconds": seconds,
            "digests": {name: build_digest(value) for name, value in outputs.items()},
            "files": files,
            "sha256": {file: _sha256(folder / file) for file in files.values()},
            "stamps": {file: _settled_stamp(folder / file) for file in files.values() if _is_large(folder / file)},
            "describe": describe,
            "built_by": {**describe_machine(), **how},
        }
        write_atomic(folder / "meta.json", json.dumps(meta | {"checksum": _checksum(meta)}, indent=1))


def open_store(place: Path | str) -> Store:
    """The store in a folder, or behind a URL by way of this node's own folder for it."""
    if is_url(place):
        return Store(cache_folder(str(place)), remote=Remote(str(place)))
    return Store(Path(place))


def _intact(folder: Path, text: bytes) -> Artifact | None:
    """The entry that a ``meta.json`` tells of, or None where a checksum is wrong or a file is missing."""
    try:
        meta = json.loads(text)
        checksum = meta.pop("checksum")
        if meta["format"] != FORMAT or checksum != _checksum(meta):
            return None
        if not set(meta["files"].values()) <= meta["sha256"].keys() or not all(map(_plain_file, meta["sha256"])):
            return None
        if any((folder / file).is_symlink() for file in meta["sha256"]):
            return None
        read = [file for file in meta["sha256"] if not _untouched(folder / file, meta.get("stamps", {}))]
        if any(_sha256(folder / file) != meta["sha256"][file] for file in read):
            return None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Artifact(folder, meta["built_seconds"], meta["digests"], meta["files"], meta.get("built_by", {}))


def _is_large(file: Path) -> bool:
    return file.stat().st_size >= LARGE_BYTES


def _stamp(file: Path) -> list[int]:
    """Size and time of the last change."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _settled_stamp(file: Path) -> list[int]:
    """As `_stamp`, of a file whose content is on the disk: after a crash it would hide what never got there."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    return _stamp(file)


def _untouched(file: Path, stamps: dict[str, list[int]]) -> bool:
    """Whether a large file has the size and time that it was written with: then it is not read to be verified."""
    return file.name in stamps and _stamp(file) == stamps[file.name]


def _plain_file(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.-]+\.(npy|safetensors|json)", name) is not None


def _remove(folder: Path, damaged: bytes) -> None:
    """Removes a damaged ``meta.json``, unless the entry was built again since it was read, or is being built."""
    with suppress(Timeout, FileNotFoundError), FileLock(folder / "lock", timeout=0):
        if (folder / "meta.json").read_bytes() == damaged:
            (folder / "meta.json").unlink()


def _write_payload(folder: Path, stem: str, value: Any) -> str:
    if isinstance(value, ArrayFile):
        return value.path.name
    if isinstance(value, np.ndarray):
        np.save(folder / f"{stem}.npy", value, allow_pickle=False)
        return f"{stem}.npy"
    if _is_weights(value):
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in value.items()}
        safetensors.torch.save_file(tensors, folder / f"{stem}.safetensors")
        return f"{stem}.safetensors"
    (folder / f"{stem}.json").write_text(canonical(value), encoding="utf-8")
    return f"{stem}.json"
