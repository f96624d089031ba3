"""A Vnet takes the ports of an earlier one over: from whom, and from whom not."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from layer8 import Vnic
from layer8.dataplane import GOING_MAX, HALF_BYTES, HALVES_MAX, Port, Segment
from layer8.health_record import State
from layer8.protocol.control import (
    Attached,
    Detach,
    Ended,
    Farewell,
    Find,
    Grant,
    Health,
    Ping,
    Refused,
    Resume,
    Subscribe,
)
from layer8.rendezvous import state_directory
from layer8.testing import RunningVnet

Connect = Callable[..., Any]
MakeSegment = Callable[[UUID], int]


@pytest.fixture
def make_segment() -> Iterator[MakeSegment]:
    with ExitStack() as stack:
        yield lambda uuid: stack.enter_context(Segment.create(512 << 10, uuid)).fd


def receive(port: Port) -> list[bytes]:
    for _ in range(150):
        if count := port.receive(100, 0):
            return [port.batch[at : at + size] for at, size, *_ in port.entries(count)]
        port.wait_arrived(0.2)
    raise AssertionError("nothing came")


def halves(*sources: bytes) -> bytes:
    """Of each a unicast that stands half: correlation, slot, generation, topic, kind."""
    return b"".join(source + struct.pack("<Q4H", 1, 1, 1, 0, 1) for source in sources)


def entries(vnet: RunningVnet) -> int:
    return len(list(state_directory(vnet.socket).glob("*.port")))


def test_an_entry_lasts_as_long_as_the_port(vnet: RunningVnet, connect: Connect, until: Callable[..., None]) -> None:
    one, other = connect(vnet), connect(vnet)
    one.attach()
    other.attach()
    assert entries(vnet) == 2
    one.ask(Detach)
    other.close()
    until(lambda: entries(vnet) == 0, "both forgotten")


def test_records_stand_still_until_what_was_had_is_renewed(
    vnet: RunningVnet, connect: Connect, make_segment: MakeSegment
) -> None:
    uuids = uuid4(), uuid4()
    segments = [make_segment(uuid) for uuid in uuids]
    first = [connect(vnet), connect(vnet)]
    answers = [
        raw.attach(uuid=uuid, segment=segment) for raw, uuid, segment in zip(first, uuids, segments, strict=True)
    ]
    first[0].ask(Grant, slot=5, generation=3, kind="uuid", name=str(uuids[1]))
    first[1].ask(Subscribe, topic="t", number=9)
    first[0].port.send(5 | 3 << 16, b"before", 6)
    assert receive(first[1].port) == [b"before"]
    assert first[1].port.receive(1, 0) == 0  # which gives the room of the batch before it back
    vnet.kill()
    port = first[0].port
    assert port.send(5 | 3 << 16, b"while nobody is there", 21) == 2
    vnet.restart()

    def come_back(number: int) -> Any:
        raw = connect(vnet)
        attached = raw.attach(uuid=uuids[number], segment=segments[number], resume=answers[number].resume, adopt=True)
        assert isinstance(attached, Attached)
        assert attached.adopted
        assert attached.resume == answers[number].resume
        return raw

    sender = come_back(0)
    grant = Grant(id=70, slot=5, generation=3, kind="uuid", name=str(uuids[1]), renew=True)
    sender.send(grant)
    sender.ask(Ping)
    assert 70 not in sender.answers  # it waits: the other one may come back
    receiver = come_back(1)
    sender.answer(70)
    sender.send(Resume(id=71))
    sender.ask(Ping)
    assert 71 not in sender.answers
    assert receiver.port.receive(10, 0) == 0
    receiver.ask(Subscribe, topic="t", number=9, renew=True)
    receiver.ask(Resume)
    sender.answer(71)
    assert receive(receiver.port) == [b"while nobody is there"]


def test_whoever_is_back_is_watched_once(
    vnet: RunningVnet,
    connect: Connect,
    make_segment: MakeSegment,
    descriptors: Callable[[RunningVnet], set[tuple[str, str]]],
) -> None:
    def pidfds() -> int:
        return sum("pidfd" in target for _, target in descriptors(vnet))

    uuid = uuid4()
    segment = make_segment(uuid)
    before = pidfds()
    secret = connect(vnet).attach(uuid=uuid, segment=segment).resume
    one_more = pidfds()
    assert one_more > before
    vnet.kill()
    vnet.restart()
    raw = connect(vnet)
    assert raw.attach(uuid=uuid, segment=segment, resume=secret, adopt=True).adopted
    raw.ask(Resume)
    assert pidfds() == one_more


def test_only_who_has_the_secret_gets_the_place(
    vnet: RunningVnet, connect: Connect, make_segment: MakeSegment, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    uuid = uuid4()
    segment = make_segment(uuid)
    secret = connect(vnet).attach(uuid=uuid, segment=segment).resume
    vnet.kill()
    vnet.restart()
    for arguments in ({"resume": bytes(32)}, {"resume": bytes(32), "adopt": True}, {"resume": secret[:-1]}):
        assert connect(vnet).attach(uuid=uuid, **arguments).code == "taken"
    thief = spawn(
        "import sys; from uuid import UUID; import layer8.vnic.core as core; from layer8 import Vnic\n"
        "core.uuid4 = lambda: UUID(sys.argv[1])\n"
        "try: Vnic(vnet=sys.argv[2])\n"
        "except Exception as error: print(error)\n"
        "else: print('attached')",
        str(uuid),
        str(vnet.socket),
    )
    assert thief.stdout is not None
    assert "is kept for the Vnic that had it" in thief.stdout.readline()
    assert entries(vnet) == 1
    assert connect(vnet).attach(uuid=uuid, segment=segment, resume=secret, adopt=True).adopted


def test_only_who_has_the_secret_can_say_that_one_does_not_come(
    vnet: RunningVnet, connect: Connect, make_segment: MakeSegment
) -> None:
    uuid, here = uuid4(), uuid4()
    secret = connect(vnet).attach(uuid=uuid, alias="awaited").resume
    segment = make_segment(here)
    own = connect(vnet).attach(uuid=here, segment=segment).resume
    vnet.kill()
    vnet.restart()
    raw = connect(vnet)
    assert raw.attach(uuid=here, segment=segment, resume=own, adopt=True).adopted
    for wrong in (b"", bytes(32), own, secret[:-1], secret + b"x"):
        raw.ask(Farewell, uuid=uuid, secret=wrong)
        assert entries(vnet) == 2
    raw.ask(Farewell, uuid=here, secret=own)  # it is here
    raw.ask(Farewell, uuid=uuid4(), secret=secret)
    assert entries(vnet) == 2
    raw.send(Grant(id=70, slot=0, generation=1, kind="alias", name="awaited"))
    raw.send(Resume(id=71))
    raw.ask(Ping)
    assert not {70, 71} & set(raw.answers)
    raw.ask(Farewell, uuid=uuid, secret=secret)
    assert entries(vnet) == 1
    assert raw.answer(70).code == "not-found"
    raw.answer(71)
    assert connect(vnet).attach(uuid=uuid, resume=secret, adopt=True).code == "stale"


def test_the_same_process_may_begin_anew_without_the_secret(vnet: RunningVnet, connect: Connect) -> None:
    """The Vnet may have died before it could tell the secret."""
    uuid = uuid4()
    connect(vnet).attach(uuid=uuid)
    vnet.kill()
    vnet.restart()
    again = connect(vnet)
    assert not again.attach(uuid=uuid).adopted
    assert entries(vnet) == 1


@pytest.mark.parametrize("place", [0x1000, 0x1080, 0x1200, 0x1280, 0x1300, 0x1308, 0x0, 0x10, 0x48])
def test_an_altered_segment_is_not_adopted(
    vnet: RunningVnet, connect: Connect, make_segment: MakeSegment, place: int
) -> None:
    uuid = uuid4()
    segment = make_segment(uuid)
    secret = connect(vnet).attach(uuid=uuid, segment=segment).resume
    vnet.kill()
    with mmap.mmap(segment, 0) as memory:
        memory[place : place + 8] = (0x123456789ABCDE1).to_bytes(8, "little")
    vnet.restart()
    refused = connect(vnet).attach(uuid=uuid, segment=segment, resume=secret, adopt=True)
    assert isinstance(refused, Refused)
    assert refused.code == "stale"
    assert entries(vnet) == 1
    again = connect(vnet).attach(uuid=uuid, resume=secret)
    assert isinstance(again, Attached)
    assert not again.adopted


def test_a_foreign_segment_is_not_adopted(vnet: RunningVnet, connect: Connect, make_segment: MakeSegment) -> None:
    uuid = uuid4()
    secret = connect(vnet).attach(uuid=uuid).resume
    vnet.kill()
    vnet.restart()
    assert connect(vnet).attach(uuid=uuid, segment=make_segment(uuid4()), resume=secret, adopt=True).code == "stale"


def test_who_was_never_here_is_told_to_begin_anew(vnet: RunningVnet, connect: Connect) -> None:
    assert connect(vnet).attach(resume=bytes(32), adopt=True).code == "stale"
    attached = connect(vnet)
    secret = attached.attach().resume
    assert connect(vnet).attach(uuid=attached.uuid, resume=secret, adopt=True).code == "taken"  # it is here


def test_a_receiver_that_does_not_come_back_is_waited_for_and_then_not_there(
    make_vnet: Callable[..., RunningVnet], connect: Connect, make_segment: MakeSegment
) -> None:
    vnet = make_vnet(return_patience=1.0)
    gone, uuid = uuid4(), uuid4()
    segment = make_segment(uuid)
    connect(vnet).attach(uuid=gone, alias="never-back")
    secret = connect(vnet).attach(uuid=uuid, segment=segment).resume
    vnet.kill()
    vnet.restart()
    raw = connect(vnet)
    assert raw.attach(uuid=uuid, segment=segment, resume=secret, adopt=True).adopted
    raw.send(Grant(id=70, slot=0, generation=1, kind="uuid", name=str(gone), renew=True))
    raw.send(Grant(id=71, slot=1, generation=1, kind="alias", name="never-back", renew=True))
    raw.send(Find(id=72, to="never-back", is_uuid=False))
    raw.send(Resume(id=73))
    (record,) = raw.ask(Health, filters={"alias": "never-back"}).records
    assert (record.uuid, record.state) == (gone, State.UNREACHABLE)
    assert not {70, 71, 72, 73} & set(raw.answers)
    assert {raw.answer(number).code for number in (70, 71, 72)} == {"not-found"}
    raw.answer(73)
    (record,) = raw.ask(Health, filters={"alias": "never-back"}).records
    assert record.state is State.DOWN
    late = connect(vnet)  # its place is still its own: it is the same process
    assert isinstance(late.attach(uuid=gone, alias="never-back"), Attached)
    raw.ask(Grant, slot=0, generation=2, kind="uuid", name=str(gone))
    assert os.path.exists(state_directory(vnet.socket) / f"{gone.hex}.port")


def test_a_name_of_nobody_who_is_awaited_holds_nobody_up(
    vnet: RunningVnet, connect: Connect, make_segment: MakeSegment
) -> None:
    """Who had a handle to somebody dead would wait for the records to move, and they for him to be back."""
    uuids = uuid4(), uuid4()
    segments = [make_segment(uuid) for uuid in uuids]
    secrets = [
        connect(vnet).attach(uuid=uuid, segment=segment).resume for uuid, segment in zip(uuids, segments, strict=True)
    ]
    vnet.kill()
    vnet.restart()
    one, other = connect(vnet), connect(vnet)
    assert one.attach(uuid=uuids[0], segment=segments[0], resume=secrets[0], adopt=True).adopted
    one.send(Grant(id=70, slot=0, generation=1, kind="uuid", name=str(uuid4()), renew=True))
    one.send(Grant(id=71, slot=1, generation=1, kind="alias", name="long-dead", renew=True))
    one.send(Grant(id=72, slot=2, generation=1, kind="uuid", name=str(uuids[1]), renew=True))
    one.send(Resume(id=73))
    assert {one.answer(number).code for number in (70, 71)} == {"not-found"}
    assert not {72, 73} & set(one.answers)
    assert other.attach(uuid=uuids[1], segment=segments[1], resume=secrets[1], adopt=True).adopted
    other.ask(Resume)
    assert type(one.answer(72)).__name__ == type(one.answer(73)).__name__ == "Done"


def test_what_somebody_had_begun_who_died_with_the_vnet_is_forgotten(
    vnet: RunningVnet, spawn: Callable[..., subprocess.Popen[str]], until: Callable[..., None]
) -> None:
    with Vnic("half", vnet=str(vnet.socket), attach_timeout=30) as receiver:
        sender = spawn(
            "import sys; from layer8 import Vnic\n"
            "Vnic(vnet=sys.argv[1], attach_timeout=30).send('half', bytes(8 << 20), timeout=None)",
            str(vnet.socket),
        )
        until(lambda: receiver.stats().port.receive_fill > 400_000, "half a ring of it")  # type: ignore[union-attr]
        vnet.kill()
        sender.kill()
        sender.wait()
        until(lambda: receiver.state == "away", "away")
        vnet.restart()
        until(lambda: receiver.state == "attached", "attached again")
        port = receiver.stats().port
        assert port is not None
        assert (port.messages_aborted, port.assembling_bytes) == (1, 0)


def test_of_whom_something_stands_half_is_said_that_they_are_there_no_more(
    make_vnet: Callable[..., RunningVnet],
    connect: Connect,
    make_segment: MakeSegment,
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    """At once of who is neither here nor awaited, however many have died; later of the others; and of nobody else."""
    vnet = make_vnet(return_patience=0.5)
    uuids = [uuid4() for _ in range(3)]
    segments = [make_segment(uuid) for uuid in uuids]
    secrets = [
        connect(vnet).attach(uuid=uuid, segment=segment).resume for uuid, segment in zip(uuids, segments, strict=True)
    ]
    mortals = [
        spawn(
            "import signal, sys; from layer8 import Vnic\n"
            "vnic = Vnic(vnet=sys.argv[1], attach_timeout=30)\n"
            "print(vnic.uuid, flush=True)\n"
            "signal.pause()",
            str(vnet.socket),
        )
        for _ in range(2)
    ]
    gone, unasked = (UUID(mortal.stdout.readline().strip()) for mortal in mortals)  # type: ignore[union-attr]
    assert gone != unasked
    for mortal in mortals:
        os.kill(mortal.pid, signal.SIGSTOP)  # so that it does not come back
    vnet.kill()
    vnet.restart()
    one, other, third = (connect(vnet) for _ in range(3))
    for raw, uuid, segment, secret in zip((one, other, third), uuids, segments, secrets, strict=True):
        assert raw.attach(uuid=uuid, segment=segment, resume=secret, adopt=True).adopted
    never = [uuid4().bytes for _ in range(HALVES_MAX - 2)]
    one.send(Resume(id=1, going=b"", halves=halves(*never, gone.bytes, uuids[1].bytes)))
    other.send(Resume(id=1, going=b"", halves=halves(gone.bytes)))
    third.send(Resume(id=1))
    assert set(one.answer(1).data) == set(never)
    assert other.answer(1).data == third.answer(1).data == ()
    for mortal in reversed(mortals):  # the one that nobody asked about first
        mortal.kill()
        mortal.wait()
    assert one.expect(Ended).sources == other.expect(Ended).sources == (gone.bytes,)
    third.ask(Ping)  # it heard of nobody
    other.ask(Detach)
    assert one.expect(Ended).sources == (uuids[1].bytes,)
    one.ask(Ping)


def test_who_dies_while_it_is_awaited_is_awaited_no_longer(
    vnet: RunningVnet, connect: Connect, make_segment: MakeSegment, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    uuid = uuid4()
    segment = make_segment(uuid)
    secret = connect(vnet).attach(uuid=uuid, segment=segment).resume
    mortal = spawn(
        "import os, signal, sys; from layer8 import Vnic\n"
        "vnic = Vnic('mortal', vnet=sys.argv[1], attach_timeout=30)\n"
        "print(vnic.uuid, flush=True)\n"
        "signal.pause()",
        str(vnet.socket),
    )
    assert mortal.stdout is not None
    gone = UUID(mortal.stdout.readline().strip())
    os.kill(mortal.pid, signal.SIGSTOP)  # so that it does not come back
    vnet.kill()
    vnet.restart()
    raw = connect(vnet)
    assert raw.attach(uuid=uuid, segment=segment, resume=secret, adopt=True).adopted
    raw.send(Grant(id=69, slot=0, generation=1, kind="alias", name="mortal", renew=True))
    raw.send(Resume(id=70))
    raw.ask(Ping)
    assert not {69, 70} & set(raw.answers)
    os.kill(mortal.pid, signal.SIGKILL)
    assert raw.answer(69).code == "not-found"
    raw.answer(70)
    (record,) = raw.ask(Health, filters={"uuid": str(gone)}).records
    assert (record.state, record.reason) == (State.DOWN, "its process ended while no Vnet was there")
    assert entries(vnet) == 1


def test_what_stands_half_is_told_in_lists_that_nobody_believes(
    vnet: RunningVnet, connect: Connect, make_segment: MakeSegment
) -> None:
    uuid = uuid4()
    segment = make_segment(uuid)
    secret = connect(vnet).attach(uuid=uuid, segment=segment).resume
    for told, code in [
        ({"going": b"odd"}, "invalid"),
        ({"going": b"", "halves": bytes(33)}, "invalid"),
        ({"going": bytes(HALF_BYTES * (GOING_MAX + 1))}, "invalid"),
        ({"going": b"", "halves": bytes(HALF_BYTES * (HALVES_MAX + 1))}, "invalid"),
        ({"going": os.urandom(HALF_BYTES * GOING_MAX), "halves": os.urandom(HALF_BYTES * HALVES_MAX)}, ""),
        ({"going": bytes(HALF_BYTES), "halves": uuid.bytes + bytes(12) + b"\x01\x00" + bytes(2)}, ""),
    ]:
        vnet.kill()
        vnet.restart()
        raw = connect(vnet)
        assert raw.attach(uuid=uuid, segment=segment, resume=secret, adopt=True).adopted
        raw.send(Resume(id=70, **told))
        answer = raw.answer(70)
        assert getattr(answer, "code", "") == code
        if code:
            raw.ask(Resume)
        raw.ask(Ping)
        assert raw.port.receive(1, 0) == 0
