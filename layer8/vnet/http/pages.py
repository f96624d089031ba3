"""What there is to ask a Vnet for over HTTP, and who may.

    /livez /readyz    anybody: whether it runs, and whether Vnics can attach
    /metrics          Prometheus, OpenMetrics
    /                 the page; /events what it shows, as server-sent events; /records the same once, as JSON

All but the first two need the token that stands in NAME.http-token beside the socket (0600, new at each start): whoever
can read it is the Vnet's own user. It comes as `Authorization: Bearer …`, or as the cookie that `/?token=…` sets. Then
the Security Provider is asked whether the principal `http_as` may read-health, at every request. On loopback only names
of loopback are answered to, so that no page of elsewhere reaches this by a name of its own (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import importlib.resources
import ipaddress
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

import msgspec

from layer8.health.directory import Appeared, Changed, Event
from layer8.health_record import HealthRecord, State
from layer8.rendezvous import split_address
from layer8.security.provider import Action, Principal, Resource, ResourceKind
from layer8.version import VERSION
from layer8.vnet.health_wing import HealthWing, Ready
from layer8.vnet.http.listener import HttpListener, Request, Response
from layer8.vnet.http.live import Live
from layer8.vnet.http.metrics import Reading, how_it_went, render
from layer8.vnet.workers import Busy

COOKIE = "layer8_token"
_SCRAPE_SECONDS = 10.0
_CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_log = logging.getLogger("layer8.http")


class HttpPort:
    """One a Vnet, in the loop's thread. `address`: "host:port" once open. `token_file`: who may ask can read it.
    `principal`: whose right to read-health decides, asked at every request."""

    def __init__(
        self, vnet: Ready, wing: HealthWing, where: str, token_file: Path, principal: Callable[[], Principal]
    ) -> None:
        self._vnet = vnet
        self._wing = wing
        self._where = where
        self.token_file = token_file
        self._principal = principal
        self._token = secrets.token_urlsafe(32)
        self._names: frozenset[str] = frozenset()
        self._down: dict[str, tuple[int, HealthRecord]] = {}
        self._listener = HttpListener(self._handle)
        about: dict[str, object] = {"vnet": vnet.config.name, "host": wing.desk.host, "uuid": str(vnet.uuid)}
        self._live = Live(wing.desk.directory, vnet.refresh, about)
        self._page = importlib.resources.files("layer8.vnet.http").joinpath("page.html").read_bytes()
        self._serving: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        self.address = ""

    def open(self) -> None:
        """Listens from now on. Raises OSError, and then holds nothing."""
        host, port = split_address(self._where)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=32)
        try:
            bound_host, bound_port = listening.getsockname()[:2]
            self._write_token()
        except OSError:
            listening.close()
            raise
        listening.setblocking(False)
        self.address = f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}"
        if ipaddress.ip_address(bound_host).is_loopback:
            names = {self.address, f"localhost:{bound_port}", f"127.0.0.1:{bound_port}", f"[::1]:{bound_port}"}
            self._names = frozenset(names | ({"localhost", "127.0.0.1", "[::1]"} if bound_port == 80 else set()))
        self._socket = listening
        self._serving = asyncio.get_running_loop().create_task(self._listener.serve(listening))
        self._wing.desk.listeners.append(self._happened)
        _log.info("Vnet %s speaks HTTP at http://%s/", self._vnet.config.name, self.address)

    def _write_token(self) -> None:
        new = self.token_file.with_name(self.token_file.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(self._token + "\n")
        new.replace(self.token_file)

    async def close(self) -> None:
        """Safe twice."""
        await self._live.close()
        if self._serving is not None:
            await asyncio.wait([self._serving])
        await self._listener.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(OSError):
                self.token_file.unlink()

    def _happened(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Appeared | Changed) and event.record.state is State.DOWN:
                if isinstance(event, Changed) and event.before.state is State.DOWN:
                    continue
                if event.record.host == self._wing.desk.host:
                    how = how_it_went(event.record.reason)
                    self._down[how] = self._down.get(how, (0, event.record))[0] + 1, event.record

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: Request) -> Response:
        if self._names and request.headers.get("host", "").lower() not in self._names:
            return Response(status=421, body=b"this is not a name of mine\n")
        match request.path:
            case "/livez":
                return Response(body=b"alive\n")
            case "/readyz":
                ready = self._vnet.is_ready()
                return Response(status=200 if ready else 503, body=b"ready\n" if ready else b"not ready\n")
            case "/" if "token" in request.query:
                return self._enter(request.query["token"])
        handlers: dict[str, Callable[[Request], Response]] = {"/": self._show_page, "/records": self._records}
        if request.path not in (*handlers, "/metrics", "/events"):
            return Response(status=404, body=b"there is /, /metrics, /records, /events, /livez and /readyz\n")
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.path == "/metrics":
            return await self._metrics(request)
        if request.path == "/events":
            if not self._live.has_room:
                return Response(status=503, body=b"too many look at this already\n")
            return Response(content_type="text/event-stream", stream=self._live.events())
        return handlers[request.path](request)

    def _enter(self, token: str) -> Response:
        """The page's own door: the token goes into a cookie, and out of the address."""
        if not self._is_token(token):
            return self._unauthorized()
        cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
        return Response(status=303, headers={"Location": "/", "Set-Cookie": cookie})

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def _unauthorized(self) -> Response:
        text = f"the token in {self.token_file.name} is needed: `layer8 health page` prints an address that has it\n"
        return Response(status=401, body=text.encode(), headers={"WWW-Authenticate": "Bearer"})

    def _refusal(self, request: Request) -> Response | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = _cookie(request.headers.get("cookie", ""))
        if not token or not self._is_token(token.strip()):
            return self._unauthorized()
        overlay = Resource(kind=ResourceKind.OVERLAY, name=self._vnet.overlay)
        who = self._principal()
        if not self._vnet.allowed(who, Action.READ_HEALTH, overlay):
            return Response(status=403, body=f"{who.uri} may not read-health\n".encode())
        return None

    def _show_page(self, request: Request) -> Response:
        policy = {"Content-Security-Policy": _CONTENT_POLICY}
        return Response(content_type="text/html; charset=utf-8", body=self._page, headers=policy)

    def _records(self, request: Request) -> Response:
        records = list(self._wing.desk.directory)
        return Response(content_type="application/json", body=msgspec.json.encode(records))

    async def _metrics(self, request: Request) -> Response:
        await self._wing.desk.refresh()
        try:
            body, content_type = await self._vnet.workers.call(
                render, self._reading(), request.headers.get("accept", ""), timeout=_SCRAPE_SECONDS
            )
        except (Busy, TimeoutError):
            return Response(status=503, body=b"too busy to be measured\n")
        return Response(body=body, content_type=content_type)

    def _reading(self) -> Reading:
        desk = self._wing.desk
        records = tuple(desk.directory)
        own = desk.directory.get(self._vnet.uuid)
        assert own is not None
        return Reading(
            vnet=own,
            version=VERSION,
            local=tuple(record for record in records if record.host == desk.host and record.vnet == own.vnet),
            states=Counter(record.state for record in records),
            switch=asdict(self._vnet.switch_counters()),
            down=dict(self._down),
            raised=dict(self._wing.alarms.raised_total),
            figures={
                "watches": (len(self._wing.requests.watchers), "Watches of the directory that are open."),
                "alarm_notices_dropped": (self._wing.alarms.dropped, "Notices of alarms that nobody took."),
                "started_timestamp_seconds": (self._vnet.started, "When the Vnet started."),
            },
        )


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
