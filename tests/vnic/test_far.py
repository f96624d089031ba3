"""A Vnic without a local Vnet: how it finds one, what a bad connection does to it, and what comes of the Vnet's end.

What it shares with every Vnic stands in the other files, which run over both transports.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from layer8 import AsyncVnic, NotAuthorized, SecurityMismatch, Undeliverable, Unreachable, VnetNotFound, Vnic
from layer8.security.authority import Authority
from layer8.testing import Overlay, RunningVnet, make_overlay, running_vnet
from layer8.vnic.control import ControlClient

from .conftest import free_port
from .cutting_proxy import CuttingProxy

PATIENCE = 60.0


class Far:
    """A Vnet with a TLS port, and Vnics that reach it there, directly or through a proxy."""

    def __init__(self, overlay: Overlay, stack: ExitStack, **config: object) -> None:
        self.overlay = overlay
        self.place = f"127.0.0.1:{free_port()}"
        settings = {"security": "x509", "identity": overlay.vnet(), "listen": self.place, **config}
        self.vnet: RunningVnet = stack.enter_context(running_vnet(config=settings))
        self._stack = stack

    def proxy(self, budget: Callable[[], int | None] = lambda: None) -> CuttingProxy:
        proxy = CuttingProxy(self.place, budget)
        self._stack.callback(proxy.close)
        return proxy

    def far(self, alias: str | None = None, place: str = "", name: str = "laptop", **arguments: object) -> Vnic:
        return self._make(alias, f"tls://{place or self.place}", name, arguments)

    def near(self, alias: str | None = None, **arguments: object) -> Vnic:
        return self._make(alias, str(self.vnet.socket), "app", arguments)

    def _make(self, alias: str | None, vnet: str, name: str, arguments: dict[str, object]) -> Vnic:
        arguments = {"attach_timeout": PATIENCE, "timeout": PATIENCE, **arguments}
        security = arguments.pop("security", f"x509:{self.overlay.vnic(name)}")
        vnic = Vnic(alias, vnet=vnet, security=security, **arguments)  # type: ignore[arg-type]
        self._stack.callback(vnic.close)
        return vnic


MakeFar = Callable[..., Far]


@pytest.fixture
def make_far(overlay: Overlay) -> Iterator[MakeFar]:
    with ExitStack() as stack:
        yield lambda **config: Far(overlay, stack, **config)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def send_all(sender: Vnic, to: str, count: int) -> threading.Thread:
    def send() -> None:
        for number in range(count):
            sender.send(to, number.to_bytes(4, "little") + bytes(number % 200))

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def receive_all(receiver: Vnic, count: int) -> None:
    """All of them, once, in order."""
    expected = 0
    while expected < count:
        for message in receiver.receive_many(timeout=PATIENCE):
            assert int.from_bytes(message.payload[:4], "little") == expected
            expected += 1
    assert receiver.try_receive() is None


# ── bad connections ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_that_is_cut_again_and_again_loses_nothing_and_doubles_nothing(make_far: MakeFar) -> None:
    far = make_far()
    chance = random.Random(8)
    proxy = far.proxy(lambda: chance.randrange(20_000, 200_000))
    near, away = far.near("near"), far.far("away", proxy.address)
    count = 15_000
    for sender, to, receiver in ((away, "near", near), (near, "away", away)):
        thread = send_all(sender, to, count)
        receive_all(receiver, count)
        thread.join()
    assert proxy.cuts >= 20
    assert away.stats().attachments == 1  # nobody above the carrier has noticed


def test_requests_and_large_messages_outlive_a_cut(make_far: MakeFar) -> None:
    far = make_far()
    chance = random.Random(9)
    proxy = far.proxy(lambda: chance.randrange(100_000, 2_000_000))
    near, away = far.near("near"), far.far("away", proxy.address)
    near.serve(lambda request: request.payload + b"!")
    payload = random.Random(1).randbytes(3 << 20)
    for _ in range(4):
        assert away.request("near", payload).payload == payload + b"!"
    assert proxy.cuts >= 4
    assert away.stats().attachments == 1


def test_control_goes_on_over_a_cut(make_far: MakeFar) -> None:
    far = make_far()
    chance = random.Random(10)
    proxy = far.proxy(lambda: chance.randrange(9_000, 30_000))
    away = far.far("away", proxy.address)
    near = far.near()
    for number in range(150):
        subscription = away.subscribe(f"topic-{number}")
        near.publish(f"topic-{number}", b"x")
        assert away.receive(PATIENCE).topic == f"topic-{number}"
        subscription.close()
        assert away.find("away").uuid == away.uuid
    assert proxy.cuts >= 3
    assert away.stats().attachments == 1


def test_a_connection_that_falls_silent_is_replaced(make_far: MakeFar) -> None:
    far = make_far(far_alive=0.2, far_patience=4.0)
    proxy = far.proxy()
    near, away = far.near("near"), far.far("away", proxy.address)
    away.send("near", b"before")
    assert near.receive(PATIENCE).payload == b"before"
    proxy.swallowing = True
    away.send("near", b"meanwhile")
    connections = proxy.connections
    until(lambda: proxy.connections > connections, "it dials again")
    proxy.swallowing = False
    assert near.receive(PATIENCE).payload == b"meanwhile"
    near.send("away", b"back")
    assert away.receive(PATIENCE).payload == b"back"


def test_a_vnic_whose_connection_is_cut_is_suspect_for_others(make_far: MakeFar) -> None:
    far = make_far(far_patience=60.0, look_interval=0.1)
    proxy = far.proxy()
    near = far.near("near")
    away = far.far("away", proxy.address)

    def state() -> str:
        (record,) = near.health(alias="away")
        return f"{record.state} {record.reason}"

    assert state() == "UP "
    proxy.refusing = True
    proxy.cut()
    until(lambda: state() == "SUSPECT its connection is cut", "others see that it is cut")
    proxy.refusing = False
    until(lambda: state() == "UP ", "and that it is back")
    near.send("away", b"x")
    assert away.receive(PATIENCE).payload == b"x"


def test_who_stays_away_too_long_has_lost_its_port_and_hears_what_became_of_its_messages(make_far: MakeFar) -> None:
    far = make_far(far_alive=0.2, far_patience=1.0)
    proxy = far.proxy()
    near, away = far.near("near"), far.far("away", proxy.address)
    reported: list[Undeliverable] = []
    away.on_undeliverable = reported.append
    assert near.find("away").uuid == away.uuid
    away.send("near", b"before")
    assert near.receive(PATIENCE).payload == b"before"
    proxy.refusing = True
    proxy.cut()
    away.send("near", b"into the dark")
    with pytest.raises(Unreachable):
        near.request("away", b"?")  # it is given up, and that is told
    proxy.refusing = False
    until(lambda: away.state == "attached" and away.stats().attachments == 2, "it attaches anew")
    until(lambda: reported or near.try_receive() is not None, "the message arrived, or was reported")
    assert {item.reason for item in reported} <= {"unknown"}
    near.send("away", b"again")
    assert away.receive(PATIENCE).payload == b"again"


# ── the Vnet's end ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_vnet_that_is_killed_under_load_loses_nothing_and_doubles_nothing(make_far: MakeFar) -> None:
    far = make_far()
    near, away = far.near("near"), far.far("away")
    count = 30_000
    threads = [send_all(away, "near", count), send_all(near, "away", count)]
    readers = [threading.Thread(target=receive_all, args=(vnic, count)) for vnic in (near, away)]
    failures: list[BaseException] = []
    threading.excepthook, hook = lambda args: failures.append(args.exc_value or KeyError()), threading.excepthook
    try:
        for reader in readers:
            reader.start()
        for kills in range(1, 4):
            far.vnet.kill()
            far.vnet.restart()
            until(lambda: min(near.stats().attachments, away.stats().attachments) > kills, "both are back")  # noqa: B023
        for thread in [*threads, *readers]:
            thread.join()
    finally:
        threading.excepthook = hook
    assert not failures


def test_what_stood_unread_at_the_vnet_arrives_after_its_death(make_far: MakeFar) -> None:
    """What the switch had delivered into the mirror and the network had not carried yet."""
    far = make_far()
    proxy = far.proxy()
    near, away = far.near("near"), far.far("away", proxy.address)
    near.send("away", b"first")
    assert away.receive(PATIENCE).payload == b"first"
    proxy.swallowing = True
    for number in range(100):
        near.send("away", number.to_bytes(4, "little"))
    until(lambda: near.stats().port.transmit_fill == 0, "the switch has taken all")  # type: ignore[union-attr]
    far.vnet.kill()
    proxy.cut()
    proxy.swallowing = False
    far.vnet.restart()
    receive_all(away, 100)


def test_an_orderly_stop_and_start_is_survived(make_far: MakeFar) -> None:
    far = make_far()
    away = far.far("away")
    away.subscribe("news")
    far.vnet.restart()
    until(lambda: away.stats().attachments == 2 and away.state == "attached", "it is back")
    near = far.near()
    near.publish("news", b"still here")
    assert away.receive(PATIENCE).payload == b"still here"


def test_a_far_vnic_that_is_killed_is_gone_for_others(make_far: MakeFar) -> None:
    far = make_far(far_alive=0.2, far_patience=1.0)
    script = f"""
