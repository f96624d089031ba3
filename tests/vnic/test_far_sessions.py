"""What a Vnic's carrier makes of what the Vnet says of its session."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from layer8.protocol.control import Refused
from layer8.protocol.mirror import ALPN_VNIC, STALE, AnyMessage, Begun, End, encode
from layer8.rendezvous import FarPlace
from layer8.security.provider import TlsRole
from layer8.security.x509 import X509Provider
from layer8.testing import Overlay
from layer8.vnic.far import FarCarrier

SECONDS = 30.0


def hears(overlay: Overlay, *answers: AnyMessage) -> bytes:
    """What the library hears on its control socket when each connection of its carrier gets one of these answers and is
    cut then."""
    context = X509Provider(Path(overlay.vnet())).tls(TlsRole.SERVE_VNIC)
    context.set_alpn_protocols([ALPN_VNIC])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)

        def serve() -> None:
            for answer in answers:
                plain, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                    tls.recv(4096)
                    tls.sendall(encode(answer))

        vnet = threading.Thread(target=serve)
        vnet.start()
        place = FarPlace("127.0.0.1", listener.getsockname()[1])
        carrier = FarCarrier(place, X509Provider(Path(overlay.vnic())), SECONDS)
        try:
            carrier.wait(SECONDS)
            carrier.local.settimeout(SECONDS)
            heard = b""
            while data := carrier.local.recv(4096):
                heard += data
            return heard
        finally:
            carrier.local.close()
            vnet.join()


BEGUN = Begun(session=bytes(16), secret=bytes(32), alive=SECONDS / 2, patience=SECONDS)


def test_a_session_that_is_no_more_does_not_end_the_life_of_its_segment(overlay: Overlay) -> None:
    """A Vnet was killed before it could let the Vnic in; the next one knows nothing of that session."""
    assert hears(overlay, BEGUN, End(code=STALE, text="this session is no more")) == b""


def test_any_other_reason_why_a_session_ends_is_told(overlay: Overlay) -> None:
    assert b"another version" in hears(overlay, BEGUN, End(code="version", text="another version"))
    assert Refused.__name__.lower().encode() in hears(overlay, End(code="limit", text="no room"))
