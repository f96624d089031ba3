"""Who sent a message: known before it is offered, so that a look at it stops no loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from layer8 import AsyncVnic, Unreachable
from layer8.testing import RunningVnet
from layer8.vnic import inquiry

from .conftest import PATIENCE, Make, Run

Stopped = Callable[[int | None], AbstractContextManager[None]]


async def offered(sender: AsyncVnic) -> None:
    """Until what was sent stands in the receiver's ring."""
    while (port := (await sender.stats()).port) is None or port.transmit_fill:
        await asyncio.sleep(0.001)


def test_the_principal_is_known_before_the_message_is_offered(
    run: Run, make: Make, vnet: RunningVnet, stopped: Stopped
) -> None:
    async def scenario() -> None:
        async with make("known") as receiver, make() as sender:
            asking = asyncio.create_task(sender.request("known", b"q"))
            request = await receiver.receive()
            await request.reply(b"a")  # type: ignore[attr-defined]
            reply = await asking
            with stopped(vnet.pid):
                assert request.principal == reply.principal
                assert request.principal.startswith("layer8://")

    run(scenario())


def test_what_is_there_is_taken_at_once_whoever_sent_it(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("first") as receiver, make() as sender:
            await sender.send("first", b"x")
            await offered(sender)
            message = await receiver.try_receive()
            assert message is not None
            assert message.payload == b"x"

    run(scenario())


def test_a_vnet_that_does_not_answer_keeps_no_message_back(
    run: Run, make: Make, vnet: RunningVnet, stopped: Stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiry, "PATIENCE", 0.01)

    async def scenario() -> None:
        async with make("mute") as receiver, make() as sender:
            await sender.send("mute", b"x" * 100_000)
            await offered(sender)
            with stopped(vnet.pid):
                message = await receiver.receive(PATIENCE)
                assert len(message.payload) == 100_000
                with pytest.raises(Unreachable):
                    _ = message.principal
            while True:
                with contextlib.suppress(Unreachable):
                    assert message.principal.startswith("layer8://")
                    return
                await asyncio.sleep(0.001)

    run(scenario())


def test_a_vnet_that_dies_over_the_question_keeps_no_message_back(
    run_asyncio: Run, make_own: Make, own_vnet: RunningVnet, stopped: Stopped
) -> None:
    async def scenario() -> None:
        async with make_own("orphan") as receiver, make_own() as sender:
            await sender.send("orphan", b"x")
            await offered(sender)
            with stopped(own_vnet.pid):
                receiving = asyncio.create_task(receiver.receive())
                await asyncio.sleep(0)
                await asyncio.to_thread(own_vnet.kill)
            assert (await receiving).payload == b"x"

    run_asyncio(scenario())
