"""From nothing to a port: looks for a Vnet, proves who we are, hands the segment over.

An `Attachment` is one stay on one Vnet. When that Vnet dies the next one adopts the segment, which makes an attachment
with the same port; only when none does a fresh segment begins. What outlives that too (names, subscriptions, handlers,
messages already read) is the Vnic's and stands elsewhere.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from layer8.dataplane import Port, Segment, segment_bytes
from layer8.errors import Layer8Error, VnetNotFound
from layer8.protocol.attach import VnicAttach, VnicState
from layer8.protocol.codec import Unknown
from layer8.protocol.control import Attached, Challenge, Wire
from layer8.rendezvous import FarPlace, Place, check_socket, nodes
from layer8.security.provider import SecurityProvider, TlsRole
from layer8.vnic.connection import Connection, ConnectionLost
from layer8.vnic.waiting import FOREVER, SLICE, remaining

HANDSHAKE_SECONDS = 0.9
"""How long a Vnet that accepts the connection may take to answer, unless the caller has more time."""

ADOPT_SECONDS = 30.0
"""The same when a Vnet adopts: it has many to adopt at a time, and being slow must cost nobody its segment."""

RING_BYTES = 1 << 20
"""Receive ring of a Vnic that asks for nothing else; the hold ring has as much, the transmit ring
half of it."""

_PAUSE = 0.05  # seconds between two looks for a Vnet
_IN_TIME = 0.9  # of the attach time-out: the error comes within it
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # this process or host has no more; the Vnet has no part in it

_T = TypeVar("_T")

ASSEMBLED = 16
"""Largest messages that may be arriving at once; their memory is used as their fragments come, not before."""


class Stopped(Exception):
    """The Vnic was closed while it was attaching."""


class NotAdopted(Exception):
    """The Vnet does not take the segment over: it knows nothing of this Vnic, or the segment is not what it was."""


class Attachment:
    """One stay on one Vnet: the control connection, the port and what the Vnet said. A Vnet that adopts the segment
    gives another attachment with the same port.

    `adopted`: that is so. `spoiled`: what stands in the segment makes no sense; nobody shall adopt it.
    `early`: messages that came right behind the Attached. `lost`: its Vnet is gone; set once, by the keeper.
    `principals`: what its numbers stand for, as far as it was asked.
    `chime`: readable when a Vnic that sleeps in a loop is to look, -1 without; `take_chime()` makes it the caller's.
    `digest`, `proofs`, `proved_until`: what was proved, how often since, and when that runs out (Unix seconds).
    `close()` gives everything back; the port's memory lasts until the last thread has left it.
    """

    def __init__(
        self,
        connection: Connection,
        port: Port,
        segment: Segment,
        machine: VnicAttach,
        early: list[Wire | Unknown],
        chime: int = -1,
    ) -> None:
        assert machine.attached is not None and machine.challenge is not None
        self.connection = connection
        self.port = port
        self.segment = segment
        self.spoiled = False
        self.adopted = machine.attached.adopted
        self.attached: Attached = machine.attached
        self.challenge: Challenge = machine.challenge
        self.early = early
        self.lost = False
        self.principals: dict[int, str] = {}
        self.digest = machine.digest
        self.proofs = 0
        self.proved_until = machine.proved_until
        self.chime = chime

    def take_chime(self) -> int:
        chime, self.chime = self.chime, -1
        return chime

    def give_up(self) -> None:
        """The Vnet has written what cannot be: the keeper will notice the end of the connection."""
        self.spoiled = True
        self.connection.hang_up()

    def close(self) -> None:
        if self.chime >= 0:
            os.close(self.take_chime())
        self.connection.close()
        self.port.close()
        self.segment.close()


def attach(
    places: Sequence[Place],
    provider: SecurityProvider,
    *,
    uuid: UUID,
    alias: str | None,
    ring_bytes: int,
    spin_us: int,
    timeout: float | None,
    patience: float = HANDSHAKE_SECONDS,
    wake: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
    resume: bytes = b"",
    chime: bool = False,
) -> Attachment:
    """Attaches to the first Vnet that answers. `timeout`: seconds to wait until one does, 0 looks once. `patience`:
    seconds that one who is there may take, at least.

    `wake`: a descriptor that becomes readable when `stopped()` may have become true, which ends it with Stopped.
    `resume`: the secret of an earlier attach. `chime`: ask for one. Raises VnetNotFound, SecurityMismatch,
    NotAuthorized, or a Layer8Error that says what was refused or missing.
    """
    try:
        segment = Segment.create(ring_bytes, uuid)
    except OSError as error:
        raise Layer8Error(
            f"no segment of {segment_bytes(ring_bytes)} bytes for this Vnic: {error}; free memory or descriptors, "
            "raise the limit, or ask for a smaller ring_bytes"
        ) from error
    try:

        def handshake(connection: Connection, deadline: float) -> Attachment:
            machine, early = shake_hands(
                connection,
                provider,
                deadline,
                uuid=uuid,
                alias=alias,
                segment=segment.fd,
                resume=resume,
                chime=chime,
                wake=wake,
                stopped=stopped,
            )
            return _open(connection, segment, machine, early, spin_us, chime)

        return _reach(places, provider, handshake, timeout, patience, stopped, _owners(provider))
    except BaseException:
        segment.close()
        raise


def attach_again(
    kept: Attachment,
    places: Sequence[Place],
    provider: SecurityProvider,
    *,
    uuid: UUID,
    alias: str | None,
    chime: bool = False,
    wake: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Attachment:
    """One look for a Vnet that adopts the segment of an earlier attachment. Raises NotAdopted, and as `attach`."""

    def handshake(connection: Connection, deadline: float) -> Attachment:
        machine, early = shake_hands(
            connection,
            provider,
            max(deadline, time.monotonic() + ADOPT_SECONDS),
            uuid=uuid,
            alias=alias,
            segment=kept.segment.fd,
            resume=kept.attached.resume,
            adopt=True,
            chime=chime,
            wake=wake,
            stopped=stopped,
        )
        if not machine.attached or not machine.attached.adopted:
            raise NotAdopted("the Vnet adopts nothing")
        bell, chimes = _take_descriptors(connection, chime)
        try:
            kept.port.set_doorbell(bell)
        except OSError as error:
            if chimes >= 0:
                os.close(chimes)
            raise Layer8Error(f"the doorbell of this Vnic cannot be used: {error}") from error
        finally:
            os.close(bell)
        return Attachment(connection, kept.port, kept.segment, machine, early, chimes)

    return _reach(places, provider, handshake, 0.0, HANDSHAKE_SECONDS, stopped, _owners(provider))


def observe(places: Sequence[Place], provider: SecurityProvider, uuid: UUID, timeout: float | None) -> Connection:
    """A connection without a port, for tools. Raises as `attach` does."""

    def handshake(connection: Connection, deadline: float) -> Connection:
        shake_hands(connection, provider, deadline, uuid=uuid, observer=True)
        return connection

    return _reach(places, provider, handshake, timeout, HANDSHAKE_SECONDS, lambda: False, _owners(provider))


def _open(
    connection: Connection,
    segment: Segment,
    machine: VnicAttach,
    early: list[Wire | Unknown],
    spin_us: int,
    chime: bool,
) -> Attachment:
    assert machine.attached is not None
    bell, chimes = _take_descriptors(connection, chime)
    limit = machine.attached.max_message_bytes
    try:
        port = Port(segment.fd, max_message_bytes=limit, assembly_bytes=ASSEMBLED * limit, spin_ns=spin_us * 1000)
        port.set_doorbell(bell)
    except (OSError, ValueError) as error:
        if chimes >= 0:
            os.close(chimes)
        raise Layer8Error(f"the segment of this Vnic cannot be used: {error}") from error
    finally:
        os.close(bell)
    return Attachment(connection, port, segment, machine, early, chimes)


def _take_descriptors(connection: Connection, chime: bool) -> tuple[int, int]:
    """Doorbell and chime (-1: none was asked for), which are the caller's to close. Raises ConnectionLost."""
    if not connection.descriptors:
        raise ConnectionLost("it sent no doorbell")
    if not chime:
        return connection.descriptors.pop(0), -1
    if len(connection.descriptors) < 2:
        raise ConnectionLost("it sent no descriptor to wait on: it is too old for an AsyncVnic, restart it")
    return connection.descriptors.pop(0), connection.descriptors.pop(0)


