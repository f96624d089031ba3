"""Vnics that do not come back when their Vnet has died, and those that come back late.

Here they are stopped processes: they live, so their place is kept, and the others wait for them as long as is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from layer8 import AsyncVnic, Closed, NotFound, RequestFailed, Undeliverable, Vnic
from layer8.dataplane import PortStats
from layer8.testing import RunningVnet, running_vnet

from .conftest import Program, standing_still

KIB = 1 << 10
PATIENCE = 1.0  # seconds; all others are back sooner, or else late themselves

Run = Callable[..., Any]
MakeVnic = Callable[..., Vnic]

impatient = pytest.mark.parametrize("vnet", [{"return_patience": PATIENCE}], indirect=True, ids=["impatient"])


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


def stop(program: Program) -> None:
    """It does not come back until it is told to go on."""
    os.kill(program.pid, signal.SIGSTOP)


def go_on(program: Program) -> None:
    os.kill(program.pid, signal.SIGCONT)


def ready(program: Program) -> UUID:
    return UUID(program.wait_for("ready"))


def restart(vnet: RunningVnet, *vnics: Vnic) -> None:
    """The Vnet dies, the next one takes over and has waited for those who do not come back."""
    vnet.kill()
    before = [vnic.stats().attachments for vnic in vnics]
    vnet.restart()
    for vnic, attachments in zip(vnics, before, strict=True):
        until(functools.partial(came_back, vnic, attachments), "back")


def came_back(vnic: Vnic, attachments: int) -> bool:
    return vnic.stats().attachments > attachments


def taken(vnic: Vnic) -> bool:
    """Whether the Vnet has done with all that was sent, or holds it."""
    port = vnic.stats().port
    return port is not None and port.transmit_fill == 0


def numbered(number: int, size: int = 8) -> bytes:
    return number.to_bytes(8, "little").ljust(size, b".")


class Reports:
    """What a Vnic is told about messages that did not arrive."""

    def __init__(self, vnic: Vnic) -> None:
        self._vnic = vnic
        self._queue: queue.SimpleQueue[Undeliverable | None] = queue.SimpleQueue()
        vnic.on_undeliverable = self._queue.put
        vnic.subscribe("that is all", lambda message: self._queue.put(None))

    def until_now(self) -> list[Undeliverable]:
        """Its own publication comes behind whatever the switch had to say about what was sent before."""
        self._vnic.publish("that is all", b"")
        return list(iter(lambda: self._queue.get(timeout=60), None))


@impatient
def test_what_is_on_its_way_to_who_does_not_come_back_is_unknown_once_each(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic
) -> None:
    """In the hold ring, in the transmit ring, by uuid and by alias, and half of a large one; and what stood in the
    receiver's ring it reads when it comes back late, so that all is accounted for."""
    full, other, half = run("obey", "full"), run("obey", "other"), run("obey", "half")
    uuids = {program: ready(program) for program in (full, other, half)}
    sender = make_vnic(ring_bytes=8 << 20)
    reports = Reports(sender)
    for program in (full, other, half):
        sender.send(uuids[program], numbered(0))
    sender.send("other", numbered(0))
    sender.send("full", numbered(0))
    for program, zeros in ((full, 2), (other, 2), (half, 1)):
        for _ in range(zeros):
            program.tell("read")
            program.wait_for("did")
        stop(program)
    with standing_still(vnet.pid):  # so that more goes out than the receiver has room for
        by_uuid = {sender.send(uuids[full], numbered(n, 32 * KIB)): n for n in range(1, 41)}
        by_alias = {sender.send("full", numbered(n, 32 * KIB)): n for n in range(41, 46)}
        large = sender.send(uuids[half], bytes(1200 * KIB))
    until(lambda: taken(sender), "all delivered or held")
    with standing_still(vnet.pid):
        waiting = [sender.send(uuids[other], numbered(1)), sender.send("other", numbered(2, 100))]
        vnet.kill()
    restart(vnet, sender)
    told = reports.until_now()
    got = {report.sequence: report for report in told}
    assert len(got) == len(told)
    assert {report.reason for report in got.values()} == {"unknown"}
    assert got.pop(large) == Undeliverable(uuids[half], large, "unknown", 1200 * KIB)
    assert [got.pop(number) for number in waiting] == [
        Undeliverable(uuids[other], waiting[0], "unknown", 8),
        Undeliverable("other", waiting[1], "unknown", 100),
    ]
    assert {report.to for report in got.values()} == {uuids[full], "full"}
    lost = [(by_uuid | by_alias)[sequence] for sequence in got]
    assert 5 < len(lost) < 45
    for program in (full, other, half):
        go_on(program)
    assert sender.find("full", timeout=60).uuid == uuids[full]
    full.tell("read")
    sender.send("full", numbered(0))
    read = [int(number) for number in full.wait_for("read").split()]
    assert read == [*sorted({*by_uuid.values(), *by_alias.values()} - {*lost}), 0]
    assert reports.until_now() == []


