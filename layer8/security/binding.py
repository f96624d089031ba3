"""What ties a proof to one TLS connection."""

from __future__ import annotations

import hashlib
import ssl

from layer8.security.tls_batches import TlsBatches


def tls_binding(tls: ssl.SSLSocket | TlsBatches) -> bytes:
    """What only the two ends of this very connection have in common: a proof whose digest has it in it is worth nothing
    on another connection.

    Made of the client's Finished, an HMAC under a secret of this handshake over all of it. (RFC 9266's exporter is not
    to be had from Python's ssl; there is no resumption here, which is where this value once failed.)
    """
    finished = tls.get_channel_binding("tls-unique")
    if finished is None:
        raise ssl.SSLError("the handshake is not complete")
    return hashlib.sha256(b"layer8 tls binding 1\0" + finished).digest()