def _reach(
    places: Sequence[Place],
    provider: SecurityProvider,
    handshake: Callable[[Connection, float], _T],
    timeout: float | None,
    patience: float,
    stopped: Callable[[], bool],
    owners: tuple[int, ...] | None = (),
) -> _T:
    """Connects to each place in turn until a handshake succeeds. A refusal is final, so is a want of descriptors or
    memory here; silence is not."""
    deadline = FOREVER if timeout is None else time.monotonic() + timeout * _IN_TIME
    if timeout:
        patience = max(patience, timeout / 4)
    while True:
        tried = []
        for place in places:
            until = time.monotonic() + patience
            if timeout:
                until = min(until, deadline)
            try:
                connection = _connect(place, provider, owners, max(0.05, remaining(until)))
            except OSError as error:
                if error.errno in _OURS:
                    raise Layer8Error(
                        f"no connection to the Vnet at {place}: {error.strerror}; free memory or descriptors, "
                        "or raise the limit"
                    ) from error
                tried.append(f"{place}: {error.strerror or error}")
                continue
            try:
                return handshake(connection, until)
            except ConnectionLost as error:
                connection.close()
                tried.append(f"{place}: {error.reason}")
            except BaseException:
                connection.close()
                raise
        if stopped():
            raise Stopped
        if time.monotonic() + _PAUSE >= deadline:
            raise VnetNotFound(tuple(tried))
        time.sleep(_PAUSE)


