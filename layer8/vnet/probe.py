"""Whether a Vnet answers, for service managers: the first two messages of an attach, and no more.

The Vnet proves itself, so its loop and its Security Provider work; nobody is attached, and nothing is logged.
"""

from __future__ import annotations

import secrets
import socket
import time

from layer8.errors import Layer8Error
from layer8.protocol.attach import NONCE_BYTES
from layer8.protocol.codec import Decoder, encode
from layer8.protocol.control import PROTOCOL_VERSION, Challenge, FromVnet, Hello, Refused
from layer8.rendezvous import own_socket
from layer8.security.loader import load_provider
from layer8.vnet.config import VnetConfig


class NoAnswer(Layer8Error):
    """The Vnet `name` does not answer as it should. `reason`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"Vnet {self.name!r} does not answer: {self.reason}"


def probe(config: VnetConfig, timeout: float) -> float:
    """Asks the Vnet of this configuration: seconds that the answer took. Raises NoAnswer."""
    begin = time.monotonic()
    try:
        spec = f"x509:{config.identity}" if config.security == "x509" and config.identity else config.security
        provider = load_provider(spec)
        hello = Hello(
            version=PROTOCOL_VERSION, fingerprint=provider.fingerprint(), nonce=secrets.token_bytes(NONCE_BYTES)
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
            asking.settimeout(timeout)
            asking.connect(str(config.socket or own_socket(config.name)))
            asking.sendall(encode(hello))
            answer = _receive(asking, begin + timeout)
    except OSError as error:
        raise NoAnswer(config.name, error.strerror or str(error)) from error
    except (Layer8Error, ValueError) as error:
        raise NoAnswer(config.name, str(error)) from error
    match answer:
        case Challenge():
            return time.monotonic() - begin
        case Refused(text=text, code=code):
            raise NoAnswer(config.name, text or code)
        case _:
            raise NoAnswer(config.name, f"it said {type(answer).__name__}")


def _receive(asking: socket.socket, deadline: float) -> object:
    decoder = Decoder(FromVnet)
    while True:
        asking.settimeout(max(0.001, deadline - time.monotonic()))
        data = asking.recv(65536)
        if not data:
            raise ConnectionError("it closed the connection")
        for message in decoder.feed(data):
            return message
