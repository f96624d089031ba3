"""How somebody gets a certificate who does not have the authority's directory."""

from __future__ import annotations

import msgspec

from layer8.security.authority import Issued
from layer8.security.certificates import LARGEST_LIST, CertificateError


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the authority answers to a signing request: a leaf and the lists that go with it. No secret: it is of use
    only where the key is. As a file it is JSON; `install` in `layer8.security.identity` puts it to use."""

    certificate: str
    trust: str
    revoked: str

    @classmethod
    def of(cls, issued: Issued) -> Answer:
        return cls(
            certificate=issued.certificate.decode(), trust=issued.trust.decode(), revoked=issued.revoked.decode()
        )

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Raises CertificateError."""
        try:
            if len(data) > 3 * LARGEST_LIST:
                raise ValueError("it is too large")
            return msgspec.json.decode(data, type=cls)
        except (ValueError, msgspec.DecodeError) as error:
            raise CertificateError("answer of the authority", f"it cannot be read: {error}") from error

    def encode(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"
