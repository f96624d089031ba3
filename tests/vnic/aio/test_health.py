"""`watch` and `elect` of an AsyncVnic."""

from __future__ import annotations

import asyncio

import pytest

from layer8 import Closed

from .conftest import PATIENCE, Make, Run


def test_watch_tells_who_is_there_and_every_change(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("watched.1"), make() as vnic, vnic.watch(alias="watched.2") as watch:
            assert watch.records == ()
            assert await watch.try_receive() is None
            with pytest.raises(TimeoutError):
                await watch.receive(timeout=0.01)
            coming = asyncio.create_task(watch.receive())
            async with make("watched.2") as other:
                event = await coming
                assert (event.kind, event.record.uuid) == ("joined", other.uuid)
                uuid = other.uuid
            async for event in watch:
                assert event.record.uuid == uuid
                if event.kind == "left":
                    break
        with pytest.raises(Closed):
            await watch.receive()

    run(scenario())


def test_one_of_a_group_leads_and_another_follows_it(run: Run, make: Make) -> None:
    async def scenario() -> None:
        first, second = await make(), await make()
        election = await first.elect("group")
        assert await election.wait(PATIENCE)
        assert (election.is_leader, election.leader, election.group) == (True, first.uuid, "group")
        async with second, second.elect("group") as other:
            assert not await other.wait(timeout=0.01)
            leading = asyncio.create_task(other.wait())
            await first.close()
            assert await leading
            assert other.term > election.term
            with pytest.raises(Closed):
                await election.receive()
            event = await other.receive()
            while not event.is_leader:
                event = await other.receive()
            assert event.leader == second.uuid

    run(scenario())
