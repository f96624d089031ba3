"""What an attached Vnic may ask, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest

from layer8.health_record import State
from layer8.protocol.control import (
    Attached,
    Detach,
    Done,
    Draining,
    Failed,
    Find,
    Grant,
    Health,
    Ping,
    PortClosed,
    Release,
    Subscribe,
    Topics,
    Unsubscribe,
    WhoIs,
    Wire,
)
from layer8.testing import RunningVnet

Connect = Callable[..., Any]
Until = Callable[[Callable[[], object], str], None]

OPEN, GONE = 0, 2  # states of a slot


@pytest.fixture
def pair(vnet: RunningVnet, connect: Connect) -> tuple[Any, Any]:
    """Two attached Vnics; the second one has the alias `b`."""
    a, b = connect(vnet), connect(vnet)
    a.attach(alias="a")
    b.attach(alias="b")
    return a, b


def received(raw: Any) -> list[bytes]:
    """What has arrived, at least one message."""
    while raw.port.wait_arrived(30.0) == 0:  # a slice of 200 ms at most; the test's own watchdog ends it
        pass
    return [bytes(raw.port.batch[e[0] : e[0] + e[1]]) for e in raw.port.entries(raw.port.receive(256, 0))]


def grant(raw: Any, slot: int, kind: str, name: str, *, generation: int = 1, action: str = "send") -> int:
    """The handle."""
    answer = raw.ask(Grant, slot=slot, generation=generation, kind=kind, name=name, action=action)
    assert isinstance(answer, Done), answer
    return slot | generation << 16


def record_of(raw: Any, uuid: UUID) -> Any:
    return next((record for record in raw.ask(Health).records if record.uuid == uuid), None)


# ── handles ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["uuid", "alias"])
def test_a_handle_reaches_its_destination(pair: tuple[Any, Any], kind: str) -> None:
    a, b = pair
    handle = grant(a, 7, kind, str(b.uuid) if kind == "uuid" else "b")
    assert a.port.send(handle, b"hello", 5) > 0
    assert received(b) == [b"hello"]


def test_a_topic_needs_no_subscriber_and_reaches_each(pair: tuple[Any, Any]) -> None:
    a, b = pair
    handle = grant(a, 0, "topic", "prices", action="publish")
    assert a.port.publish(handle, b"nobody", 6, 0) > 0
    while a.port.stats().transmit_fill:  # until the switch has taken it
        time.sleep(0.001)
    assert isinstance(b.ask(Subscribe, topic="prices", number=3), Done)
    assert a.port.publish(handle, b"one", 3, 0) > 0
    assert received(b) == [b"one"]
    assert isinstance(b.ask(Unsubscribe, number=3), Done)
    assert isinstance(b.ask(Subscribe, topic="prices", number=3), Done)


@pytest.mark.parametrize(
    ("kind", "name", "action", "code"),
    [
        ("alias", "nobody", "send", "not-found"),
        ("uuid", "e3a1c0de-0000-4000-8000-000000000001", "send", "not-found"),
        ("uuid", "no uuid", "send", "invalid"),
        ("alias", "", "send", "invalid"),
        ("alias", "layer8.x", "send", "invalid"),
        ("topic", "x" * 256, "publish", "invalid"),
        ("topic", "t", "send", "invalid"),
        ("alias", "b", "publish", "invalid"),
        ("alias", "b", "administer", "invalid"),
        ("planet", "b", "send", "invalid"),
    ],
    ids=str,
)
def test_a_handle_that_cannot_be_is_refused_with_its_reason(
    pair: tuple[Any, Any], kind: str, name: str, action: str, code: str
) -> None:
    a, _ = pair
    answer = a.ask(Grant, slot=0, generation=1, kind=kind, name=name, action=action)
    assert isinstance(answer, Failed)
    assert answer.code == code
    grant(a, 0, "alias", "b")  # the slot is as free as before


def test_a_slot_in_use_and_a_past_generation_are_stale(pair: tuple[Any, Any]) -> None:
    a, _ = pair
    grant(a, 5, "alias", "b", generation=10)
    for generation in (9, 10, 11):
        answer = a.ask(Grant, slot=5, generation=generation, kind="alias", name="b")
        assert (type(answer), answer.code) == (Failed, "stale")
    assert a.ask(Release, slot=5, generation=9).code == "stale"
    assert isinstance(a.ask(Release, slot=5, generation=10), Done)
    assert a.ask(Release, slot=5, generation=10).code == "stale"
    assert a.ask(Grant, slot=5, generation=10, kind="alias", name="b").code == "stale"
    grant(a, 5, "alias", "b", generation=11)


def test_a_generation_begins_anew_after_its_last(pair: tuple[Any, Any]) -> None:
    a, b = pair
    grant(a, 5, "alias", "b", generation=0xFFFF)
    a.ask(Release, slot=5, generation=0xFFFF)
    handle = grant(a, 5, "alias", "b", generation=0)
    assert a.port.send(handle, b"x", 1) > 0
    assert received(b) == [b"x"]


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (Grant, {"slot": 4096, "generation": 1, "kind": "alias", "name": "b"}),
        (Grant, {"slot": -1, "generation": 1, "kind": "alias", "name": "b"}),
        (Grant, {"slot": 0, "generation": 65536, "kind": "alias", "name": "b"}),
        (Release, {"slot": 1 << 40, "generation": 1}),
        (Subscribe, {"topic": "t", "number": 1024}),
        (Unsubscribe, {"number": -1}),
    ],
)
def test_what_no_library_asks_for_closes_that_port_alone(
    pair: tuple[Any, Any], request_: Any, fields: dict[str, Any], until: Until
) -> None:
    a, b = pair
    a.send(request_(id=1, **fields))
    a.expect(PortClosed)
    assert a.ends()
    until(lambda: record_of(b, a.uuid).state is State.DOWN, "its port was closed")


def test_requests_may_be_sent_without_waiting_for_the_answers(pair: tuple[Any, Any]) -> None:
    a, b = pair
    for slot in range(1000):
        a.send(Grant(id=slot, slot=slot, generation=1, kind="alias", name="b"))
    assert {a.answer(slot).id for slot in range(1000)} == set(range(1000))
    assert all(a.port.send(slot | 1 << 16, b"x", 1) > 0 for slot in range(1000))
    count = 0
    while count < 1000:
        count += len(received(b))


def test_an_alias_that_empties_keeps_its_handles(vnet: RunningVnet, pair: tuple[Any, Any], connect: Connect) -> None:
    a, b = pair
    handle = grant(a, 0, "alias", "b")
    b.ask(Detach)
    assert a.port.slot_state(0) == GONE
    c = connect(vnet)
    c.attach(alias="b")
    assert a.port.slot_state(0) == OPEN
    assert a.port.send(handle, b"x", 1) > 0
    assert received(c) == [b"x"]


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_find_gives_the_record(pair: tuple[Any, Any]) -> None:
    a, b = pair
    for to, is_uuid in (("b", False), (str(b.uuid), True)):
        done = a.ask(Find, to=to, is_uuid=is_uuid)
        assert done.uuid == b.uuid
        assert done.record.alias == "b"
        assert done.record.pid == os.getpid()
        assert done.record.memory > 0


def test_find_waits_until_somebody_comes(vnet: RunningVnet, pair: tuple[Any, Any], connect: Connect) -> None:
    a, _ = pair
    c = connect(vnet)
    a.send(Find(id=100, to="late", is_uuid=False, timeout=60.0))
    a.send(Find(id=101, to=str(c.uuid), is_uuid=True, timeout=60.0))
    assert a.ask(Ping)  # others go on
    c.attach(alias="late")
    assert {a.answer(id).uuid for id in (100, 101)} == {c.uuid}  # noqa: A001


@pytest.mark.parametrize("timeout", [0.0, 0.05, -1.0])
def test_find_ends_without_anybody(pair: tuple[Any, Any], timeout: float) -> None:
    answer = pair[0].ask(Find, to="nobody", is_uuid=False, timeout=timeout)
    assert (type(answer), answer.code) == (Failed, "not-found")


@pytest.mark.parametrize(
    "fields", [{"to": "x", "is_uuid": True}, {"to": "x", "is_uuid": False, "timeout": float("nan")}]
)
def test_a_find_that_makes_no_sense_is_invalid(pair: tuple[Any, Any], fields: dict[str, Any]) -> None:
    assert pair[0].ask(Find, **fields).code == "invalid"


def test_finds_that_wait_are_bounded(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    raw = connect(make_vnet(finds_per_port=2))
    raw.attach()
    for number in (1, 2, 3):
        raw.send(Find(id=number, to="nobody", is_uuid=False, timeout=60.0))
    assert raw.answer(3).code == "limit"


def test_topics_are_listed_with_their_subscribers(pair: tuple[Any, Any]) -> None:
    a, b = pair
    a.ask(Subscribe, topic="both", number=0)
    b.ask(Subscribe, topic="both", number=0)
    for number in range(1, 251):
        a.ask(Subscribe, topic=f"t{number:03}", number=number)
    found: list[tuple[str, int]] = []
    more = True
    while more:
        page = b.ask(Topics, after=found[-1][0] if found else "")
        found += page.topics
        more = page.more
    assert found == [("both", 2)] + [(f"t{number:03}", 1) for number in range(1, 251)]
    assert record_of(a, b.uuid).topics == ("both",)


def test_a_number_stands_for_a_principal(pair: tuple[Any, Any]) -> None:
    assert pair[0].ask(WhoIs, principal=1).text == f"layer8://local/uid/{os.getuid()}"
    assert pair[0].ask(WhoIs, principal=99).code == "not-found"


def test_health_comes_in_pages(vnet: RunningVnet, connect: Connect) -> None:
    raws = [connect(vnet) for _ in range(30)]
    for raw in raws:
        raw.attach(alias="pool")
    found: list[Any] = []
    more = True
    while more:
        page = raws[0].ask(Health, after=found[-1].uuid if found else None, limit=7)
        assert len(page.records) <= 7
        found += page.records
        more = page.more
    assert {record.uuid for record in found if record.kind == "vnic"} == {raw.uuid for raw in raws}
    assert [record.kind for record in found].count("vnet") == 1
    assert [record.uuid for record in found] == sorted(record.uuid for record in found)
    assert len(raws[0].ask(Health, filters={"alias": "pool"}).records) == 30
    assert raws[0].ask(Health, filters={"alias": "x"}).records == ()
    assert raws[0].ask(Health, filters={"colour": "x"}).records == ()


def test_counters_are_those_of_now(pair: tuple[Any, Any]) -> None:
    a, b = pair
    handle = grant(a, 0, "alias", "b")
    for _ in range(10):
        a.port.send(handle, b"12345", 5)
    count = 0
    while count < 10:
        count += len(received(b))
    assert (record_of(a, a.uuid).messages_in, record_of(a, a.uuid).bytes_in) == (10, 50)
    assert (record_of(a, b.uuid).messages_out, record_of(a, b.uuid).bytes_out) == (10, 50)


def test_an_unknown_request_is_unsupported(pair: tuple[Any, Any]) -> None:
    a, _ = pair
    for fields in ({"t": "levitate", "id": 5}, {"t": "a-new-event"}):
        body = msgspec.msgpack.encode(fields)
        a.send_bytes(len(body).to_bytes(4, "little") + body)
    answer = a.answer(5)
    assert (answer.code, a.ask(Ping).id) == ("unsupported", a.ids)


# ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_detach_is_answered_and_what_was_sent_arrives(pair: tuple[Any, Any], until: Until) -> None:
    a, b = pair
    handle = grant(a, 0, "alias", "b")
    for number in range(200):
        assert a.port.send(handle, b"%03d" % number, 3) > 0
    assert isinstance(a.ask(Detach), Done)
    assert a.ends()
    messages: list[bytes] = []
    while len(messages) < 200:
        messages += received(b)
    assert messages == [b"%03d" % number for number in range(200)]
    record = record_of(b, a.uuid)
    assert (record.state, record.reason) == (State.DOWN, "detached")


def test_draining_leaves_the_alias_and_keeps_the_port(pair: tuple[Any, Any]) -> None:
    a, b = pair
    by_alias, by_uuid = grant(a, 0, "alias", "b"), grant(a, 1, "uuid", str(b.uuid))
    assert isinstance(b.ask(Draining), Done)
    assert isinstance(b.ask(Draining), Done)
    assert a.port.send(by_alias, b"x", 1) < 0
    assert a.port.send(by_uuid, b"y", 1) > 0
    assert received(b) == [b"y"]
    assert a.ask(Find, to="b", is_uuid=False).code == "not-found"
    assert record_of(a, b.uuid).reason == "draining"


def test_garbage_after_the_attach_closes_that_port_alone(pair: tuple[Any, Any], until: Until) -> None:
    a, b = pair
    a.send_bytes(b"\x10\x00\x00\x00" + b"\xc1" * 16)
    a.expect(PortClosed)
    assert a.ends()
    until(lambda: record_of(b, a.uuid).state is State.DOWN, "its port was closed")
    assert record_of(b, a.uuid).reason.startswith("quarantined: ")
    assert b.ask(Ping)


def test_a_socket_that_closes_ends_the_port(pair: tuple[Any, Any], until: Until) -> None:
    a, b = pair
    handle = grant(b, 0, "uuid", str(a.uuid))
    a.socket.close()
    until(lambda: b.port.slot_state(0) == GONE, "the handle was marked")
    assert b.port.send(handle, b"x", 1) < 0
    assert b.ask(Grant, slot=1, generation=1, kind="uuid", name=str(a.uuid)).code == "not-found"


CHILD = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from conftest import Raw
from pathlib import Path
raw = Raw(Path(sys.argv[1]))
raw.attach(alias="child")
if sys.argv[3] == "fork" and os.fork() == 0:
    time.sleep(600)
print(raw.uuid, os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(vnet: RunningVnet, spawn: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[Any, UUID, int]]:
    """Another process with a Vnic: its Popen, uuid and pid."""

    def child(mode: str = "plain") -> tuple[Any, UUID, int]:
        process = spawn(CHILD, str(vnet.socket), os.path.dirname(__file__), mode)
        assert process.stdout is not None
        uuid, pid = process.stdout.readline().split()
        return process, UUID(uuid), int(pid)

    return child


def test_a_killed_process_is_gone_at_once_and_others_go_on(
    pair: tuple[Any, Any], child: Callable[..., Any], until: Until
) -> None:
    a, b = pair
    process, uuid, pid = child()
    done = a.ask(Find, to="child", is_uuid=False)
    assert (done.uuid, done.record.pid) == (uuid, pid)
    grant(a, 0, "uuid", str(uuid))
    process.send_signal(signal.SIGKILL)
    until(lambda: a.port.slot_state(0) == GONE, "the handle was marked")
    assert a.ask(Find, to="child", is_uuid=False).code == "not-found"
    record = record_of(a, uuid)
    assert record.state is State.DOWN
    assert b.ask(Ping)


def test_a_forked_child_that_keeps_the_socket_does_not_keep_the_port(
    pair: tuple[Any, Any], child: Callable[..., Any], until: Until
) -> None:
    a, _ = pair
    _, uuid, pid = child("fork")
    os.kill(pid, signal.SIGKILL)
    until(lambda: record_of(a, uuid).state is State.DOWN, "the death was seen")


def test_a_stopped_process_is_shown_as_stopped(pair: tuple[Any, Any], child: Callable[..., Any], until: Until) -> None:
    a, _ = pair
    process, uuid, _ = child()
    process.send_signal(signal.SIGSTOP)
    until(lambda: record_of(a, uuid).state is State.STOPPED, "it was seen stopped")
    assert a.ask(Find, to="child", is_uuid=False).code == "not-found"  # there might be others
    process.send_signal(signal.SIGCONT)
    until(lambda: record_of(a, uuid).state is State.UP, "it was seen again")


def flood(raw: Any, message: Wire) -> None:
    """Sends until the socket takes no more."""
    raw.socket.setblocking(False)
    try:
        while True:
            raw.send(message)
    except BlockingIOError:
        raw.socket.settimeout(30.0)


def test_a_client_that_does_not_read_is_not_listened_to_and_nobody_waits(pair: tuple[Any, Any]) -> None:
    """It cannot pile up answers here: its requests stay in its own socket."""
    a, b = pair
    flood(a, Health(id=1))
    for _ in range(3):
        assert b.ask(Ping)
    assert a.answer(1).records  # and it may go on where it stopped


def test_a_flood_of_requests_lets_others_through(pair: tuple[Any, Any]) -> None:
    a, b = pair
    flood(a, Ping(id=1))
    assert b.ask(Ping)


@pytest.mark.parametrize("end", ["release", "detach", "kill"])
def test_names_are_bounded_and_come_back(
    make_vnet: Callable[..., RunningVnet], connect: Connect, until: Until, end: str
) -> None:
    vnet = make_vnet(max_topics=2, max_aliases=1)
    a, b = connect(vnet), connect(vnet)
    a.attach(alias="only")
    b.attach()
    assert connect(vnet).attach(alias="second").code == "limit"
    grant(a, 0, "topic", "one", action="publish")
    a.ask(Subscribe, topic="two", number=0)
    refused = b.ask(Subscribe, topic="three", number=0)
    assert (refused.code, "max_topics" in refused.text) == ("limit", True)
    assert isinstance(b.ask(Subscribe, topic="two", number=0), Done)
    b.ask(Unsubscribe, number=0)
    match end:
        case "release":
            a.ask(Release, slot=0, generation=1)
            a.ask(Unsubscribe, number=0)
        case "detach":
            a.ask(Detach)
        case "kill":
            a.close()
    names = iter(f"new {number}" for number in range(1000))
    until(lambda: isinstance(b.ask(Subscribe, topic=next(names), number=1), Done), "a name was free")
    until(lambda: isinstance(b.ask(Subscribe, topic=next(names), number=2), Done), "another name was free")
    if end != "release":
        until(lambda: isinstance(connect(vnet).attach(alias="second"), Attached), "the alias was free")
