"""A command that runs to its end while its processes are looked at: their sockets, names and variables."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""What keeps Ray and MLflow from reporting usage and from reading pickles. Commands set it for themselves."""


@dataclass(frozen=True)
class WatchedRun:
    """What was seen of a command and of all that it started.

    Attributes:
        folder: of its data and results.
        out, err: what it printed.
        sockets: (address, port) in hex -> name, of all on which a process listened.
        workers: process -> its environment, of all below the command.
        lines: the command lines of those.
    """

    folder: Path
    out: str
    err: str
    sockets: dict[tuple[str, str], str]
    workers: dict[int, dict[str, str]]
    lines: set[str]


def watch(command: list[str], folder: Path) -> WatchedRun:
    """Runs a command, which has to end well, without what `QUIET` sets, and looks at its processes meanwhile."""
    inherited = {name: value for name, value in os.environ.items() if name not in QUIET}
    sockets: dict[tuple[str, str], str] = {}
    workers: dict[int, dict[str, str]] = {}
    lines: set[str] = set()
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, env=inherited)
        try:
            while process.poll() is None:
                pids = tree_of(process.pid)
                sockets |= listening(pids)
                for pid in pids[1:]:
                    if pid not in workers and (variables := environment_of(pid)):
                        workers[pid] = variables
                        lines.add(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " "))
                time.sleep(0.3)  # looking goes through all processes of the machine
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=60)
    printed, told = ((folder / name).read_text() for name in ("out", "err"))
    assert process.returncode == 0, told
    return WatchedRun(folder, printed, told, sockets, workers, lines)


def tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        below.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for process in found:
        found += below.get(process, [])
    return found


def listening(pids: list[int]) -> dict[tuple[str, str], str]:
    """(address, port) in hex -> name, of the sockets on which these processes listen."""
    sockets = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[f"socket:[{fields[9]}]"] = tuple(fields[1].split(":"))
    found = {}
    for pid in pids:
        try:
            links = [os.readlink(handle) for handle in Path(f"/proc/{pid}/fd").iterdir()]
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        found |= {sockets[link]: f"{name} {pid}" for link in links if link in sockets}
    return found


def environment_of(pid: int) -> dict[str, str]:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(pair.decode().partition("=")[::2] for pair in pairs if b"=" in pair)
