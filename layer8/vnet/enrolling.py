"""Where a Vnet lets others join and renew: on its TLS port, by ALPN, and at the addresses of the setting `enrol`.

A Vnet that has the authority's directory answers itself. One that knows only where the authority is passes the
connections at `enrol` on, as they are: TLS goes from the joiner to the authority, and nothing is to be seen between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from layer8.errors import Layer8Error
from layer8.security.provider import AuditEvent
from layer8.vnet.config import VnetConfig
from layer8.vnet.tls_port import ALPN_JOIN, TlsConnection, TlsPort

if TYPE_CHECKING:
    from layer8.security.enrolment import What
    from layer8.security.enrolment_service import Answering, Door, EnrolmentService

_log = logging.getLogger("layer8.vnet")


class EnrolError(Layer8Error):
    """Others cannot join here. `what`: is wrong."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return self.what


class Enrolling:
    """Mounts itself on `port`. `audit`: for any thread. `open` raises EnrolError; `close` is safe twice."""

    def __init__(self, config: VnetConfig, audit: Callable[[AuditEvent], None]) -> None:
        self._config = config
        self._audit = audit
        self._room = threading.BoundedSemaphore()  # of `_open`
        self._service: EnrolmentService | None = None

    def open(self, port: TlsPort) -> None:
        place = self._config.authority
        if not place:
            if self._config.enrol:
                raise EnrolError("the setting enrol needs the setting authority: who signs")
            return
        try:
            self._open(port, place)
        except (OSError, ValueError, Layer8Error) as error:
            raise EnrolError(f"others cannot join here: {error}") from error

    def _open(self, port: TlsPort, place: str) -> None:
        from layer8.security.authority import Authority  # with cryptography, and only where somebody may join
        from layer8.security.enrolment_service import AT_ONCE, Door, EnrolmentService, Passage

        self._room = threading.BoundedSemaphore(AT_ONCE)
        door: Answering = Passage(place)
        if Path(place).is_dir():
            own = Door(Authority(Path(place)), self._told)
            port.mount(ALPN_JOIN, lambda connection: self._accept(own, connection), needs_certificate=False)
            door = own
        if self._config.enrol:
            self._service = EnrolmentService(self._config.enrol, door)
            _log.info("others may join at %s", ", ".join(self._service.addresses))

    def close(self) -> None:
        if self._service is not None:
            self._service.close()
            self._service = None

    def _accept(self, door: Door, connection: TlsConnection) -> None:
        """In the loop's thread."""
        if not self._room.acquire(blocking=False):
            connection.close()
            return
        connection.settled()  # from here on it is this thread's, with limits of its own
        threading.Thread(target=self._answer, args=(door, connection), name="layer8-join", daemon=True).start()

    def _answer(self, door: Door, connection: TlsConnection) -> None:
        try:
            door.answer_secured(connection.socket)
        except Exception:
            _log.exception("an enrolment failed")
        finally:
            self._room.release()

    def _told(self, what: What, who: str, granted: bool, why: str) -> None:
        from layer8.security.enrolment import What

        if what is What.LISTS and granted:
            return  # every few seconds
        if granted:
            _log.info("%s: %s", what.value, who)
        else:
            _log.warning("%s refused: %s", what.value, why)
        self._audit(AuditEvent(time=time.time(), what=what.value, principal=who, allowed=granted, reason=why))
