"""Who is at the other end of a socket, and that its death is seen, with real processes."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layer8.health import liveness
from layer8.health.liveness import Credentials, PeerProcess, channel, peer_credentials

WATCHDOG_SECONDS = 30.0

CONNECT = """
import os, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
if sys.argv[2] == "fork" and os.fork() == 0:
    peer.send(b"c")
    sys.stdin.read()
    os._exit(0)
if sys.argv[2] != "fork":
    peer.send(b"p")
sys.stdin.read()
"""


class Peer:
    """A process that has connected to us, and the socket to it."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self.sock = sock

    def die(self) -> None:
        self.process.send_signal(signal.SIGKILL)


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Peer]]:
    monkeypatch.chdir(tmp_path)
    peers: list[Peer] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(WATCHDOG_SECONDS)
        listener.bind("s")
        listener.listen()

        def connect(how: str = "plain") -> Peer:
            process = subprocess.Popen([sys.executable, "-c", CONNECT, "s", how], stdin=subprocess.PIPE)
            sock, _ = listener.accept()
            sock.settimeout(WATCHDOG_SECONDS)
            peers.append(Peer(process, sock))
            assert sock.recv(1)
            return peers[-1]

        yield connect
    for peer in peers:
        peer.process.kill()
        assert peer.process.stdin is not None
        peer.process.stdin.close()
        peer.process.wait()
        peer.sock.close()


def readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(WATCHDOG_SECONDS * 1000))


def without_peerpidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SO_PEERPIDFD", 9999)  # as an older kernel: no such option


def test_the_kernel_says_who_is_at_the_other_end(connected: Callable[[], Peer]) -> None:
    peer = connected()
    assert peer_credentials(peer.sock) == Credentials(peer.process.pid, os.geteuid(), os.getegid())
    seen = channel(peer.sock)
    assert (seen.pid, seen.uid, seen.gid, seen.certificate) == (peer.process.pid, os.geteuid(), os.getegid(), None)
    assert str(peer.process.pid) in seen.text
    assert channel(peer.sock, "somewhere").text == "somewhere"


@pytest.mark.parametrize("old_kernel", [False, True])
def test_the_death_of_the_peer_is_seen(
    connected: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch, old_kernel: bool
) -> None:
    if old_kernel:
        without_peerpidfd(monkeypatch)
    peer = connected()
    with PeerProcess(peer.sock) as process:
        process.confirm()
        assert process.pid == peer.process.pid
        assert process.is_watched
        assert not process.is_dead()
        peer.die()
        assert readable(process.fileno())
        assert process.is_dead()


def test_the_death_of_the_peer_is_seen_although_a_child_keeps_the_socket_open(
    connected: Callable[[str], Peer],
) -> None:
    peer = connected("fork")
    with PeerProcess(peer.sock) as process:
        peer.die()
        assert readable(process.fileno())
        peer.sock.settimeout(0)
        with pytest.raises(BlockingIOError):  # no end of the stream: the socket says nothing of it
            peer.sock.recv(1)


def test_a_pid_alone_is_believed_only_after_an_answer(
    connected: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_peerpidfd(monkeypatch)
    peer = connected()
    with PeerProcess(peer.sock) as process:
        assert not process.trusted
        peer.die()
        assert readable(process.fileno())
        assert not process.is_dead()  # it may have been another process all the time


def test_a_peer_that_died_before_it_was_looked_at_is_reported(
    connected: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_peerpidfd(monkeypatch)
    peer = connected()
    peer.die()
    peer.process.wait()
    with pytest.raises(ProcessLookupError):
        PeerProcess(peer.sock)


def test_a_peer_of_another_pid_namespace_cannot_be_watched(
    connected: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_peerpidfd(monkeypatch)
    peer = connected()
    monkeypatch.setattr(liveness, "peer_credentials", lambda sock: Credentials(0, 1000, 1000))
    process = PeerProcess(peer.sock)
    process.confirm()
    assert not process.is_watched
    assert not process.trusted
    assert not process.is_dead()
    with pytest.raises(ValueError, match="cannot be watched"):
        process.fileno()
    process.close()


def test_missing_descriptors_are_an_error_and_no_death(
    connected: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_peerpidfd(monkeypatch)
    peer = connected()

    def exhausted(pid: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pidfd_open", exhausted)
    with pytest.raises(OSError, match="too many"):
        PeerProcess(peer.sock)


def test_closing_gives_the_descriptor_back_and_may_be_done_twice(connected: Callable[[], Peer]) -> None:
    peer = connected()
    process = PeerProcess(peer.sock)
    fd = process.fileno()
    assert not os.get_inheritable(fd)
    process.close()
    process.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    assert not process.is_watched


@pytest.mark.parametrize("reaped", [True, False])
def test_how_a_process_ended_is_known_to_whoever_watches_it(connected: Callable[[], Peer], reaped: bool) -> None:
    peer = connected()
    with PeerProcess(peer.sock) as process:
        process.confirm()
        assert process.ending() == ""
        peer.process.kill()
        assert readable(process.fileno())
        if reaped:
            peer.process.wait()
            assert process.ending() in ("killed by signal 9 (SIGKILL)", "")  # before Linux 6.15 it is not told then
        else:
            assert process.ending() == "killed by signal 9 (SIGKILL)"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exited with status 0"),
        (3 << 8, "exited with status 3"),
        (15, "killed by signal 15 (SIGTERM)"),
        (11 | 0x80, "killed by signal 11 (SIGSEGV)"),
        (40, "killed by signal 40"),
    ],
)
def test_an_ending_is_said_in_words(code: int, text: str) -> None:
    assert liveness.ending_text(code) == text
