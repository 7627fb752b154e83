"""A store behind a URL: object storage, or whatever else fsspec reaches. Nodes share entries through it.

Each node works in a folder of its own (no object storage has locks, or files that can be mapped into memory), takes
what it lacks from the URL, and puts there what it has built. An entry's ``meta.json`` is copied last in both
directions, so an entry is whole or not there; two nodes that build one at the same time leave two equal ones.
"""

import hashlib
import json
import logging
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from defenses.registry import UserError

META = "meta.json"
_CACHE = "backdoor-defense-study"
log = logging.getLogger(__name__)


def is_url(place: object) -> bool:
    """Whether a place is a URL, such as ``s3://bucket/store``, and no folder."""
    return isinstance(place, str) and re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


def cache_folder(url: str) -> Path:
    """This node's own folder for what lies behind a URL, below the user's cache.

    Raises:
        UserError: there is no home folder for it.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        raise UserError(
            "a store behind a URL needs a cache folder, and this user has no home: set XDG_CACHE_HOME"
        ) from None
    return base / _CACHE / hashlib.sha256(url.encode()).hexdigest()[:16]


class Remote:
    """Entries behind a URL.

    Args:
        url: as fsspec takes it; what it needs to log in comes from its own settings and the environment.

    Raises:
        UserError: an unknown protocol, or one whose package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec  # its protocols load libraries of their own

        self.url = url
        try:
            fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UserError(
                f"a store must be a folder or a URL that fsspec can open, got {url}: {error}", about="store"
            ) from error
        self._fs: Any = fs
        self._root = root.rstrip("/")

    def check(self) -> None:
        """Writes, reads and removes a file.

        Raises:
            UserError: one of the three failed.
        """
        mark = f"mark_{uuid.uuid4().hex}"
        self.write_mark(mark)
        if not self.has_mark(mark):
            raise UserError(
                f"the store {self.url} must give back what was written there, and does not: use another place",
                about="store",
            )
        self.remove_mark(mark)

    def write_mark(self, mark: str) -> None:
        """A small file at the root that holds its own name.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{mark}", mark.encode())
        except Exception as error:  # each protocol has errors of its own
            raise UserError(
                f"the store {self.url} must be writable: {type(error).__name__}: {_line(error)}", about="store"
            ) from error

    def has_mark(self, mark: str) -> bool:
        """Whether such a file is there now and whole."""
        try:
            self._fs.invalidate_cache()
            return bytes(self._fs.cat_file(f"{self._root}/{mark}")) == mark.encode()
        except Exception:  # likewise; whatever it is, this node does not see the file
            return False

    def remove_mark(self, mark: str) -> None:
        """Removes such a file; one that cannot be removed is left."""
        with suppress(Exception):
            self._fs.rm_file(f"{self._root}/{mark}")

    def fetch(self, stage: str, key: str, folder: Path) -> bytes | None:
        """Copies an entry's payload to this node.

        Returns:
            Its ``meta.json``, which the caller checks before it writes it; None where there is no such entry, or it
            cannot be had now: then it is built here.
        """
        place = f"{self._root}/{stage}/{key}"
        try:
            self._fs.invalidate_cache(place)
            if not self._fs.exists(f"{place}/{META}"):
                return None
            text = bytes(self._fs.cat_file(f"{place}/{META}"))
            folder.mkdir(parents=True, exist_ok=True)
            for name in _payload(text):
                temporary = folder / f".{uuid.uuid4().hex[:8]}-{name}"
                try:
                    self._fs.get_file(f"{place}/{name}", str(temporary))
                    temporary.replace(folder / name)
                except FileNotFoundError:
                    break  # what is there is damaged, which the caller sees
                finally:
                    temporary.unlink(missing_ok=True)
        except Exception as error:  # each protocol has errors of its own, and none may end a study
            log.warning("%s/%s cannot be read from %s (%s): it is built here", stage, key[:12], self.url, _line(error))
            return None
        return text

    def publish(self, stage: str, key: str, folder: Path) -> None:
        """Copies a finished entry to the URL. Where that fails a warning is all: the entry is good here."""
        place = f"{self._root}/{stage}/{key}"
        try:
            text = (folder / META).read_bytes()
            self._fs.makedirs(place, exist_ok=True)
            for name in _payload(text):
                self._fs.put_file(str(folder / name), f"{place}/{name}")
            self._fs.pipe_file(f"{place}/{META}", text)
        except Exception as error:  # likewise
            log.warning(
                "%s/%s cannot be written to %s (%s): other nodes will build it too",
                stage,
                key[:12],
                self.url,
                _line(error),
            )


def _payload(meta: bytes) -> list[str]:
    """The payload files of an entry; none where its ``meta.json`` is damaged, or names a place outside of the entry."""
    try:
        names = [str(name) for name in json.loads(meta)["files"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return names if all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) and name[0] != "." for name in names) else []


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
