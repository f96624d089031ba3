"""TLS over a connected socket, such that a connection that was reset meanwhile leaves nothing open.

`ssl` looks whether a socket that it has taken over is connected, and forgets it unclosed when it is not any more.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any


def wrap(
    context: ssl.SSLContext, plain: socket.socket, *, server_side: bool = False, handshake: bool = False
) -> ssl.SSLSocket:
    """Takes `plain` over, which was connected. Without `handshake` that is the caller's to do, and tells of a reset.

    Raises OSError, and then nothing is left open.
    """
    context.sslsocket_class = _Connected
    return context.wrap_socket(plain, server_side=server_side, do_handshake_on_connect=handshake)


class _Connected(ssl.SSLSocket):
    """A socket that was connected when it was wrapped, whatever has become of the connection."""

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            return None