import time
from layer8 import Vnic
vnic = Vnic("doomed", vnet="tls://{far.place}", security="x509:{far.overlay.vnic()}", attach_timeout=60)
print("attached", flush=True)
kept = []
while True:
    kept.append(vnic.receive())  # a request, never answered
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "attached\n"
        near = far.near()
        threading.Timer(0.5, child.send_signal, (signal.SIGKILL,)).start()
        with pytest.raises(Unreachable):
            near.request("doomed", b"?", timeout=PATIENCE)
    finally:
        child.kill()
        child.communicate()


def test_closing_leaves_no_thread_and_no_port(make_far: MakeFar) -> None:
    far = make_far()
    near = far.near()
    before = threading.active_count()
    away = far.far("passing")
    away.close()
    until(lambda: threading.active_count() == before, "the carrier has ended")
    until(lambda: not near.health(alias="passing", state="UP"), "it has left")
    far.far("passing").close()


def test_a_forked_child_does_not_keep_the_connection(make_far: MakeFar) -> None:
    far = make_far()
    near, away = far.near("near"), far.far("away")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(write)
            os.read(read, 1)  # until the parent has closed it
        finally:
            os._exit(0)
    os.close(read)
    try:
        away.send("near", b"from the parent")
        assert near.receive(PATIENCE).payload == b"from the parent"
        away.close()
        until(lambda: not near.health(alias="away", state="UP"), "it has left, though the child lives")
    finally:
        os.close(write)
        os.waitpid(child, 0)