@impatient
def test_whoever_waits_for_one_that_does_not_come_back_is_told(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic
) -> None:
    """Sends that waited for room, of each kind and with asyncio; a request that was outstanding, and one made while no
    Vnet was there; and every later use of a name."""
    gone = run("obey", "gone")
    uuid = ready(gone)
    stop(gone)
    sender = make_vnic()
    reports = Reports(sender)
    outcomes: dict[str, BaseException | object] = {}

    def attempt(what: str, act: Callable[[], object]) -> threading.Thread:
        def run_it() -> None:
            try:
                outcomes[what] = act()
            except BaseException as error:
                outcomes[what] = error

        thread = threading.Thread(target=run_it)
        thread.start()
        return thread

    async def wait_in_loop(begun: threading.Event) -> None:
        async with AsyncVnic(vnet=str(vnet.socket), attach_timeout=30) as vnic:
            begun.set()
            while True:
                await vnic.send("gone", bytes(32 * KIB), timeout=None)

    outstanding = attempt("outstanding", lambda: sender.request("gone", b"", timeout=None))
    until(lambda: sender.stats().outstanding == 1 and taken(sender), "the request is there")
    until(lambda: taken(sender) and not sender.try_send(uuid, bytes(32 * KIB)), "Xoff, and not only a full ring")
    begun = threading.Event()
    threads = [
        attempt("small", lambda: sender.send(uuid, b"", timeout=None)),
        attempt("alias", lambda: sender.send("gone", b"", timeout=None)),
        attempt("large", lambda: sender.send(uuid, bytes(1 << 20), timeout=None)),
        attempt("headers", lambda: sender.send(uuid, b"", headers={"a": "b"}, timeout=None)),
        attempt("loop", lambda: asyncio.run(wait_in_loop(begun))),
    ]
    assert begun.wait(30)
    vnet.kill()
    outstanding.join(30)
    until(lambda: sender.state == "away", "away")
    threads.append(attempt("asked meanwhile", lambda: sender.request(uuid, b"", timeout=None)))
    restart(vnet, sender)
    for thread in threads:
        thread.join(60)
    error = outcomes.pop("outstanding")
    assert isinstance(error, RequestFailed)
    assert error.reason == "unknown"
    assert set(outcomes) == {"small", "alias", "large", "headers", "loop", "asked meanwhile"}
    assert [what for what, outcome in outcomes.items() if type(outcome) is not NotFound] == []
    for name in (uuid, "gone"):
        with pytest.raises(NotFound):
            sender.send(name, b"", timeout=None)
        with pytest.raises(NotFound):
            sender.request(name, b"", timeout=None)
        with pytest.raises(NotFound):
            sender.try_send(name, b"")
    assert {report.reason for report in reports.until_now()} <= {"unknown"}
    (record,) = sender.health(uuid=uuid)
    assert (record.state.name, record.reason) == ("DOWN", "did not come back")


@impatient
def test_a_subscriber_that_does_not_come_back_holds_no_other_up(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic
) -> None:
    """What is held for it goes; those who had it already get it no second time."""
    gone = run("obey", "gone", "news")
    ready(gone)
    stop(gone)
    sender, other = make_vnic(), make_vnic()
    reports = Reports(sender)
    subscription = other.subscribe("news")
    got: list[int] = []
    reader = threading.Thread(
        target=lambda: got.extend(int.from_bytes(message.payload[:8], "little") for message in other)
    )
    reader.start()
    sent = 0
    while sender.stats().port.hold_fill == 0:  # type: ignore[union-attr]
        sender.publish("news", numbered(sent, 32 * KIB), reliable=True, timeout=60)
        sent += 1
    publishing = threading.Thread(
        target=lambda: [
            sender.publish("news", numbered(number, 32 * KIB), reliable=True, timeout=None)
            for number in range(sent, sent + 50)
        ]
    )
    publishing.start()
    restart(vnet, sender, other)
    publishing.join(60)
    assert not publishing.is_alive()
    until(lambda: len(got) >= sent + 50, "all has arrived")
    assert got == list(range(sent + 50))
    assert subscription.missed == 0
    assert reports.until_now() == []
    other.close()
    reader.join()


