"""A connection until it is attached: proof, permission, limits, port. Whoever passes becomes a session.

    accepted ──Hello──▶ challenged ──Attach + segment──▶ proved ──▶ allowed ──▶ paid for ──▶ on the switch ──▶ session
        └───────────────── 3 s, 4 KiB a message ────────────┘

Everything before the proof is work for a stranger: it is bounded in bytes, time and number per owner. Everything after
it is quick and not given up half-way, so that a port is either answered for or taken back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from layer8.dataplane import LAYOUT_VERSION, Reason, SwitchPort, layout_of, segment_bytes
from layer8.health.liveness import PeerProcess, channel
from layer8.names import check_alias
from layer8.protocol.attach import VnetAttach
from layer8.protocol.codec import CONTROL_BYTES, Frame, Unknown
from layer8.protocol.control import Attach, Attached, Challenge, Refused, Wire
from layer8.protocol.statement import Channel, Principal
from layer8.protocol.versions import difference
from layer8.security.provider import Action, Resource, ResourceKind, SecurityProvider
from layer8.version import VERSION
from layer8.vnet.accounts import Accounts, Owner
from layer8.vnet.board_port import BoardPort
from layer8.vnet.config import VnetConfig
from layer8.vnet.refusal import Refusal
from layer8.vnet.roster import Roster, is_same_process, knows_secret
from layer8.vnet.stream import ControlStream
from layer8.vnet.switchboard import Switchboard
from layer8.vnet.workers import Busy, Workers

_log = logging.getLogger("layer8.vnet")

_RESUME_BYTES = 32


class Far(Protocol):
    """The carrier of a Vnic on another host."""

    seen: Channel

    def attached(self) -> None:
        """It is let in: what is its mirror is its port's from now on. Raises OSError."""

    def is_cut(self) -> bool:
        """Whether it has no connection now, and is waited for."""


class Newcomer:
    """Who passed. Owns `stream`, `process`, `port` and what the account of `owner` was charged: `size` bytes."""

    def __init__(
        self,
        stream: ControlStream,
        process: PeerProcess,
        owner: Owner,
        attach: Attach,
        principal: Principal,
        port: BoardPort | None,
        size: int,
        seen: Channel,
        digest: bytes,
        far: Far | None = None,
    ) -> None:
        """`seen`, `digest`: for a later proof on this connection. `far`: its carrier, if it is on another host."""
        self.stream = stream
        self.process = process
        self.owner = owner
        self.uuid = attach.uuid
        self.alias = attach.alias
        self.program = _shown(attach.program)
        self.version = _shown(attach.release)
        self.principal = principal
        self.port = port
        self.size = size
        self.adopted = port is not None and attach.adopt
        self.seen = seen
        self.digest = digest
        self.far = far


class Desk(Protocol):
    """What an admission needs of its Vnet."""

    config: VnetConfig
    provider: SecurityProvider
    providers: Workers
    workers: Workers
    accounts: Accounts
    board: Switchboard
    roster: Roster
    overlay: str
    uuid: UUID
    epoch: int
    stopping: bool

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool:
        """Asks the provider; an exception is a no."""

    def admitted(self, newcomer: Newcomer) -> None:
        """It is a session from now on."""

    def refused(self, admission: Admission, refused: Refused) -> None:
        """For the log."""

    def left(self, admission: Admission) -> None:
        """The admission is over, however it ended."""


