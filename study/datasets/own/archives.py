"""Tar archives, packed or not, read member by member: nothing is extracted, and no path in them is ever used as one."""

import tarfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from defenses.registry import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST = 256 << 20  # bytes of a member that is taken into memory


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        position: among all members.
        name: its path there, which is only a name here.
        size: bytes.
        is_file, is_folder: whether it is a plain file, or a folder; else it is a link, a device, or the like.
        text: the content of those that were asked for; else None.
    """

    position: int
    name: str
    size: int
    is_file: bool
    is_folder: bool
    text: bytes | None = None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tarfile and what unpacks raise what they stumble on in a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} must be a tar archive that can be read: {reason}; pack it again") from error


def _streamed(path: Path, wanted: Set[int] | None) -> Iterator[tuple[int, tarfile.TarInfo, IO[bytes] | None]]:
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as archive:
        for position, member in enumerate(archive):
            taken = member.isreg() and (wanted is None or position in wanted)
            yield position, member, archive.extractfile(member) if taken else None


def list_members(path: Path, texts: tuple[str, ...], longest: int = 1 << 20) -> list[Member]:
    """All members in order, with the contents of those whose names end in `texts` and that are no longer than asked.

    Raises:
        UserError: the archive cannot be read.
    """
    members = []
    with _readable(path):
        for position, info, stream in _streamed(path, None):
            text = None
            if stream is not None and info.name.lower().endswith(texts) and info.size <= longest:
                text = stream.read()
            members.append(Member(position, info.name, info.size, info.isreg(), info.isdir(), text))
    return members


def contents(path: Path, wanted: Set[int]) -> Iterator[tuple[int, IO[bytes], int]]:
    """(position, stream, size) of the plain files at some positions, in order; a stream ends when the next begins.

    Raises:
        UserError: the archive cannot be read.
    """
    last = max(wanted, default=-1)
    with _readable(path):
        for position, info, stream in _streamed(path, wanted):
            if stream is not None:
                yield position, stream, info.size
            if position >= last:
                return


Change = Callable[[int, tarfile.TarInfo, IO[bytes]], IO[bytes]]
"""Takes a plain file's position, header and stream, and gives what is written in its place, its size in the header."""


def write_members(path: Path, target: Path, kept: Set[int], change: Change | None = None) -> None:
    """Writes an archive, packed as the first one is, of the members at some positions, byte for byte.

    Args:
        change: makes some plain files others.

    Raises:
        UserError: the archive cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _readable(path), new_archive(path, target) as archive:
        for position, info, stream in _streamed(path, kept):
            if position not in kept:
                continue
            if stream is None or change is None:
                archive.addfile(info, stream)
            else:
                with change(position, info, stream) as changed:
                    archive.addfile(info, changed)


def new_archive(path: Path, target: Path) -> tarfile.TarFile:
    """A new archive that is packed as another one is."""
    with path.open("rb") as stream:
        begin = stream.read(8)
    if begin.startswith(b"\x1f\x8b"):
        return tarfile.open(target, "w:gz", compresslevel=6)
    if begin.startswith(b"BZh"):
        return tarfile.open(target, "w:bz2")
    return tarfile.open(target, "w:xz") if begin.startswith(b"\xfd7zXZ") else tarfile.open(target, "w")