@impatient
def test_what_was_chosen_for_a_member_that_does_not_come_back_is_unknown_and_the_rest_goes_to_another(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic, kill_points: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [kill_points, *sys.path])  # the Vnet's alone
    monkeypatch.setenv("LAYER8_KILL_AT", "10:2")  # the second time that it has noted a member
    vnet.restart()
    gone = run("obey", "pool")
    ready(gone)
    stop(gone)
    sender, living = make_vnic(), make_vnic("pool")
    reports = Reports(sender)
    for _ in range(20):
        sender.send(living.uuid, numbered(0, KIB))  # so that the other one is the emptier
    sender.send("pool", numbered(1))
    until(lambda: taken(sender), "all delivered")
    with standing_still(vnet.pid):
        chosen = sender.send("pool", numbered(2))
        for number in (3, 4):
            sender.send("pool", numbered(number))
    until(lambda: vnet.pid is None, "it has died where it shall")
    monkeypatch.delenv("LAYER8_KILL_AT")
    restart(vnet, sender, living)
    numbers = [int.from_bytes(living.receive(30).payload[:8], "little") for _ in range(22)]
    assert numbers == [0] * 20 + [3, 4]
    assert reports.until_now() == [Undeliverable("pool", chosen, "unknown", 8)]
    sender.send("pool", numbered(5))
    assert living.receive(30).payload == numbered(5)
    go_on(gone)
    gone.tell("read")
    until(lambda: len(sender.health(alias="pool", state="UP")) == 2, "it is back")
    for record in sender.health(alias="pool", state="UP"):
        sender.send(record.uuid, numbered(0))
    assert gone.wait_for("read").split() == ["1", "0"]


@impatient
def test_who_comes_back_late_goes_on_where_it_stood(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic, caplog: pytest.LogCaptureFixture
) -> None:
    """Its place is its own: what it had not read is read, what it had sent is delivered, half of a large message goes
    on, its subscription and alias are renewed, and nothing comes twice."""
    late = run("obey", "late", "news")
    uuid = ready(late)
    here = make_vnic("here")
    for number in (1, 2, 3):
        here.send("late", numbered(number))
    here.publish("news", numbered(4))
    until(lambda: taken(here), "delivered")
    for to in ("here", "late"):  # whose names it knows from now on
        late.tell(f"send {to} 9 1 100")
        late.wait_for("did")
    assert here.receive(30).payload == numbered(9, 100)
    late.tell("large here 3000000")
    late.wait_for("did")
    until(lambda: half_there(here.stats().port), "half a ring of it")

    def transmitting() -> int:
        late.tell("figure")
        return int(late.wait_for("figure"))

    until(lambda: transmitting() == 0, "it waits for room")
    with standing_still(vnet.pid):
        late.tell("send late 10 3 100")  # to itself, by a name that is renewed late
        late.wait_for("did")
        stop(late)
        vnet.kill()
    restart(vnet, here)
    assert here.stats().port.assembling_bytes > 0  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        here.send(uuid, b"")
    (record,) = here.health(uuid=uuid)
    assert record.state.name == "DOWN"
    go_on(late)
    assert here.receive(60).payload == bytes(3_000_000)
    late.wait_for("large sent")
    assert here.find("late", timeout=60).uuid == uuid
    here.publish("news", numbered(5))
    here.send("late", numbered(6))
    here.send(uuid, numbered(0))
    late.tell("read")
    read = [int(number) for number in late.wait_for("read").split()]
    assert read == [1, 2, 3, 4, 9, 10, 11, 12, 5, 6, 0]
    late.tell("send here 7 1 100")
    assert here.receive(60).payload == numbered(7, 100)
    assert here.try_receive() is None
    assert "did not arrive" not in caplog.text
    port = here.stats().port
    assert port is not None
    assert (port.assembling_bytes, port.fragments_discarded) == (0, 0)


def begin(late: Program) -> None:
    late.tell("large here 8000000")
    late.wait_for("did")


def half_there(figures: PortStats | None) -> bool:
    return figures is not None and figures.receive_fill > 512 * KIB


def half_kept(figures: PortStats | None) -> bool:
    return figures is not None and (figures.messages_aborted, figures.assembling_bytes > 0) == (0, True)


def half_dropped(figures: PortStats | None) -> bool:
    return figures is not None and (figures.messages_aborted, figures.assembling_bytes) == (1, 0)


