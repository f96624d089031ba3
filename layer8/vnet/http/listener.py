"""HTTP/1.1 for a few askers: GET and HEAD, one answer a request, bounded in everything a stranger could stretch.

h11 is the parser because it does no more than that: no thread, no framework, no opinion on the loop. What it does not
bound is bounded here: connections, the time of a request, the time of an answer that is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import h11

CONNECTIONS = 64
REQUEST_SECONDS = 10.0
WRITE_SECONDS = 10.0
_READ_BYTES = 16 << 10
_HEADER_BYTES = 16 << 10

_log = logging.getLogger("layer8.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`path`: without the query. Names of headers are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """`stream`: in place of `body`, parts until it ends or the other side goes away."""

    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None


Handle = Callable[[Request], Awaitable[Response]]


class HttpListener:
    """One listening socket. `addresses`: where, once open. In the loop's thread."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket) -> None:
        """Takes connections from this socket from now on, and owns it."""
        self._server = await asyncio.start_server(self._accepted, sock=listening, limit=_HEADER_BYTES)

    async def close(self) -> None:
        """Ends all connections. Safe twice."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=1.0)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > CONNECTIONS:
                return  # whoever is one too many is simply closed
            await self._converse(reader, writer)
        except (OSError, asyncio.CancelledError, h11.ProtocolError, TimeoutError):
            pass  # the other side went, broke the protocol or dawdled; or we stop
        except Exception:
            _log.exception("an HTTP request failed")
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES)
        while True:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    request = await self._request(connection, reader)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    refusal = Response(status=error.error_status_hint, body=b"this is no request that I understand\n")
                    await self._answer(connection, writer, refusal, "GET")
                return
            if request is None:
                return
            if request.method in ("GET", "HEAD"):
                response = await self._handle(request)
            else:
                response = Response(status=405, body=b"there is only GET here\n", headers={"Allow": "GET, HEAD"})
            await self._answer(connection, writer, response, request.method)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _request(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
        """The next whole request; None at the end of the connection."""
        found: Request | None = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Request):
                found = _parsed(event)
            elif isinstance(event, h11.EndOfMessage):
                return found
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None

    async def _answer(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, response: Response, method: str
    ) -> None:
        headers = {
            "Content-Type": response.content_type,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            **response.headers,
        }
        if response.stream is None:
            headers["Content-Length"] = str(len(response.body))
        head = h11.Response(status_code=response.status, headers=list(headers.items()))
        await _write(writer, connection.send(head))
        if method != "HEAD":
            if response.stream is not None:
                async with contextlib.aclosing(response.stream) as parts:  # type: ignore[type-var]
                    async for part in parts:
                        await _write(writer, connection.send(h11.Data(data=part)))
            elif response.body:
                await _write(writer, connection.send(h11.Data(data=response.body)))
        await _write(writer, connection.send(h11.EndOfMessage()))


def _parsed(event: h11.Request) -> Request:
    target = urlsplit(event.target.decode("ascii", "replace"))
    return Request(
        method=event.method.decode("ascii", "replace"),
        path=target.path,
        query={name: values[-1] for name, values in parse_qs(target.query).items()},
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers},
    )


async def _write(writer: asyncio.StreamWriter, data: bytes | None) -> None:
    if data:
        writer.write(data)
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.drain()
