"""From a Vnet's configuration to its Security Provider: identity, policy, audit log, and who may come in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from layer8.errors import Layer8Error
from layer8.protocol.statement import Role
from layer8.security.admitted import Admitted
from layer8.security.audit import AuditLog, Head
from layer8.security.files import make_directory
from layer8.security.guarded import GuardedProvider
from layer8.security.loader import load_provider
from layer8.security.local import LocalProvider
from layer8.security.policy import PolicyFile
from layer8.security.provider import SecurityProvider
from layer8.vnet.config import VnetConfig

if TYPE_CHECKING:
    from layer8.security.authority_source import Source

_log = logging.getLogger("layer8.vnet")


class ProvisionError(Layer8Error):
    """Settings that do not fit together. `what`."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return self.what


def make_provider(config: VnetConfig) -> SecurityProvider:
    """Raises whatever keeps it from being made: without what it names, a Vnet does not start."""
    try:
        admitted = Admitted.of(config.admit_uids, config.admit_gids, config.admit_identities)
    except ValueError as error:
        raise ProvisionError(str(error)) from error
    inner = _inner(config, admitted)
    try:
        policy = None if config.policy is None else PolicyFile(config.policy)
        log = None
        if config.audit is not None:
            make_directory(config.audit.parent)
            log = AuditLog(config.audit, seal=getattr(inner, "sign", None), publish=_publish)
    except BaseException:
        close = getattr(inner, "close", None)
        if close is not None:
            close()
        raise
    if policy is None and log is None and not admitted.others:
        return inner
    return GuardedProvider(inner, policy=policy, log=log, admitted=admitted)


def _publish(head: Head) -> None:
    """Each seal goes to the daemon's log too: a place that whoever can cut the audit log may not reach."""
    _log.info("audit log sealed: %s", head.encode().decode().strip())


def _inner(config: VnetConfig, admitted: Admitted) -> SecurityProvider:
    kind, _, rest = config.security.partition(":")
    if kind == "local":
        if rest:
            raise ProvisionError('a Vnet is of the uid that runs it: write security = "local"')
        if config.identity is not None or config.authority:
            raise ProvisionError('an identity is of use with security = "x509" only')
        if admitted.identities:
            raise ProvisionError(
                'admit_identities needs a Security Provider that proves identities, as security = "x509"'
            )
        return LocalProvider(admitted=admitted)
    if kind == "x509" and (not rest or "/" in rest):
        return _by_certificate(config, rest)
    return load_provider(config.security)


def _source(authority: str) -> Path | Source | None:
    """A directory is the authority itself; what else there is, its port or its socket, is where it answers."""
    if not authority:
        return None
    from layer8.security.authority_source import RemoteSource  # with cryptography

    path = Path(authority)
    return path if path.is_dir() else RemoteSource(authority)


def _by_certificate(config: VnetConfig, directory: str) -> SecurityProvider:
    from layer8.security.x509 import X509Provider

    identity = Path(directory) if directory else config.identity
    if identity is None:
        raise ProvisionError('security = "x509" needs the key identity: the directory of this Vnet\'s certificate')
    provider = X509Provider(identity, authority=_source(config.authority))
    if provider.identity.role is not Role.VNET:
        provider.close()
        raise ProvisionError(f"{provider.identity} in {identity} is a Vnic; a Vnet needs a certificate of its own")
    return provider
