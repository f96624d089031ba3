"""A Vnet dies while programs wait for room, for a message, or have missed publications: none of them waits in vain.

What each mark and token does at each instant is tested in C (tests/c/test_adoption_marks.c and its neighbours).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from layer8 import AsyncVnic, Backpressure, NotFound, Unreachable, Vnic
from layer8.testing import RunningVnet
from layer8.vnic.statistics import VnicStats

MakeVnic = Callable[..., Vnic]
RING = 512 << 10
PAYLOAD = bytes(20_000)
PATIENCE = 60.0  # a watchdog, not an expectation


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def moved(stats: VnicStats) -> bool:
    return stats.port is not None and stats.port.transmit_fill == 0


def fill(vnic: Vnic, to: UUID | str) -> int:
    """Sends until Xoff stands; how many."""
    vnic.send(to, PAYLOAD)  # the handle is there
    sent = 1
    while True:
        until(lambda: moved(vnic.stats()))
        try:
            vnic.send(to, PAYLOAD, timeout=0)
        except Backpressure:
            return sent
        sent += 1


def waits(vnic: Vnic) -> int:
    port = vnic.stats().port
    return 0 if port is None else port.waits


def late(*all_: VnicStats) -> int:
    return sum(stats.port.late_wakeups for stats in all_ if stats.port is not None)


def taken(vnic: Vnic) -> Iterator[bytes]:
    """What can be read without waiting."""
    while (message := vnic.try_receive()) is not None:
        yield message.payload


@pytest.mark.parametrize("drained", ["while no Vnet is there", "after adoption"])
@pytest.mark.parametrize("by", ["uuid", "alias"])
def test_who_waits_for_room_or_a_message_is_woken(
    vnet: RunningVnet, make_vnic: MakeVnic, drained: str, by: str
) -> None:
    sender, listener = make_vnic(), make_vnic()
    receiver = make_vnic("full", ring_bytes=RING)
    to = receiver.uuid if by == "uuid" else "full"
    sent = fill(sender, to)
    with ThreadPoolExecutor(2) as pool:
        slept = waits(sender), waits(listener)
        waiting = pool.submit(sender.send, to, b"last", timeout=PATIENCE)
        listening = pool.submit(listener.receive, PATIENCE)
        until(lambda: waits(sender) > slept[0] and waits(listener) > slept[1])
        vnet.kill()
        until(lambda: all(vnic.state == "away" for vnic in (sender, listener, receiver)))
        got = list(taken(receiver)) if drained == "while no Vnet is there" else []
        vnet.restart()
        until(lambda: all(vnic.state == "attached" for vnic in (sender, listener, receiver)))
        sender.send(listener.uuid, b"hello")
        assert listening.result(PATIENCE).payload == b"hello"
        assert drained == "while no Vnet is there" or not waiting.done()
        got += [receiver.receive(PATIENCE).payload for _ in range(sent + 1 - len(got))]
        assert got == [PAYLOAD] * sent + [b"last"]
        waiting.result(PATIENCE)
    assert late(sender.stats(), listener.stats(), receiver.stats()) == 0


@pytest.mark.parametrize("drained", ["while no Vnet is there", "after adoption"])
def test_a_task_that_waits_for_room_or_a_message_is_woken(vnet: RunningVnet, make_vnic: MakeVnic, drained: str) -> None:
    receiver = make_vnic(ring_bytes=RING)

    async def scenario() -> None:
        place = str(vnet.socket)
        async with AsyncVnic(vnet=place, attach_timeout=30, timeout=PATIENCE) as vnic:
            sent = await fill_async(vnic, receiver.uuid)
            waiting = asyncio.create_task(vnic.send(receiver.uuid, b"last", timeout=None))
            listening = asyncio.create_task(vnic.receive(PATIENCE))
            await asyncio.sleep(0)
            vnet.kill()
            while {vnic.state, receiver.state} != {"away"}:
                await asyncio.sleep(0.002)
            got = list(taken(receiver)) if drained == "while no Vnet is there" else []
            await asyncio.to_thread(vnet.restart)
            while {vnic.state, receiver.state} != {"attached"}:
                await asyncio.sleep(0.002)
            await asyncio.to_thread(receiver.send, vnic.uuid, b"hello")
            assert (await listening).payload == b"hello"
            assert drained == "while no Vnet is there" or not waiting.done()
            while len(got) < sent + 1:
                got.append((await asyncio.to_thread(receiver.receive, PATIENCE)).payload)
            assert got == [PAYLOAD] * sent + [b"last"]
            await waiting
            assert late(await vnic.stats(), receiver.stats()) == 0

    asyncio.run(asyncio.wait_for(scenario(), 2 * PATIENCE))


async def fill_async(vnic: AsyncVnic, to: UUID) -> int:
    await vnic.send(to, PAYLOAD)
    sent = 1
    while True:
        while not moved(await vnic.stats()):
            await asyncio.sleep(0.001)
        try:
            await vnic.send(to, PAYLOAD, timeout=0)
        except Backpressure:
            return sent
        sent += 1


def test_a_task_that_slept_through_the_outage_does_not_wait_for_who_is_gone(
    vnet: RunningVnet, run: Callable[..., Any]
) -> None:
    """Its loop was busy until the next Vnet was there, so that it sees nothing but the mark of the earlier one."""
    program = run("hold", "full")
    to = UUID(program.wait_for("ready"))

    async def scenario() -> None:
        async with AsyncVnic(vnet=str(vnet.socket), attach_timeout=30, timeout=PATIENCE) as vnic:
            await fill_async(vnic, to)
            waiting = asyncio.create_task(vnic.send(to, b"last", timeout=None))
            await asyncio.sleep(0)
            vnet.kill()
            program.kill()
            until(lambda: vnic.state == "away")
            vnet.restart()
            until(lambda: vnic.state == "attached")
            with pytest.raises((NotFound, Unreachable)):
                await asyncio.wait_for(waiting, PATIENCE)

    asyncio.run(asyncio.wait_for(scenario(), 3 * PATIENCE))


def test_what_was_missed_before_the_vnet_died_is_said_by_the_next_publication(
    vnet: RunningVnet, make_vnic: MakeVnic
) -> None:
    publisher, subscriber = make_vnic(), make_vnic(ring_bytes=RING)
    subscription = subscriber.subscribe("figures")
    while subscription.missed < 3:
        publisher.publish("figures", PAYLOAD)
        until(lambda: moved(publisher.stats()))
    missed = subscription.missed
    for _ in range(2):
        vnet.kill()
        until(lambda: publisher.state == subscriber.state == "away")
        vnet.restart()
        until(lambda: publisher.state == subscriber.state == "attached")
        assert subscription.missed == missed
    assert set(taken(subscriber)) == {PAYLOAD}
    publisher.publish("figures", b"next")
    assert subscriber.receive(PATIENCE).missed == missed
    publisher.publish("figures", b"and next")
    assert subscriber.receive(PATIENCE).missed == 0
    assert subscription.missed == missed
