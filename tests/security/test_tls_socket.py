"""TLS over connections that the other side has reset: nothing stays open."""

from __future__ import annotations

import gc
import socket
import ssl
import struct

import pytest

from layer8.security.tls_socket import wrap


def reset_connection() -> socket.socket:
    """Connected once; its other side has sent a reset that nobody has heard of yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
    return ours


@pytest.mark.parametrize("server_side", [False, True])
def test_a_reset_before_it_is_wrapped_is_told_by_the_handshake(server_side: bool) -> None:
    plain = reset_connection()
    with pytest.raises(OSError), wrap(_context(server_side), plain, server_side=server_side) as tls:
        tls.do_handshake()
    assert (plain.fileno(), tls.fileno()) == (-1, -1)
    gc.collect()  # an unclosed socket warns, which fails the test


@pytest.mark.parametrize("server_side", [False, True])
def test_a_reset_before_it_is_wrapped_with_a_handshake_leaves_nothing_open(server_side: bool) -> None:
    plain = reset_connection()
    with pytest.raises(OSError):
        wrap(_context(server_side), plain, server_side=server_side, handshake=True)
    assert plain.fileno() == -1
    gc.collect()


def _context(server_side: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return context