def _connect(place: Place, provider: SecurityProvider, owners: tuple[int, ...] | None, timeout: float) -> Connection:
    """Raises OSError, also when it is not the socket's owner who listens there."""
    if isinstance(place, FarPlace):
        return Connection.far(place, provider, timeout)
    owner = check_socket(place, owners)
    connection = Connection.to(place, timeout)
    listener = connection.seen().uid
    if listener != owner:
        connection.close()
        raise PermissionError(errno.EPERM, f"uid {listener} listens at a socket of uid {owner}; not asked", str(place))
    return connection


def with_nodes(places: tuple[Place, ...], provider: SecurityProvider) -> tuple[Place, ...]:
    """The same places, and those by TLS that a container has, if there is an identity to show there."""
    more = nodes(places)
    if more:
        try:
            provider.tls(TlsRole.DIAL)
        except Exception:
            return places
    return places + more


def shake_hands(
    connection: Connection,
    provider: SecurityProvider,
    deadline: float,
    *,
    uuid: UUID,
    alias: str | None = None,
    observer: bool = False,
    segment: int | None = None,
    resume: bytes = b"",
    adopt: bool = False,
    chime: bool = False,
    wake: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[VnicAttach, list[Wire | Unknown]]:
    """Both sides prove themselves. What came behind the Attached is returned with the machine."""
    machine = VnicAttach(
        provider,
        uuid=uuid,
        alias=alias,
        observer=observer,
        resume=resume,
        adopt=adopt,
        pid=os.getpid(),
        program=_program(),
        chime=chime,
        seen=connection.seen(),
    )
    early: list[Wire | Unknown] = []
    if chime:
        connection.expect_chime()
    connection.send(machine.start())
    while not _is_attached(machine):
        left = remaining(deadline)
        if left == 0:
            raise ConnectionLost("a Vnet is there and did not answer in time")
        connection.wait(min(SLICE, left), wake)
        if stopped():
            raise Stopped
        for message, frame in connection.receive():
            if _is_attached(machine):
                early.append(message)
                continue
            try:
                answer = machine.receive(message, frame)
            except Layer8Error:
                if machine.refused is not None and machine.refused.code == "stopping":
                    raise ConnectionLost("it is stopping") from None
                if adopt and machine.refused is not None and machine.refused.code == "stale":
                    raise NotAdopted(machine.refused.text) from None
                raise
            if answer is not None:
                connection.send(answer, () if segment is None else (segment,))
    return machine, early


def _is_attached(machine: VnicAttach) -> bool:
    return machine.state is VnicState.ATTACHED


def _owners(provider: SecurityProvider) -> tuple[int, ...] | None:
    """Whose sockets may be asked, besides our own and the system's. None: anybody's, for the proof says who it is."""
    owners: tuple[int, ...] | None = getattr(provider, "socket_owners", ())
    return owners


def _program() -> str:
    """What people call this process."""
    return os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else sys.executable)[:64]
