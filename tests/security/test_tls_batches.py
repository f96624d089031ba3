"""TLS in batches: the same bytes as through a socket of `ssl`, which is what stands at the other end here."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from layer8.security.provider import TlsRole
from layer8.security.tls_batches import TlsBatches
from layer8.security.x509 import X509Provider
from layer8.testing import Overlay, make_overlay

T = TypeVar("T")

DATA = bytes(range(256)) * 8192  # 2 MiB: more than the sockets take


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return make_overlay(tmp_path_factory.mktemp("overlay"), "batches")


@contextmanager
def connected(overlay: Overlay, *, serves: bool) -> Iterator[tuple[TlsBatches, ssl.SSLSocket]]:
    """Ours, non-blocking, and an ordinary one, both after the handshake."""
    contexts = {
        role: X509Provider(Path(overlay.vnet(name))).tls(role)
        for role, name in ((TlsRole.LINK, "one"), (TlsRole.DIAL, "two"))
    }
    ours, theirs = (
        contexts[TlsRole.LINK if serves else TlsRole.DIAL],
        contexts[TlsRole.DIAL if serves else TlsRole.LINK],
    )
    left, right = socket.socketpair()
    right.settimeout(20.0)
    other: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: other.append(theirs.wrap_socket(right, server_side=not serves)))
    thread.start()
    left.setblocking(False)
    with TlsBatches(ours, left, server_side=serves) as tls:
        patiently(tls, tls.do_handshake)
        thread.join(20.0)
        with other[0]:
            yield tls, other[0]


def patiently(tls: TlsBatches, step: Callable[[], T]) -> T:
    """Again whenever the socket is ready for it."""
    while True:
        poll = select.poll()
        try:
            return step()
        except ssl.SSLWantReadError:
            poll.register(tls.fileno(), select.POLLIN)
        except ssl.SSLWantWriteError:
            poll.register(tls.fileno(), select.POLLOUT)
        assert poll.poll(20_000)


@pytest.mark.parametrize("serves", [False, True])
def test_what_is_sent_comes_whole_and_in_order(overlay: Overlay, serves: bool) -> None:
    with connected(overlay, serves=serves) as (tls, other):
        came = bytearray()

        def read() -> None:
            while len(came) < len(DATA):
                came.extend(other.recv(1 << 20))

        reader = threading.Thread(target=read)
        reader.start()
        sent = 0
        while sent < len(DATA):
            sent += patiently(tls, partial(tls.send, memoryview(DATA)[sent:]))
        reader.join(20.0)
        assert came == DATA


def test_many_records_are_read_at_once_and_the_poll_can_be_trusted(overlay: Overlay) -> None:
    with connected(overlay, serves=True) as (tls, other):
        writer = threading.Thread(target=other.sendall, args=(DATA,))
        writer.start()
        buffer, done, most = bytearray(len(DATA)), 0, 0
        while done < len(DATA):
            count = patiently(tls, partial(tls.recv_into, memoryview(buffer)[done:]))
            done, most = done + count, max(most, count)
        writer.join(20.0)
        assert buffer == DATA
        assert most > 16384
        assert tls.pending() == 0
        with pytest.raises(ssl.SSLWantReadError):
            tls.recv_into(buffer)


def test_the_end_of_the_other_side_is_seen_behind_its_last_bytes(overlay: Overlay) -> None:
    with connected(overlay, serves=False) as (tls, other):
        other.sendall(b"last words")
        other.close()
        assert patiently(tls, lambda: tls.recv(4)) == b"last"
        assert patiently(tls, lambda: tls.recv(100)) == b" words"
        assert patiently(tls, lambda: tls.recv(100)) == b""
        assert tls.recv_into(bytearray(10)) == 0


def test_the_binding_is_that_of_both_ends(overlay: Overlay) -> None:
    with connected(overlay, serves=True) as (tls, other):
        assert tls.get_channel_binding() == other.get_channel_binding()
        assert tls.getpeercert(binary_form=True) is not None


def test_a_handshake_with_a_stranger_fails_and_tells_it(overlay: Overlay) -> None:
    context = X509Provider(Path(overlay.vnet("one"))).tls(TlsRole.LINK)
    left, right = socket.socketpair()
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    heard: list[BaseException] = []

    def dial() -> None:
        right.settimeout(20.0)
        with stranger.wrap_socket(right) as tls:
            try:
                tls.recv(1)
            except OSError as error:
                heard.append(error)

    thread = threading.Thread(target=dial)
    thread.start()
    left.settimeout(20.0)
    with TlsBatches(context, left, server_side=True) as tls, pytest.raises(ssl.SSLError):
        tls.do_handshake()
    thread.join(20.0)
    assert isinstance(heard[0], ssl.SSLError)
    assert "certificate required" in str(heard[0]).lower()


@pytest.mark.parametrize("server_side", [False, True])
def test_a_reset_before_the_handshake_is_told_by_it_and_leaves_nothing_open(server_side: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    plain = reset_connection()
    with pytest.raises(OSError), TlsBatches(context, plain, server_side=server_side) as tls:
        tls.do_handshake()
    assert (plain.fileno(), tls.fileno()) == (-1, -1)
    gc.collect()  # an unclosed socket warns, which fails the test


def reset_connection() -> socket.socket:
    """Connected once; its other side has sent a reset that nobody has heard of yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
    return ours
