"""Asking the authority over a socket: to join, to renew, for the lists."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from layer8.errors import Layer8Error
from layer8.security import certificates, identity
from layer8.security.authority import Token
from layer8.security.binding import tls_binding
from layer8.security.certificates import Identity
from layer8.security.enrolment import ALPN, Applicant, Given, Join, Lists, Renew
from layer8.security.enrolment_service import PATIENCE, connect, load_pair
from layer8.security.identity import Credentials
from layer8.security.tls_batches import TlsBatches
from layer8.security.trust import Trust


class AuthorityUnreachable(Layer8Error):
    """Nobody answers there as the authority does. `address`, `reason`."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"the authority at {self.address} cannot be reached: {self.reason}"


def join(path: Path, role_and_name: tuple[str, str], token: Token, address: str, timeout: float = PATIENCE) -> Identity:
    """Makes the identity in `path`. `address`: HOST:PORT, or a Unix socket. Raises AuthorityUnreachable,
    CertificateError for who is not the authority, EnrolmentRefused, StateError."""
    made: list[Identity] = []

    def ask(overlay: str) -> Join:
        made.append(Identity.parse(f"layer8://{overlay}/{role_and_name[0]}/{role_and_name[1]}"))
        return Join(token=token.text(), request=identity.request(path, made[0]))

    given = _exchange(address, Applicant(token.fingerprint, ask), None, timeout)
    identity.install(path, given.certificate, given.trust, given.revoked)
    return made[0]


def pass_on(question: Renew, trust: Trust, address: str, timeout: float = PATIENCE) -> Given:
    """Asks for a renewal, one's own or another's. Raises as `join`."""
    return _exchange(address, Applicant(trust, lambda _: question), None, timeout)


def fetch_lists(held: Credentials, address: str, timeout: float = PATIENCE) -> tuple[bytes, bytes]:
    """The list of roots and the revocation list, as the authority has them. Raises as `join`."""
    given = _exchange(address, Applicant(held.trust, lambda _: Lists()), held, timeout)
    return given.trust, given.revoked


def _exchange(address: str, applicant: Applicant, held: Credentials | None, timeout: float) -> Given:
    deadline = time.monotonic() + timeout
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the Applicant checks it: the roots come inside
    context.set_alpn_protocols([ALPN])
    if held is not None:
        load_pair(context, certificates.key_to_pem(held.key) + certificates.to_pem(held.certificate))
    try:
        with (
            connect(address, timeout) as connection,
            TlsBatches(context, connection) as secured,
        ):
            secured.do_handshake()
            binding = tls_binding(secured)
            while applicant.answer is None:
                secured.settimeout(max(0.01, deadline - time.monotonic()))
                data = secured.recv(65536)
                if not data:
                    raise AuthorityUnreachable(address, "it has closed the connection")
                question = applicant.receive(data, binding, time.time())
                if question:
                    secured.sendall(question)
    except TimeoutError:
        raise AuthorityUnreachable(address, f"no answer within {timeout:g} s") from None
    except (OSError, ValueError) as error:
        raise AuthorityUnreachable(address, str(error)) from error
    return applicant.answer
