"""The way in: what strangers may do, what they are told, and that nobody else notices."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from layer8.dataplane import LAYOUT_VERSION, Segment
from layer8.protocol.codec import encode
from layer8.protocol.control import Attach, Attached, Challenge, Grant, Health, Hello, Ping, Refused
from layer8.testing import RunningVnet
from layer8.version import VERSION

Connect = Callable[..., Any]
Descriptors = Callable[[RunningVnet], set[tuple[str, str]]]
Until = Callable[[Callable[[], object], str], None]


def test_a_vnic_attaches_and_is_told_its_port(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    attached = raw.attach(alias="worker")
    assert isinstance(attached, Attached)
    assert attached.principal == f"layer8://local/uid/{os.getuid()}"
    assert attached.max_message_bytes == 64 << 20
    assert len(attached.resume) == 32
    assert raw.ask(Ping).id == raw.ids


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x00\x00\x00\x00", id="empty message"),
        pytest.param(b"\xff\xff\xff\xff", id="enormous message"),
        pytest.param((4097).to_bytes(4, "little") + b"x", id="more than a stranger may send"),
        pytest.param(b"\x04\x00\x00\x00junk", id="no msgpack"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"\x07\x00\x00\x00" + msgspec.msgpack.encode({"t": "x", "a": 1})[:7], id="cut msgpack"),
        pytest.param(encode(Ping(id=1)), id="a request before the attach"),
        pytest.param(b"\x80" * 4096, id="noise"),
    ],
)
def test_garbage_is_refused_and_ends_that_connection_alone(
    vnet: RunningVnet, connect: Connect, descriptors: Descriptors, until: Until, garbage: bytes
) -> None:
    other = connect(vnet)
    other.attach()
    before = descriptors(vnet)
    raw = connect(vnet)
    raw.send_bytes(garbage)
    assert raw.expect(Refused).code == "invalid"
    assert raw.ends()
    assert other.ask(Ping)
    until(lambda: descriptors(vnet) <= before, "the connection was given back")


def test_a_connection_that_ends_in_the_middle_of_a_message_is_forgotten(
    vnet: RunningVnet, connect: Connect, descriptors: Descriptors, until: Until
) -> None:
    before = descriptors(vnet)
    for cut in (1, 4, 5, 20):
        raw = connect(vnet)
        raw.send_bytes(encode(raw.machine().start())[:cut])
        raw.close()
    until(lambda: descriptors(vnet) <= before, "the connections were given back")
    assert isinstance(connect(vnet).attach(), Attached)


def test_an_attach_may_come_byte_by_byte(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    machine = raw.machine()
    for byte in encode(machine.start()):
        raw.send_bytes(bytes([byte]))
    attach = machine.receive(*raw.receive())
    data = encode(attach)
    with Segment.create(512 << 10, raw.uuid) as segment:
        raw.send_bytes(data[:1], [segment.fd])
        for byte in data[1:]:
            raw.send_bytes(bytes([byte]))
        raw.expect(Attached)


def test_an_attach_that_takes_too_long_is_refused(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    vnet = make_vnet(attach_timeout=0.1)
    silent, half, unproven = connect(vnet), connect(vnet), connect(vnet)
    half.send_bytes(encode(half.machine().start())[:9])
    unproven.send(unproven.machine().start())
    unproven.expect(Challenge)
    for raw in (silent, half, unproven):
        assert raw.expect(Refused).code == "limit"
        assert raw.ends()


def test_a_thousand_silent_connections_keep_nobody_out(
    vnet: RunningVnet, connect: Connect, descriptors: Descriptors, until: Until
) -> None:
    other = connect(vnet)
    other.attach()
    before = descriptors(vnet)
    silent = [connect(vnet) for _ in range(1000)]
    raw = connect(vnet)
    assert isinstance(raw.attach(), Attached)
    assert other.ask(Ping)
    raw.close()
    for connection in silent:
        connection.close()
    until(lambda: descriptors(vnet) <= before, "all connections were given back")


def test_silent_connections_make_room_for_those_that_come_after(
    make_vnet: Callable[..., RunningVnet], connect: Connect
) -> None:
    vnet = make_vnet(silent_per_uid=5, attach_timeout=30.0)
    silent = [connect(vnet) for _ in range(20)]
    for raw in silent[:15]:
        assert raw.expect(Refused).code == "limit"
        assert raw.ends()
    assert isinstance(silent[-1].attach(), Attached)
    assert isinstance(connect(vnet).attach(), Attached)


def test_attaches_under_way_are_bounded_per_user(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    vnet = make_vnet(pending_per_uid=3, attach_timeout=30.0)
    begun = [connect(vnet) for _ in range(3)]
    for raw in begun:
        raw.send(raw.machine().start())
        raw.expect(Challenge)
    late = connect(vnet)
    late.send(late.machine().start())
    refused = late.expect(Refused)
    assert refused.code == "limit"
    assert "pending_per_uid" in refused.text
    begun[0].close()
    begun[1].send_bytes(b"\0\0\0\0")
    assert begun[1].ends()
    assert isinstance(connect(vnet).attach(), Attached)


# ── descriptors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_descriptor_with_the_hello_is_no_segment_for_later(vnet: RunningVnet, connect: Connect) -> None:
    """It came before the proof, but it is the one that may come: no second one is taken."""
    raw = connect(vnet)
    machine = raw.machine()
    with Segment.create(512 << 10, raw.uuid) as segment:
        raw.send(machine.start(), [segment.fd])
        attach = machine.receive(*raw.receive())
        raw.send(attach, [segment.fd])
        assert raw.expect(Refused).code == "invalid"


@pytest.mark.parametrize("count", [2, 4, 5, 100])
def test_surplus_descriptors_are_closed(
    vnet: RunningVnet, connect: Connect, descriptors: Descriptors, until: Until, count: int
) -> None:
    before = descriptors(vnet)
    raw = connect(vnet)
    attach = raw.proof()
    with Segment.create(512 << 10, raw.uuid) as segment:
        raw.send(attach, [segment.fd] * count)
        assert raw.expect(Refused).code == "invalid"
    assert raw.ends()
    until(lambda: descriptors(vnet) <= before, "every descriptor was closed")


def test_descriptors_smuggled_after_the_attach_are_closed(
    vnet: RunningVnet, connect: Connect, descriptors: Descriptors, until: Until
) -> None:
    before = descriptors(vnet)
    raw, other = connect(vnet), connect(vnet)
    raw.attach()
    other.attach()
    with open(os.devnull) as nothing:
        raw.send(Ping(id=1), [nothing.fileno()] * 3)
    assert raw.ends()
    assert other.ask(Ping)
    other.close()
    until(lambda: descriptors(vnet) <= before, "every descriptor was closed")


def test_descriptors_of_a_connection_that_says_no_more_are_closed(
    vnet: RunningVnet, connect: Connect, descriptors: Descriptors, until: Until
) -> None:
    before = descriptors(vnet)
    raw = connect(vnet)
    attach = raw.proof()
    with Segment.create(512 << 10, raw.uuid) as segment:
        raw.send_bytes(encode(attach)[:10], [segment.fd])
    raw.close()
    until(lambda: descriptors(vnet) <= before, "every descriptor was closed")


def unsealed(uuid: UUID) -> int:
    with Segment.create(512 << 10, uuid) as segment:
        data = os.pread(segment.fd, 1 << 21, 0)
    copy = os.memfd_create("copy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.pwrite(copy, data, 0)
    return copy


def write_sealed(uuid: UUID) -> int:
    copy = unsealed(uuid)
    fcntl.fcntl(
        copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    )
    return copy


def of_another(uuid: UUID) -> int:
    with Segment.create(512 << 10, uuid4()) as segment:
        return os.dup(segment.fd)


def zeros(uuid: UUID) -> int:
    copy = os.memfd_create("zeros", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(copy, 0x8000 + (5 << 18))
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return copy


def a_pipe(uuid: UUID) -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def a_socket(uuid: UUID) -> int:
    return socket.socket(socket.AF_UNIX).detach()


def a_directory(uuid: UUID) -> int:
    return os.open("/", os.O_RDONLY)


@pytest.mark.parametrize("make", [unsealed, write_sealed, of_another, zeros, a_pipe, a_socket, a_directory])
def test_what_is_no_sound_segment_is_refused(
    vnet: RunningVnet, connect: Connect, descriptors: Descriptors, until: Until, make: Callable[[UUID], int]
) -> None:
    before = descriptors(vnet)
    raw = connect(vnet)
    attach = raw.proof()
    descriptor = make(raw.uuid)
    raw.send(attach, [descriptor])
    os.close(descriptor)
    assert raw.expect(Refused).code == "invalid"
    assert raw.ends()
    until(lambda: descriptors(vnet) <= before, "nothing was kept")


def test_an_attach_without_a_segment_is_refused(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    raw.send(raw.proof())
    assert raw.expect(Refused).code == "invalid"


def test_an_observer_has_no_segment(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    attach = raw.proof(observer=True)
    with Segment.create(512 << 10, raw.uuid) as segment:
        raw.send(attach, [segment.fd])
    assert raw.expect(Refused).code == "invalid"


# ── who, and how much ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_provider_is_a_mismatch(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    hello = raw.machine().start()
    raw.send(msgspec.structs.replace(hello, fingerprint=b"x" * 32))
    refused = raw.expect(Refused)
    assert refused.code == "mismatch"
    assert refused.fields  # its own fingerprint, shortened


def test_another_version_is_refused(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    raw.send(msgspec.structs.replace(raw.machine().start(), version=99))
    assert raw.expect(Refused).code == "version"


def test_a_proof_that_does_not_hold_is_not_authorized(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    attach = raw.proof()
    with Segment.create(512 << 10, raw.uuid) as segment:
        raw.send(msgspec.structs.replace(attach, proof=b"x" * 32), [segment.fd])
    assert raw.expect(Refused).code == "not-authorized"


@pytest.mark.parametrize("alias", ["", "layer8.x", "x" * 256, "e3a1c0de-0000-4000-8000-000000000001"])
def test_an_impossible_alias_is_refused(vnet: RunningVnet, connect: Connect, alias: str) -> None:
    assert connect(vnet).attach(alias=alias).code == "invalid"


def test_the_nil_uuid_is_refused(vnet: RunningVnet, connect: Connect) -> None:
    assert connect(vnet).attach(uuid=UUID(int=0)).code == "invalid"


def test_a_uuid_that_lives_is_taken_and_nothing_is_replaced(vnet: RunningVnet, connect: Connect) -> None:
    first, second = connect(vnet), connect(vnet)
    first.attach(alias="a")
    refused = second.attach(uuid=first.uuid, alias="b")
    assert refused.code == "taken"
    assert first.ask(Ping)
    (record,) = [record for record in first.ask(Health).records if record.uuid == first.uuid]
    assert record.alias == "a"


def test_a_uuid_is_free_again_when_its_vnic_has_gone(vnet: RunningVnet, connect: Connect, until: Until) -> None:
    first = connect(vnet)
    first.attach()
    uuid = first.uuid
    first.close()
    until(lambda: isinstance(connect(vnet).attach(uuid=uuid), Attached), "the uuid was free again")


def test_the_ports_of_a_user_are_bounded(
    make_vnet: Callable[..., RunningVnet], connect: Connect, descriptors: Descriptors, until: Until
) -> None:
    vnet = make_vnet(ports_per_uid=2)
    first, second = connect(vnet), connect(vnet)
    assert isinstance(first.attach(), Attached)
    before = descriptors(vnet)
    assert isinstance(second.attach(), Attached)
    refused = connect(vnet).attach()
    assert refused.code == "limit"
    assert "ports_per_uid" in refused.text
    assert isinstance(connect(vnet).attach(observer=True), Attached)  # one can still look
    second.close()
    until(lambda: len(descriptors(vnet) - before) <= 2, "the port was given back")
    until(lambda: isinstance(connect(vnet).attach(), Attached), "there is room again")


def test_the_bytes_of_a_user_are_bounded(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    vnet = make_vnet(bytes_per_uid=3 << 20, max_ring_bytes=1 << 20)
    assert isinstance(connect(vnet).attach(ring_bytes=1 << 20), Attached)
    assert "bytes_per_uid" in connect(vnet).attach(ring_bytes=1 << 20).text
    assert "max_ring_bytes" in connect(vnet).attach(ring_bytes=2 << 20).text
    assert connect(vnet).attach(ring_bytes=512 << 10).code == "limit"


@pytest.mark.parametrize("adopt", [False, True], ids=["first", "again"])
def test_a_segment_of_another_layout_is_refused_with_what_to_do(
    make_vnet: Callable[..., RunningVnet], connect: Connect, adopt: bool
) -> None:
    vnet = make_vnet(max_ring_bytes=1 << 20)  # how large a segment of that layout may be is not known here
    vnic = connect(vnet)
    with Segment.create(2 << 20, vnic.uuid) as segment:
        with mmap.mmap(segment.fd, mmap.PAGESIZE) as page:
            page[8:12] = (LAYOUT_VERSION - 1).to_bytes(4, "little")
        refused = vnic.attach(segment=segment.fd, adopt=adopt)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.fields) == ("layout", (str(LAYOUT_VERSION), VERSION))
    assert f"the Vnet runs layer8 {VERSION} with segment layout {LAYOUT_VERSION}" in refused.text
    assert f"layer8 {VERSION}, has {LAYOUT_VERSION - 1}: restart this program with the newer library" in refused.text
    assert vnic.ends()
    assert isinstance(connect(vnet).attach(), Attached)


def test_the_ports_of_a_vnet_are_bounded(make_vnet: Callable[..., RunningVnet], connect: Connect, until: Until) -> None:
    vnet = make_vnet(max_ports=1)
    first = connect(vnet)
    assert isinstance(first.attach(), Attached)
    refused = connect(vnet).attach()
    assert refused.code == "limit"
    assert "max_ports" in refused.text
    first.close()
    until(lambda: isinstance(connect(vnet).attach(), Attached), "there is room again")


def test_observers_are_bounded(make_vnet: Callable[..., RunningVnet], connect: Connect) -> None:
    vnet = make_vnet(observers_per_uid=1)
    first = connect(vnet)
    assert isinstance(first.attach(observer=True), Attached)
    assert "observers_per_uid" in connect(vnet).attach(observer=True).text
    assert isinstance(connect(vnet).attach(), Attached)


def test_an_observer_has_no_port(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    assert isinstance(raw.attach(observer=True), Attached)
    assert raw.ask(Ping)
    assert raw.ask(Grant, slot=0, generation=1, kind="topic", name="t", action="publish").code == "invalid"


def test_a_message_before_the_answer_is_refused(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    hello = encode(raw.machine().start())
    raw.send_bytes(hello + hello)
    assert raw.expect(Refused).code == "invalid"


def test_a_hello_twice_is_refused(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    hello = raw.machine().start()
    assert isinstance(hello, Hello)
    raw.send(hello)
    raw.expect(Challenge)
    raw.send(hello)
    assert raw.expect(Refused).code == "invalid"


def test_an_attach_of_more_than_a_stranger_may_say_is_refused(vnet: RunningVnet, connect: Connect) -> None:
    raw = connect(vnet)
    attach = raw.proof()
    assert isinstance(attach, Attach)
    raw.send(msgspec.structs.replace(attach, program="x" * 5000))
    assert raw.expect(Refused).code == "invalid"