@impatient
@pytest.mark.parametrize("reads", [False, True], ids=["nobody reads", "a thread reads"])
def test_what_a_late_one_had_begun_is_dropped_when_it_dies_and_not_before(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic, reads: bool
) -> None:
    """It may come back for as long as it lives; its memory at the receiver is not held for longer."""
    late = run("obey", "late")
    ready(late)
    here = make_vnic("here")
    begin(late)
    until(lambda: half_there(here.stats().port), "half a ring of it")
    stop(late)
    restart(vnet, here)
    assert half_kept(here.stats().port)

    def receive() -> None:
        with contextlib.suppress(Closed):
            here.receive()

    reader = threading.Thread(target=receive)
    if reads:
        reader.start()
    late.kill()
    until(lambda: half_dropped(here.stats().port), "its memory is free")
    here.close()
    if reads:
        reader.join()


@impatient
def test_what_a_late_one_had_begun_is_dropped_when_it_dies_while_a_loop_reads(vnet: RunningVnet, run: Run) -> None:
    late = run("obey", "late")
    ready(late)

    async def read() -> None:
        async with AsyncVnic("here", vnet=str(vnet.socket), attach_timeout=30) as here:
            await asyncio.to_thread(begin, late)
            while not half_there((await here.stats()).port):
                await asyncio.sleep(0.005)
            stop(late)
            await asyncio.to_thread(vnet.kill)
            await asyncio.to_thread(vnet.restart)
            reading = asyncio.create_task(here.receive())
            while (await here.stats()).attachments < 2:
                await asyncio.sleep(0.005)
            assert half_kept((await here.stats()).port)
            await asyncio.to_thread(late.kill)
            while not half_dropped((await here.stats()).port):
                await asyncio.sleep(0.005)
            reading.cancel()

    asyncio.run(asyncio.wait_for(read(), 60))


@impatient
def test_what_one_had_begun_who_came_back_and_then_died_is_dropped(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic
) -> None:
    late = run("obey", "late")
    uuid = ready(late)
    here = make_vnic("here")
    begin(late)
    until(lambda: half_there(here.stats().port), "half a ring of it")
    stop(late)
    restart(vnet, here)
    go_on(late)
    assert here.find("late", timeout=60).uuid == uuid
    late.kill()
    with pytest.raises(TimeoutError):
        here.receive(0.5)  # what had come of it meanwhile is read
    until(lambda: half_dropped(here.stats().port), "its memory is free")


@impatient
def test_what_a_late_one_has_finished_before_it_died_is_still_read(
    vnet: RunningVnet, run: Run, make_vnic: MakeVnic
) -> None:
    """The news of its death overtakes what stands in the ring."""
    late = run("obey", "late")
    uuid = ready(late)
    here = make_vnic("here")
    late.tell("large here 1000000")  # more than the ring takes; and what is left of it then is less than half a ring
    late.wait_for("did")
    until(lambda: half_there(here.stats().port), "half a ring of it")
    stop(late)
    restart(vnet, here)
    assert half_kept(here.stats().port)
    go_on(late)
    late.wait_for("large sent")
    assert here.find("late", timeout=60).uuid == uuid
    late.kill()
    until(lambda: not here.health(uuid=uuid)[0].is_up, "it is down")
    here.publish("unheard", b"")  # its answer comes behind that news
    assert here.receive(30).payload == bytes(1_000_000)
    assert here.stats().port.messages_aborted == 0  # type: ignore[union-attr]


def test_nobody_is_awaited_for_longer_than_there_is_time_in_all(tmp_path: Path, run_on: Callable[..., Program]) -> None:
    """However long each may take; and who comes later has its place."""
    script = tmp_path / "hurried.py"
    script.write_text(
        "import runpy, sys\n"
        "from layer8.vnet import returning\n"
        "returning.LONGEST_SECONDS = 1.0\n"
        "sys.argv[:] = sys.argv[sys.argv.index('layer8.cli'):]\n"
        "runpy.run_module('layer8.cli', run_name='__main__', alter_sys=True)\n"
    )
    launcher = [sys.executable, "-P", str(script)]
    with running_vnet(config={"return_patience": 30.0}, launcher=launcher) as vnet:
        late = run_on(vnet, "obey", "late")
        uuid = ready(late)
        with Vnic("here", vnet=str(vnet.socket), attach_timeout=30, timeout=60) as here:
            here.send("late", numbered(1))
            until(lambda: taken(here), "delivered")
            stop(late)
            restart(vnet, here)
            with pytest.raises(NotFound):
                here.send("late", b"")
            go_on(late)
            assert here.find("late", timeout=60).uuid == uuid
            here.send("late", numbered(0))
            late.tell("read")
            assert late.wait_for("read").split() == ["1", "0"]
