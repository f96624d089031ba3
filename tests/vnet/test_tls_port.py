"""The TLS port with real sockets and real certificates: who is handed over, who is dropped, and what it costs."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from layer8.protocol.statement import Role
from layer8.security import TlsRole, certificates, identity
from layer8.security.authority import Authority
from layer8.security.certificates import Identity
from layer8.security.provider import SecurityProvider
from layer8.security.x509 import X509Provider
from layer8.testing import running_vnet
from layer8.vnet.config import VnetConfig
from layer8.vnet.tls_port import TlsConnection, TlsPort, tls_binding
from layer8.vnet.workers import Workers

PATIENCE = 30.0
ECHO, OTHER = "echo/1", "other/1"


class Overlay:
    """An authority and its members. `member` gives the provider of one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = Authority.create(path / "authority", "shop", time.time() - 100)

    def member(self, name: str, role: Role = Role.VNET) -> X509Provider:
        key = certificates.new_key()
        who = Identity(overlay="shop", role=role, name=name)
        issued = self.authority.issue(who, key.public_key(), time.time() - 100)
        identity.install(self.path / name, issued.certificate, issued.trust, issued.revoked, key)
        return X509Provider(self.path / name)


class Host:
    """What a port needs of its Vnet."""

    def __init__(self, provider: SecurityProvider, loop: asyncio.AbstractEventLoop, config: VnetConfig) -> None:
        self.config = config
        self.provider = provider
        self.providers = Workers("provider", 2, loop)


class Served:
    """A port, and what was handed over."""

    def __init__(self, port: TlsPort) -> None:
        self.port = port
        self.handed: asyncio.Queue[TlsConnection] = asyncio.Queue()

    @property
    def address(self) -> tuple[str, int]:
        return self.port.addresses[0]

    async def next(self) -> TlsConnection:
        async with asyncio.timeout(PATIENCE):
            return await self.handed.get()


@asynccontextmanager
async def serving(provider: SecurityProvider, listen: str = "127.0.0.1:0", **settings: float) -> AsyncIterator[Served]:
    loop = asyncio.get_running_loop()
    host = Host(provider, loop, VnetConfig(**settings))  # type: ignore[arg-type]
    served = Served(TlsPort(host, loop))
    served.port.mount(ECHO, served.handed.put_nowait)
    served.port.open([listen])
    try:
        yield served
    finally:
        while not served.handed.empty():
            served.handed.get_nowait().close()
        served.port.close()
        host.providers.close()
        await quiet()


async def quiet() -> None:
    """Until every task but this one is over."""
    async with asyncio.timeout(PATIENCE):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


def dial(address: tuple[str, int], context: ssl.SSLContext, alpn: str = ECHO) -> ssl.SSLSocket:
    """A client's whole handshake, and then its first read: only that tells whether the server took its certificate."""
    context.set_alpn_protocols([alpn])
    plain = socket.create_connection(address, PATIENCE)
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


async def in_thread(function: Callable[..., ssl.SSLSocket], *arguments: object) -> ssl.SSLSocket:
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def ended(connection: socket.socket) -> bool:
    """Reads until the other side has ended the connection."""
    connection.settimeout(PATIENCE)
    with suppress(ConnectionError, ssl.SSLError):
        while connection.recv(4096):
            pass
    return True


async def is_ended(connection: socket.socket) -> bool:
    return await asyncio.get_running_loop().run_in_executor(None, ended, connection)


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


def test_the_handler_of_its_alpn_gets_a_connection_with_the_certificate_and_the_binding(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one")) as served:
            client = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL))
            connection = await served.next()
            assert connection.certificate is not None
            assert len(served.port) == 1
            connection.settled()
            assert len(served.port) == 0
            assert connection.binding == tls_binding(client)
            assert connection.alpn == ECHO
            connection.close()
            assert await is_ended(client)
            client.close()

    asyncio.run(run())


def test_bindings_of_two_connections_differ(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one")) as served:
            two = overlay.member("two")
            bindings = set()
            for _ in range(2):
                client = await in_thread(dial, served.address, two.tls(TlsRole.DIAL))
                connection = await served.next()
                bindings.add(connection.binding)
                connection.close()
                client.close()
            assert len(bindings) == 2

    asyncio.run(run())


def test_who_asks_for_nothing_that_there_is_is_dropped(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one")) as served:
            client = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL), OTHER)
            assert await is_ended(client)
            client.close()
            assert served.handed.empty()
            assert served.port.refused == 1

    asyncio.run(run())