# ── who is let in, and what is said to who is not ──────────────────────────────────────────────────────────────────


def test_a_far_vnic_is_who_its_certificate_says(make_far: MakeFar) -> None:
    far = make_far()
    near, away = far.near("near"), far.far("away", name="laptop")
    away.send("near", b"x")
    assert near.receive(PATIENCE).principal == "layer8://test/vnic/laptop"
    record = near.find("away")
    assert record.principal == "layer8://test/vnic/laptop"
    assert record.pid == 0  # not a process of the Vnet's host


def test_nobody_there_lists_what_was_tried() -> None:
    port = free_port()
    with pytest.raises(VnetNotFound) as raised:
        Vnic(vnet=f"tls://127.0.0.1:{port}", attach_timeout=0.2)
    (tried,) = raised.value.tried
    assert tried.startswith(f"tls://127.0.0.1:{port}: ")
    assert "the local Security Provider has no TLS" in tried


def test_an_address_where_no_vnet_listens_says_so(overlay: Overlay) -> None:
    port = free_port()
    with pytest.raises(VnetNotFound, match="refused"):
        Vnic(vnet=f"tls://127.0.0.1:{port}", security=f"x509:{overlay.vnic()}", attach_timeout=0.5)


def test_a_name_that_cannot_be_resolved_says_so(overlay: Overlay) -> None:
    with pytest.raises(VnetNotFound, match=r"tls://nowhere\.invalid:8808"):
        Vnic(vnet="tls://nowhere.invalid", security=f"x509:{overlay.vnic()}", attach_timeout=2.0)


def test_who_accepts_and_says_nothing_costs_no_more_than_the_time_out(overlay: Overlay) -> None:
    with CuttingProxyToNowhere() as place, pytest.raises(VnetNotFound, match=place):
        Vnic(vnet=f"tls://{place}", security=f"x509:{overlay.vnic()}", attach_timeout=0.5)