class Admission:
    """One connection that is not attached yet. `task` ends with it."""

    def __init__(
        self,
        desk: Desk,
        connection: socket.socket,
        owner: Owner,
        since: float,
        loop: asyncio.AbstractEventLoop,
        far: Far | None = None,
    ) -> None:
        """`since`: when it connected, or when its time begins to count. `far`: its carrier, whose end of a socket pair
        `connection` is. Raises OSError without descriptors, ProcessLookupError when the peer has died."""
        self.owner = owner
        self._far = far
        self._desk = desk
        self._loop = loop
        self._process = PeerProcess(connection if far is None else None)
        self._seen = channel(connection) if far is None else far.seen
        self._machine = VnetAttach(
            desk.provider,
            overlay=desk.overlay,
            vnet_uuid=desk.uuid,
            name=desk.config.name,
            epoch=desk.epoch,
            seen=self._seen,
            now=since,
        )
        self._message: asyncio.Future[tuple[Wire | Unknown, Frame]] | None = None  # that is waited for
        self._deadline = since + desk.config.attach_timeout
        self._proved = False
        self._secret = b""
        self._stream = ControlStream(connection, loop, self)
        self._stream.expects_descriptor = True
        self.task = loop.create_task(self._run())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def doubt(self) -> str:
        """Why a proof did not hold; for the log."""
        return self._machine.doubt

    def close(self) -> None:
        """The Vnet stops."""
        self._refuse(Refusal("stopping", "this Vnet is stopping"))

    # ── the stream's peer ─────────────────────────────────────────────────────────────────────────────────────────

    def received(self, message: Wire | Unknown, frame: Frame) -> None:
        if self._message is None or self._message.done():
            self._refuse(Refusal("invalid", "a message before the answer to the one before it"))
        else:
            self._message.set_result((message, frame))

    def violated(self, reason: str) -> None:
        self._refuse(Refusal("invalid", reason))

    def ended(self, reason: str) -> None:
        if not self._proved:
            self.task.cancel()

    # ── the way in ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        newcomer = None
        try:
            attach = await self._prove()
            self._proved = True  # nothing ends what follows but itself
            newcomer = await self._welcome(attach)
        except Refusal as refusal:
            self._refuse(refusal)
        except asyncio.CancelledError:
            pass  # the connection has ended, or was refused from outside
        except Exception:
            _log.exception("an attach failed")
            self._refuse(Refusal("invalid", "this Vnet failed; its log says more"))
        finally:
            if newcomer is None:
                self._stream.finish()
                self._process.close()
            self._desk.left(self)

    async def _prove(self) -> Attach:
        """Hello, Challenge, Attach. Raises Refusal."""
        try:
            async with asyncio.timeout_at(self._deadline):
                challenge = await self._step()
                assert isinstance(challenge, Challenge)
                self._stream.send(challenge)
                attach = await self._step()
        except TimeoutError:
            raise Refusal("limit", f"the attach took longer than {self._desk.config.attach_timeout:g} s") from None
        assert isinstance(attach, Attach)
        self._process.confirm()  # it has answered what was sent after its pidfd was there
        return attach

    async def _step(self) -> Challenge | Attach:
        """What the state machine makes of the next message. Raises Refusal."""
        self._message = self._loop.create_future()
        message, frame = await self._message
        self._message = None
        try:
            answer = await self._desk.providers.call(
                self._machine.receive, message, frame, self._loop.time(), timeout=self._desk.config.provider_timeout
            )
        except (TimeoutError, Busy):
            raise Refusal("limit", "the Security Provider did not answer in time") from None
        if isinstance(answer, Refused):
            raise Refusal(answer.code, answer.text, answer.fields)
        return answer

    async def _welcome(self, attach: Attach) -> Newcomer | None:
        """Everything after the proof. Raises Refusal; None when the connection has ended meanwhile."""
        desk, principal = self._desk, self._machine.principal
        assert principal is not None
        segment = self._stream.take_descriptor()
        self._stream.expects_descriptor = False
        try:
            if desk.stopping:
                raise Refusal("stopping", "this Vnet is stopping")
            self._check(attach, principal, segment)
            port, size = await self._make_port(attach, principal, segment)
        finally:
            if segment >= 0:
                os.close(segment)
        self._stream.decoder.limit = CONTROL_BYTES
        self._stream.send(self._accepted(attach, port), _descriptors(port))
        if self._stream.is_open:
            seen, digest = self._seen, self._machine.digest
            newcomer = Newcomer(
                self._stream, self._process, self.owner, attach, principal, port, size, seen, digest, self._far
            )
            desk.admitted(newcomer)
            return newcomer
        if port is None:
            desk.accounts.give_observer(self.owner)
        else:
            await desk.board.remove(port, Reason.GONE, 0)
            desk.accounts.give_port(self.owner, size)
            desk.roster.forget(port.uuid, port.number)
        return None

    def _accepted(self, attach: Attach, port: BoardPort | None) -> Attached:
        return self._machine.accept(
            port=port.number & 0xFFFF if port is not None else 0,
            resume=self._secret,
            adopted=port is not None and attach.adopt,
            max_message_bytes=self._desk.config.max_message_bytes,
            max_requests=self._desk.config.max_requests_per_port,
        )

    def _check(self, attach: Attach, principal: Principal, segment: int) -> None:
        if not attach.uuid.int:
            raise Refusal("invalid", "the uuid is nil")
        if attach.alias is not None:
            try:
                check_alias(attach.alias)
            except ValueError as error:
                raise Refusal("invalid", str(error)) from error
        self._require(principal, Action.ATTACH, Resource(kind=ResourceKind.OVERLAY, name=self._desk.overlay))
        if attach.observer:
            if segment >= 0:
                raise Refusal("invalid", "an observer has no segment")
            return
        if attach.alias is not None:
            self._require(principal, Action.SERVE, Resource(kind=ResourceKind.ALIAS, name=attach.alias))
        if segment < 0 and self._stream.descriptor_lost:
            raise Refusal("limit", "this Vnet is out of file descriptors; raise its limit (ulimit -n)")
        if segment < 0:
            raise Refusal("invalid", "no segment came with the attach")
        layout = layout_of(segment)
        if layout not in (0, LAYOUT_VERSION):
            text = difference(
                "segment layout", LAYOUT_VERSION, layout, vnet_release=VERSION, library_release=_shown(attach.release)
            )
            raise Refusal("layout", text, (str(LAYOUT_VERSION), VERSION))

    def _require(self, principal: Principal, action: Action, resource: Resource) -> None:
        if not self._desk.allowed(principal, action, resource):
            raise Refusal("not-authorized", "", (principal.uri, action.value, str(resource)))

    async def _make_port(self, attach: Attach, principal: Principal, segment: int) -> tuple[BoardPort | None, int]:
        """The port, paid for. None: an observer."""
        desk = self._desk
        if attach.observer:
            desk.accounts.take_observer(self.owner)
            if self._far is not None:
                self._far.attached()
            return None, 0
        if desk.board.find_uuid(attach.uuid) is not None:
            raise Refusal("taken", f"a living Vnic has the uuid {attach.uuid}")
        self._check_return(attach, principal)
        size = os.fstat(segment).st_size
        if size > segment_bytes(desk.config.max_ring_bytes):
            raise Refusal("limit", f"a segment of {size} bytes is too large here (setting max_ring_bytes)")
        desk.accounts.take_port(self.owner, size)
        try:
            switch_port = await self._map(segment, attach)
            if switch_port.bytes != size:
                switch_port.free()
                raise Refusal("invalid", "the segment changed its size")
            port = await desk.board.add(attach.uuid, attach.alias, principal, switch_port, attach.adopt)
            await self._note(attach, port)
        except BaseException:
            desk.accounts.give_port(self.owner, size)
            raise
        return port, size

    def _check_return(self, attach: Attach, principal: Principal) -> None:
        """Who was attached to an earlier Vnet gets its place back, and nobody else does."""
        entry = self._desk.roster.awaited.get(attach.uuid)
        if entry is None:
            if attach.adopt:
                raise Refusal("stale", "this Vnet does not await this Vnic")
        elif attach.adopt and self._desk.roster.mirror(attach.uuid).exists() != (self._far is not None):
            raise Refusal("stale", "this Vnic was on this host before, and is not now, or the other way round")
        elif entry.principal != principal.uri or not (
            knows_secret(entry, attach.resume) if attach.resume else is_same_process(entry, self.pid)
        ):
            raise Refusal("taken", f"the uuid {attach.uuid} is kept for the Vnic that had it")
        # The secret stays: whoever is told a new one may not hear of it before this Vnet dies too.
        self._secret = attach.resume if entry is not None and attach.resume else os.urandom(_RESUME_BYTES)

    async def _note(self, attach: Attach, port: BoardPort) -> None:
        try:
            if self._far is not None:
                self._far.attached()
            self._desk.roster.note(
                port.uuid,
                port.number,
                self._secret,
                pid=self.pid,
                alias=port.alias,
                principal=port.principal.uri,
            )
        except OSError as error:
            await self._desk.board.remove(port, Reason.GONE, 0)
            raise Refusal("limit", f"this Vnet cannot note who is attached: {error}") from error

    async def _map(self, segment: int, attach: Attach) -> SwitchPort:
        make: Callable[..., SwitchPort] = SwitchPort
        try:
            return await self._desk.workers.call(
                make,
                segment,
                attach.uuid,
                self._desk.epoch,
                attach.adopt,
                attach.chime or self._far is not None,  # a carrier sleeps on descriptors
                self._far is not None,
            )
        except ValueError as error:
            code = "stale" if attach.adopt else "invalid"
            raise Refusal(code, f"the segment is not one: {error}") from error
        except (OSError, MemoryError) as error:
            raise Refusal("limit", f"this Vnet cannot map a segment: {error}; raise its limits") from error
        except Busy:
            raise Refusal("limit", "too many attach at the same time") from None

    def _refuse(self, refusal: Refusal) -> None:
        if self._stream.is_open:
            refused = Refused(code=refusal.code, text=refusal.text, fields=refusal.fields)
            self._desk.refused(self, refused)
            self._stream.finish(refused)
        if not self._proved and asyncio.current_task() is not self.task:
            self.task.cancel()


def _shown(text: str) -> str:
    """What it says of itself, as people may see it."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:64])


def _descriptors(port: BoardPort | None) -> tuple[int, ...]:
    """What the Vnic gets with Attached."""
    if port is None:
        return ()
    doorbell, chime = port.switch_port.doorbell_fd, port.switch_port.chime_fd
    return (doorbell,) if chime < 0 else (doorbell, chime)