def test_a_silent_client_is_dropped_and_leaves_nothing(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one"), attach_timeout=0.05) as served:
            before = len(os.listdir("/proc/self/fd"))
            with socket.create_connection(served.address, PATIENCE) as client:
                assert await is_ended(client)
            assert len(served.port) == 0
            assert len(os.listdir("/proc/self/fd")) <= before

    asyncio.run(run())


def test_one_who_stops_in_the_middle_of_a_handshake_is_dropped_in_time(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one"), attach_timeout=0.2) as served:
            with socket.create_connection(served.address, PATIENCE) as client:
                client.sendall(b"\x16\x03\x01\x02\x00\x01")
                assert await is_ended(client)
            assert len(served.port) == 0

    asyncio.run(run())


def test_the_oldest_of_an_address_makes_room_for_its_next(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one"), pending_per_address=3, attach_timeout=60) as served:
            silent = [socket.create_connection(served.address, PATIENCE) for _ in range(3)]
            client = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL))
            (await served.next()).close()
            assert await is_ended(silent[0])
            assert len(served.port) == 2
            for connection in (client, *silent):
                connection.close()

    asyncio.run(run())


def test_silence_from_many_addresses_is_bounded_too(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one"), "0.0.0.0:0", pending_connections=3, attach_timeout=60) as served:
            port = served.address[1]
            silent = [socket.create_connection((f"127.0.0.{number}", port), PATIENCE) for number in range(1, 5)]
            assert await is_ended(silent[0])
            assert len(served.port) == 3
            for connection in silent:
                connection.close()

    asyncio.run(run())


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 300, os.urandom(5000), b"\x16\x03\x01\xff\xff"])
def test_garbage_ends_that_connection_alone(overlay: Overlay, said: bytes) -> None:
    async def run() -> None:
        async with serving(overlay.member("one"), attach_timeout=1.0) as served:
            with socket.create_connection(served.address, PATIENCE) as client:
                client.sendall(said)
                good = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL))
                (await served.next()).close()
                assert await is_ended(client)
                good.close()

    asyncio.run(run())


def test_a_client_without_a_certificate_gets_only_what_needs_none(overlay: Overlay) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE

    async def run() -> None:
        async with serving(overlay.member("one")) as served:
            refused = await in_thread(dial, served.address, bare)
            assert await is_ended(refused)
            served.port.mount("join/1", served.handed.put_nowait, needs_certificate=False)
            refused_again = await in_thread(dial, served.address, bare)
            assert await is_ended(refused_again)
            assert served.handed.empty()
            client = await in_thread(dial, served.address, bare, "join/1")
            connection = await served.next()
            assert (connection.alpn, connection.certificate) == ("join/1", None)
            connection.close()
            for one in (refused, refused_again, client):
                one.close()

    asyncio.run(run())


def test_certificates_that_are_not_good_are_refused(overlay: Overlay, tmp_path: Path) -> None:
    def showing(where: Overlay, name: str, lifetime: float) -> ssl.SSLContext:
        """A context that believes the overlay of the test and shows a leaf of `where`."""
        key = certificates.new_key()
        who = Identity(overlay="shop", role=Role.VNET, name=name)
        issued = where.authority.issue(who, key.public_key(), time.time() - 100, lifetime)
        pem = where.path / f"{name}.pem"
        pem.write_bytes(certificates.key_to_pem(key) + issued.certificate)
        context = overlay.member(f"host-of-{name}").tls(TlsRole.DIAL)
        context.load_cert_chain(pem)
        return context

    strangers = tmp_path / "strangers"
    strangers.mkdir(mode=0o700)
    bad = [showing(Overlay(strangers), "stranger", 3600.0), showing(overlay, "expired", 50.0)]

    async def run() -> None:
        async with serving(overlay.member("one")) as served:
            for context in bad:
                with suppress(ssl.SSLError, ConnectionError):
                    client = await in_thread(dial, served.address, context)
                    assert await is_ended(client)
                    client.close()
            await quiet()
            assert served.handed.empty()
            assert served.port.refused == len(bad)

    asyncio.run(run())


def test_one_that_is_not_settled_in_time_is_closed_and_its_handler_told(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one"), attach_timeout=1.0) as served:
            client = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL))
            connection = await served.next()
            told = asyncio.Event()

            def expired() -> None:
                told.set()
                connection.close()

            connection.on_expired = expired
            async with asyncio.timeout(PATIENCE):
                await told.wait()
            assert connection.is_closed
            assert await is_ended(client)
            client.close()

    asyncio.run(run())


def test_a_handler_that_fails_closes_its_connection(overlay: Overlay) -> None:
    def fail(connection: TlsConnection) -> None:
        raise RuntimeError("a handler's fault")

    async def run() -> None:
        async with serving(overlay.member("one")) as served:
            served.port.mount(OTHER, fail)
            client = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL), OTHER)
            assert await is_ended(client)
            client.close()
            assert len(served.port) == 0

    asyncio.run(run())


def test_closing_the_port_ends_those_who_are_not_settled(overlay: Overlay) -> None:
    async def run() -> None:
        async with serving(overlay.member("one"), attach_timeout=60) as served:
            silent = socket.create_connection(served.address, PATIENCE)
            half = socket.create_connection(served.address, PATIENCE)
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            client = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL))
            handed = await served.next()
            served.port.close()
            for connection in (silent, half, client):
                assert await is_ended(connection)
                connection.close()
            assert handed.is_closed
            assert len(served.port) == 0

    asyncio.run(run())


def test_it_listens_at_ipv6_addresses(overlay: Overlay) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.fail("this machine has no IPv6: the port cannot be tested on it")

    async def run() -> None:
        async with serving(overlay.member("one"), "[::1]:0") as served:
            client = await in_thread(dial, served.address, overlay.member("two").tls(TlsRole.DIAL))
            connection = await served.next()
            assert connection.address.startswith("[::1]:")
            connection.close()
            client.close()

    asyncio.run(run())


def test_a_vnet_that_is_to_listen_without_tls_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="`listen` needs a Security Provider that has TLS"):
        running_vnet(config={"listen": "127.0.0.1:0"})
