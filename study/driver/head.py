"""Whether the head of a Ray cluster answers: asked before it is joined, and watched as long as a study runs."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping

from defenses.registry import UserError

_ASK_SECONDS = 5.0
_TRIES, _PAUSE_SECONDS = 3, 2.0
_LOOK_SECONDS = 2.0
_SILENT_SECONDS = 30.0  # a head that was restarted answers again by then
_GONE_SECONDS = 3.0
_LEAVE_SECONDS = 8.0  # the driver may be in a call of Ray's from which no signal brings it back

# How HTTP/2, and so every gRPC server as Ray's are, is greeted: the preface and an empty frame of settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
_FRAME_BYTES, _SETTINGS = 9, 4

OWN_NODE = "Ray's node on this machine"
Place = tuple[str, int]
"""Host and port."""


class LostCluster(UserError):
    """Ray is gone from under a study: nothing of Ray's can be called any more, not even to leave it."""


def why_silent(place: Place) -> str:
    """Asks a gRPC server for a sign of life. Gives why there was none, or an empty string."""
    try:
        with socket.create_connection(place, timeout=_ASK_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""  # it would have to be greeted with a certificate; that it listens has to do
            connection.sendall(_GREETING)
            frame = connection.recv(_FRAME_BYTES)
    except TimeoutError:
        return f"no answer within {_ASK_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return "" if len(frame) > 3 and frame[3] == _SETTINGS else "what answers there is not Ray"


def check_address(address: str) -> None:
    """Refuses a cluster that does not answer, which Ray itself would go on asking for a quarter of an hour.

    Raises:
        UserError: it does not, or the address is none.
    """
    place = _resolve(address)
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        why = why_silent(place)
        if not why:
            return
    named = f"{place[0]}:{place[1]}"
    raise UserError(
        f"no Ray cluster answers at {named if address == named else f'{address} ({named})'}: {why}; start one there "
        "(ray start --head), give the HOST:PORT that it printed, or leave --address out to run on this machine"
    )


def _resolve(address: str) -> Place:
    """Host and port of an address.

    Raises:
        UserError: it is none, or `auto` and there is no cluster.
    """
    from ray._private.services import canonicalize_bootstrap_address

    try:
        resolved = canonicalize_bootstrap_address(address) if "://" not in address else None
        host, _, port = (resolved or "").rpartition(":")
        return host.strip("[]"), int(port)
    except ConnectionError as error:
        raise UserError(
            "--address auto: no Ray cluster runs on this machine, and RAY_ADDRESS names none: start one "
            "(ray start --head), or give its HOST:PORT"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"--address must be auto or HOST:PORT of a cluster's head, such as 10.0.0.1:6379, got {address!r}"
        ) from error


class HeadWatch:
    """Asks servers of Ray's over and over, and interrupts the main thread once one is gone.

    Ray's own calls wait for a head that is gone, and Ray ends the whole process when it has waited for long.

    Args:
        places: what each is, for people -> where it listens.
        give_up: called with the reason when the main thread cannot be interrupted.
    """

    def __init__(self, places: Mapping[str, Place], give_up: Callable[[str], None]) -> None:
        self.reason = ""
        self._places, self._give_up = places, give_up
        self._over, self._stopping = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="head-watch", daemon=True)
        self._before = signal.signal(signal.SIGUSR1, _interrupt)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch; the main thread is out of Ray's hands."""
        with self._stopping:
            self._over.set()
            signal.signal(signal.SIGUSR1, self._before)

    def _watch(self) -> None:
        since = time.monotonic()
        while not self._over.wait(_LOOK_SECONDS):
            silent = [f"{name} is gone ({why})" for name, place in self._places.items() if (why := why_silent(place))]
            if not silent:
                since = time.monotonic()
            elif time.monotonic() - since >= (_GONE_SECONDS if self._dead(silent) else _SILENT_SECONDS):
                self._tell(silent[0])
                return

    def _dead(self, silent: list[str]) -> bool:
        """Whether what is silent never comes back: Ray ends this process soon after it has lost its own node."""
        return any(line.startswith(OWN_NODE) and "refused" in line for line in silent)

    def _tell(self, reason: str) -> None:
        self.reason = f"{reason}: what is finished is kept, and the same command goes on from here once Ray is back"
        main = threading.main_thread().ident
        assert main is not None
        with self._stopping:
            if not self._over.is_set():
                signal.pthread_kill(main, signal.SIGUSR1)
        if not self._over.wait(_LEAVE_SECONDS):
            self._give_up(self.reason)


def _interrupt(_signal: int, _frame: object) -> None:
    """Of no class that Ray Tune or a callback of it would take for a trial's own failure."""
    raise KeyboardInterrupt