class CuttingProxyToNowhere:
    """A listener that says nothing."""

    def __enter__(self) -> str:
        import socket

        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def test_a_certificate_of_another_authority_is_refused(
    make_far: MakeFar, tmp_path_factory: pytest.TempPathFactory
) -> None:
    far = make_far()
    other = make_overlay(tmp_path_factory.mktemp("other"), "test")
    with pytest.raises((VnetNotFound, SecurityMismatch)) as raised:
        far.far(security=f"x509:{other.vnic()}", attach_timeout=1.0)
    assert far.place in str(raised.value) or isinstance(raised.value, SecurityMismatch)


def test_a_vnets_certificate_is_refused_where_vnics_attach(make_far: MakeFar) -> None:
    far = make_far()
    with pytest.raises((NotAuthorized, VnetNotFound, Exception)) as raised:
        far.far(security=f"x509:{far.overlay.vnet('other')}", attach_timeout=2.0)
    assert "vnet/other" in str(raised.value)


def test_a_revoked_certificate_is_refused_at_this_port_too(make_far: MakeFar, overlay: Overlay) -> None:
    far = make_far(authority=str(overlay.path))
    away = far.far("away", name="revoked")
    Authority(overlay.path).revoke("layer8://test/vnic/revoked", time.time())
    until(lambda: away.state == "closed", "the live port is closed")
    with pytest.raises((NotAuthorized, VnetNotFound)):
        far.far(name="revoked", attach_timeout=3.0)
    assert far.far(name="other").state == "attached"


def test_limits_count_for_the_principal(make_far: MakeFar) -> None:
    far = make_far(ports_per_uid=1)
    far.far(name="one")
    with pytest.raises(Exception, match="layer8://test/vnic/one has 1 ports already"):
        far.far(name="one", attach_timeout=5.0)
    far.far(name="two")


def test_a_segment_larger_than_the_vnet_takes_is_refused(make_far: MakeFar) -> None:
    far = make_far(max_ring_bytes=1 << 20)
    far.far(ring_bytes=1 << 20)
    with pytest.raises(Exception, match="max_ring_bytes"):
        far.far(ring_bytes=2 << 20, attach_timeout=5.0)


def test_tools_ask_a_far_vnet_too(make_far: MakeFar) -> None:
    far = make_far()
    far.far("away")
    with ControlClient(f"tls://{far.place}", security=f"x509:{far.overlay.vnic()}", attach_timeout=PATIENCE) as client:
        assert client.find("away").alias == "away"


def test_two_far_vnics_talk_through_their_vnet(make_far: MakeFar) -> None:
    far = make_far()
    one, two = far.far("one"), far.far("two")
    thread = send_all(one, "two", 3000)
    receive_all(two, 3000)
    thread.join()
    two.serve(lambda request: request.payload[::-1])
    assert one.request("two", b"abc").payload == b"cba"


def test_the_environment_names_a_far_vnet(make_far: MakeFar, monkeypatch: pytest.MonkeyPatch) -> None:
    far = make_far()
    monkeypatch.setenv("LAYER8_VNET", f"tls://{far.place}")
    monkeypatch.setenv("LAYER8_IDENTITY", far.overlay.vnic())
    with Vnic("by-environment", attach_timeout=PATIENCE) as vnic:
        assert vnic.find("by-environment").uuid == vnic.uuid


def test_a_far_vnic_may_sleep_in_a_loop(make_far: MakeFar) -> None:
    far = make_far()
    near = far.near("near")
    near.serve(lambda request: request.payload * 2)

    async def scenario() -> None:
        place, security = f"tls://{far.place}", f"x509:{far.overlay.vnic('laptop')}"
        async with AsyncVnic("away", vnet=place, security=security, attach_timeout=PATIENCE, timeout=PATIENCE) as away:
            assert (await away.request("near", b"ab")).payload == b"abab"
            thread = send_all(near, "away", 3000)
            for number in range(3000):
                message = await away.receive(PATIENCE)
                assert int.from_bytes(message.payload[:4], "little") == number
            thread.join()

    asyncio.run(scenario())
