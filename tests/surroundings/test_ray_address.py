"""Addresses at which no head of a cluster answers, and a head that goes away, without starting Ray."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from defenses.registry import UserError
from study.driver import head
from study.driver.head import HeadWatch, check_address, why_silent

pytestmark = pytest.mark.surroundings

SETTINGS = bytes(3) + b"\x04" + bytes(5)


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """A port of this machine, and what it says to whoever comes; None for nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        open_ones: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                open_ones.append(connection)
                if answer is not None:
                    connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        serving.join()
        for connection in open_ones:
            connection.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_ASK_SECONDS", 0.2)
    monkeypatch.setattr(head, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(head, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(head, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(head, "_LEAVE_SECONDS", 0.2)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (SETTINGS, ""),
        (None, "no answer within 0.2 s"),
        (b"HTTP/1.1 400 Bad Request\r\n", "what answers there is not Ray"),
    ],
)
def test_a_sign_of_life(answer: bytes | None, why: str) -> None:
    with server(answer) as port:
        assert why_silent(("127.0.0.1", port)) == why


def test_nobody_there() -> None:
    with server(SETTINGS) as port:
        pass
    assert why_silent(("127.0.0.1", port)) == "Connection refused"


@pytest.mark.filterwarnings("ignore")
def test_an_address_at_which_nothing_answers_is_refused_in_one_line() -> None:
    with pytest.raises(UserError) as refused:
        check_address("127.0.0.1:1")
    line = str(refused.value)
    assert line.startswith("no Ray cluster answers at 127.0.0.1:1")
    assert ": Connection refused; start one there (ray start --head), give the HOST:PORT that it printed" in line
    assert "\n" not in line


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "address", ["localhost", "ray://127.0.0.1:10001", "", "here:there", "no-such-host.invalid:6379"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"--address must be auto or HOST:PORT|no Ray cluster answers at"):
        check_address(address)


def wait_in_vain(seconds: float = 5.0) -> None:
    time.sleep(seconds)
    raise AssertionError("nothing interrupted")


def test_a_head_that_goes_away_interrupts_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    gave_up: list[str] = []
    with server(SETTINGS) as port:
        watch = HeadWatch({"the head": ("127.0.0.1", port)}, gave_up.append)
        time.sleep(0.4)
        assert not watch.reason
    with pytest.raises(KeyboardInterrupt):
        wait_in_vain()
    watch.stop()
    assert watch.reason.startswith("the head is gone (")
    assert watch.reason.endswith("what is finished is kept, and the same command goes on from here once Ray is back")
    time.sleep(0.3)
    assert gave_up == []
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_main_thread_that_cannot_be_interrupted_is_left_behind() -> None:
    gave_up: list[str] = []
    watch = HeadWatch({"the head": ("127.0.0.1", 1)}, gave_up.append)
    with pytest.raises(KeyboardInterrupt):
        wait_in_vain()
    deadline = time.monotonic() + 5
    while not gave_up:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    watch.stop()
    assert gave_up == [watch.reason]


def test_a_watch_that_ends_first_interrupts_nobody() -> None:
    watch = HeadWatch({"the head": ("127.0.0.1", 1)}, pytest.fail)
    watch.stop()
    time.sleep(0.5)
    assert not watch.reason
