"""What a Vnet asks of its Security Provider, and what follows when an answer has changed.

    asked      at attach, grant, subscribe, …        a no is logged, counted and audited
    changed    the policy, or who is believed        everything granted is asked about again, in batches: a port whose
                                                     right to be here is gone is closed, a handle is revoked in the
                                                     switch, a subscription ended
    expired    a principal                           its port is closed; one that has proved itself anew goes on

A batch takes a few milliseconds, then others get their turn: a reload holds nobody up. Questions that many ports have
in common are asked once. What is granted meanwhile is granted by the new policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

from layer8.errors import Layer8Error
from layer8.protocol.control import AuditPlace, Done, Explain, Principals, Reload, Renewal, Reprove
from layer8.protocol.statement import Principal, Purpose, Role, Statement, again
from layer8.security.policy import parse_resource
from layer8.security.provider import Action, AuditEvent, Decision, Resource, ResourceKind, SecurityProvider
from layer8.vnet.board_port import BoardPort
from layer8.vnet.complaints import Complaints
from layer8.vnet.config import VnetConfig
from layer8.vnet.ledger import Ledger
from layer8.vnet.refusal import Refusal
from layer8.vnet.session import Administration, Session
from layer8.vnet.switchboard import Switchboard
from layer8.vnet.workers import Busy, Workers

_log = logging.getLogger("layer8.vnet")

_BATCH_SECONDS = 0.003
_PAGE = 200  # principals in one answer
_RELOAD_SECONDS = 30.0
_RENEW_SECONDS = 10.0
_LONGEST_TIMER = 86400.0


class Guarded(Protocol):
    """What the guard needs of its Vnet."""

    config: VnetConfig
    provider: SecurityProvider
    providers: Workers
    workers: Workers
    board: Switchboard
    overlay: str
    uuid: UUID
    epoch: int
    stopping: bool

    def everybody(self) -> Iterable[Session]:
        """All sessions, observers too."""


class Guard:
    """Belongs to the loop's thread. `reloads`: how often everything was asked about again. `revoked`: handles and
    subscriptions taken away, ports closed. `listeners`: who else asks again when answers may have changed (links)."""

    def __init__(self, vnet: Guarded, loop: asyncio.AbstractEventLoop) -> None:
        self._vnet = vnet
        self._loop = loop
        self._complaints = Complaints(_log, loop)
        self._take_back: Callable[[], None] = lambda: None
        self._dirty = False
        self._checking: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_at = 0.0
        self.ledger = Ledger()
        self.listeners: list[Callable[[], None]] = []
        self.reloads = 0
        self.revoked = 0
        self.closed = False

    def start(self) -> None:
        self._take_back = self._vnet.provider.watch(self._changed)

    def close(self) -> None:
        """Asks nothing more; the provider ends. Safe twice."""
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(Exception):
            self._take_back()
        for ending in (self._checking, self._expiry):
            if ending is not None:
                ending.cancel()
        close = getattr(self._vnet.provider, "close", None)
        if close is not None:
            try:
                close()
            except Exception:
                _log.exception("the Security Provider did not end cleanly")

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def allowed(self, who: Principal, action: Action, what: Resource) -> bool:
        """Asks the provider; an exception is a no. A no is on record."""
        decision = self._ask(who, action, what)
        if not decision.allowed:
            reason = decision.reason
            self.ledger.refused(who.uri)
            self._complaints.warn("not allowed", "%s may not %s %s (%s)", who.uri, action.value, what, reason)
            self.audit("refuse", principal=who.uri, action=action, resource=what, allowed=False, reason=reason)
        return bool(decision.allowed)

    def would_allow(self, who: Principal, action: Action, what: Resource) -> bool:
        """Asks only."""
        return bool(self._ask(who, action, what).allowed)

    def _ask(self, who: Principal, action: Action, what: Resource) -> Decision:
        try:
            return self._vnet.provider.authorize(who, action, what)
        except Exception as error:
            self._complaints.warn("authorize", "the Security Provider failed to decide: %r", error)
            return Decision(allowed=False, reason="the Security Provider failed")

    def granted(self, port: BoardPort, action: Action, resource: Resource) -> None:
        """For the record."""
        self.audit("grant", principal=port.principal.uri, action=action, resource=resource)

    def audit(
        self,
        what: str,
        *,
        principal: str = "",
        action: Action | None = None,
        resource: Resource | None = None,
        allowed: bool = True,
        reason: str = "",
    ) -> None:
        event = AuditEvent(
            time=time.time(),
            what=what,
            principal=principal,
            action=action,
            resource=resource,
            allowed=allowed,
            reason=reason,
        )
        try:
            self._vnet.provider.audit(event)
        except Exception as error:
            self._complaints.warn("audit", "the Security Provider failed to audit: %r", error)

    # ── what has changed ──────────────────────────────────────────────────────────────────────────────────────────

    def _changed(self) -> None:
        """In any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._mark)

    def _mark(self) -> None:
        if self.closed:
            return
        self._dirty = True
        if self._checking is None:
            self._checking = self._loop.create_task(self._check_all())
            self._checking.add_done_callback(self._checked)

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._checking = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("checking what is granted has failed", exc_info=task.exception())
        if self._dirty:
            self._mark()

    async def _check_all(self) -> None:
        while self._dirty and not self._vnet.stopping:
            self._dirty = False
            began, revoked = time.monotonic(), self.revoked
            answers: dict[tuple[str, str, Action, Resource], bool] = {}
            sessions = tuple(self._vnet.everybody())
            turn = time.monotonic() + _BATCH_SECONDS
            for session in sessions:
                self._check(session, answers)
                if self._dirty:
                    break  # what was answered so far is old already
                if time.monotonic() > turn:
                    await asyncio.sleep(0)
                    turn = time.monotonic() + _BATCH_SECONDS
            if self._dirty:
                continue
            self.reloads += 1
            taken = self.revoked - revoked
            text = f"{len(sessions)} ports checked, {taken} grants and ports taken away"
            _log.info("%s, in %.0f ms", text, 1000 * (time.monotonic() - began))
            self.audit("checked", reason=text)
            for listener in self.listeners:
                listener()

    def _check(self, session: Session, answers: dict[tuple[str, str, Action, Resource], bool]) -> None:
        if session.is_closing:
            return
        who = session.newcomer.principal

        def may(action: Action, resource: Resource) -> bool:
            question = (who.uri, who.credential, action, resource)
            found = answers.get(question)
            if found is None:
                found = answers[question] = self.would_allow(who, action, resource)
            return found

        overlay = Resource(kind=ResourceKind.OVERLAY, name=self._vnet.overlay)
        port = session.port
        alias = session.newcomer.alias if port is not None else None
        serves = Resource(kind=ResourceKind.ALIAS, name=alias or "")
        if not may(Action.ATTACH, overlay):
            self._expel(session, Action.ATTACH, overlay)
        elif alias is not None and not may(Action.SERVE, serves):
            self._expel(session, Action.SERVE, serves)
        elif port is not None and port.is_up:
            self._check_port(session, port, may)

    def _check_port(self, session: Session, port: BoardPort, may: Callable[[Action, Resource], bool]) -> None:
        uri = port.principal.uri
        for slot, handle in list(port.handles.items()):
            lost = next((action for action in handle.allows if not may(action, handle.resource)), None)
            if lost is not None:
                self._vnet.board.revoke(port, slot)
                self._taken(uri, lost, handle.resource)
        for number, topic in list(port.topics.items()):
            resource = Resource(kind=ResourceKind.TOPIC, name=topic)
            if not may(Action.SUBSCRIBE, resource):
                with contextlib.suppress(Refusal):
                    self._vnet.board.unsubscribe(port, number)
                session.topic_revoked(number, topic)
                self._taken(uri, Action.SUBSCRIBE, resource)

    def _taken(self, uri: str, action: Action, resource: Resource) -> None:
        self.revoked += 1
        self.audit("revoke", principal=uri, action=action, resource=resource, allowed=False)

    def _expel(self, session: Session, action: Action, resource: Resource) -> None:
        who = session.newcomer.principal
        self._taken(who.uri, action, resource)
        self._complaints.warn("expelled", "%s may no longer %s %s: closed", who.uri, action.value, resource)
        decision = self._ask(who, action, resource)
        lasting = decision.lasting and not decision.allowed
        why = f": {decision.reason}" if lasting else ""  # of a policy the log says more, and only the log
        session.expel(f"{who.uri} may no longer {action.value} {resource}{why}", lasting=lasting)

    # ── what expires ──────────────────────────────────────────────────────────────────────────────────────────────

    def expires(self, who: Principal) -> None:
        """A session of this principal has come, or has proved itself anew."""
        if not who.expires or self.closed or (self._expiry is not None and self._expires_at <= who.expires):
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires_at = who.expires
        delay = min(max(0.0, who.expires - time.time()) + 0.01, _LONGEST_TIMER)
        self._expiry = self._loop.call_later(delay, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        now = time.time()
        for session in tuple(self._vnet.everybody()):
            who = session.newcomer.principal
            if session.is_closing:
                continue
            if who.expires and who.expires <= now:
                self.audit("expired", principal=who.uri, allowed=False)
                self._complaints.warn("expired", "the certificate of %s has expired: closed", who.uri)
                session.expel(f"the certificate of {who.uri} has expired")
            else:
                self.expires(who)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, session: Session, request: Administration) -> Done:
        """Raises Refusal."""
        match request:
            case Reload(id=id):
                self._require(session)
                return Done(id=id, text=await self.reload())
            case Explain(id=id):
                self._require(session)
                return Done(id=id, text=self._explain(request))
            case AuditPlace(id=id):
                self._require(session)
                log = self._vnet.config.audit
                return Done(id=id, text="" if log is None else str(log.absolute()))
            case Principals(id=id, after=after):
                self._require(session, Action.READ_HEALTH)
                rows = self.ledger.page(after, _PAGE + 1, self._ports())
                return Done(id=id, principals=tuple(rows[:_PAGE]), more=len(rows) > _PAGE)
            case Renewal():
                return await self._renew(session, request)
            case Reprove():
                return await self._reprove(session, request)

    async def reload(self) -> str:
        """Looks at policy and identity at once: what came of it. Raises Refusal for what could not be taken over."""
        reload = getattr(self._vnet.provider, "reload", None)
        if reload is None:
            return "this Security Provider has nothing to reload"
        try:
            await self._vnet.workers.call(reload, timeout=_RELOAD_SECONDS)
        except (Busy, TimeoutError) as error:
            raise Refusal("limit", "the Security Provider did not answer in time") from error
        except Exception as error:
            _log.error("NOT RELOADED, what was good before stays in force: %s", error)
            self.audit("reload", allowed=False, reason=str(error))
            raise Refusal("invalid", f"not reloaded, what was good before stays in force: {error}") from error
        self.audit("reload")
        _log.info("reloaded")
        return "reloaded"

    def _explain(self, request: Explain) -> str:
        try:
            action = Action(request.action)
            resource = parse_resource(request.resource, action)
        except ValueError as error:
            raise Refusal("invalid", str(error)) from error
        explain = getattr(self._vnet.provider, "explain", None)
        if explain is None:
            return "no policy is in force: the Security Provider decides alone"
        text: str = explain(request.principal, action, resource)
        return text

    async def _renew(self, session: Session, request: Renewal) -> Done:
        """Passes a member's request for a new leaf on to the authority."""
        renew = getattr(self._vnet.provider, "renew", None)
        if renew is None:
            raise Refusal("unsupported", "this Security Provider renews nothing")
        uri = session.newcomer.principal.uri
        try:
            given = await self._vnet.workers.call(renew, request.question, timeout=_RENEW_SECONDS)
        except (Busy, TimeoutError) as error:
            raise Refusal("limit", "the authority did not answer in time") from error
        except (Layer8Error, ValueError) as error:
            self.audit("renew", principal=uri, allowed=False, reason=str(error))
            raise Refusal("invalid", "there is no renewal; the Vnet's log says why") from error
        self.audit("renew", principal=uri)
        return Done(id=request.id, data=(given.certificate, given.trust, given.revoked))

    async def _reprove(self, session: Session, request: Reprove) -> Done:
        """A member whose leaf was renewed proves itself anew: nothing of it is interrupted."""
        session.proofs += 1
        before = session.newcomer.principal
        statement = Statement(
            purpose=Purpose.ATTACH,
            prover_role=Role.VNIC,
            overlay=self._vnet.overlay,
            audience=f"vnet/{self._vnet.uuid}/{self._vnet.epoch}",
            digest=again(session.newcomer.digest, session.proofs),
        )
        try:
            who = await self._vnet.providers.call(
                self._vnet.provider.verify,
                request.proof,
                statement,
                dataclasses.replace(session.newcomer.seen, certificate=None),  # that of TLS is still the one before
                timeout=self._vnet.config.provider_timeout,
            )
            if who.uri != before.uri or who.role is not before.role:
                raise PermissionError(f"{who.uri} is another")
        except (Busy, TimeoutError) as error:
            raise Refusal("limit", "the Security Provider did not answer in time") from error
        except Exception as error:
            _log.warning("%s could not prove itself anew: %r", before.uri, error)
            self.audit("reprove", principal=before.uri, allowed=False, reason=str(error))
            fields = (before.uri, "attach", f"overlay {self._vnet.overlay}")
            raise Refusal("not-authorized", "the proof does not hold", fields) from None
        session.newcomer.principal = who
        if session.port is not None:
            session.port.principal = who
        self.expires(who)
        return Done(id=request.id)

    def _require(self, session: Session, action: Action = Action.ADMINISTER) -> None:
        resource = Resource(kind=ResourceKind.OVERLAY, name=self._vnet.overlay)
        who = session.newcomer.principal
        if not self.allowed(who, action, resource):
            raise Refusal("not-authorized", "", (who.uri, action.value, str(resource)))

    def _ports(self) -> Iterable[BoardPort]:
        return (session.port for session in self._vnet.everybody() if session.port is not None)
