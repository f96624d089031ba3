"""Dialling with a network that is played: who is dialled, how often, and that nobody waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

from layer8.protocol.link import LinkRefusal
from layer8.vnet.dialling import HINT_FAILURES, Address, Dialling

GOOD, BAD, HANGS, OURSELVES = ("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3), ("10.0.0.4", 4)


class Network:
    """One Vnet at GOOD; its link stands until `lose`."""

    def __init__(self) -> None:
        self.vnet = uuid4()
        self.dialled: list[Address] = []
        self.linked = asyncio.Event()
        self.lost = asyncio.Event()
        self.refuses: LinkRefusal | None = None

    async def dial(self, host: str, port: int) -> UUID:
        self.dialled.append((host, port))
        await asyncio.sleep(0)
        match (host, port):
            case address if address == GOOD:
                self.linked.set()
                if self.refuses is not None:
                    raise self.refuses
                return self.vnet
            case address if address == HANGS:
                await asyncio.Event().wait()
            case address if address == OURSELVES:
                raise LinkRefusal("self", "", remote=False)
        raise ConnectionRefusedError("nobody is there")

    async def until_lost(self, vnet: UUID) -> None:
        assert vnet == self.vnet
        await self.lost.wait()
        self.lost.clear()

    def count(self, address: Address) -> int:
        return self.dialled.count(address)


def run(test: Callable[[Network, Dialling], Awaitable[None]]) -> None:
    async def play() -> None:
        async def at_once(seconds: float) -> None:
            await asyncio.sleep(0)

        network = Network()
        dialling = Dialling(network, asyncio.get_running_loop(), sleep=at_once)
        try:
            async with asyncio.timeout(30):
                await test(network, dialling)
        finally:
            await dialling.close()

    asyncio.run(play())


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_one_that_is_down_or_hangs_delays_no_other() -> None:
    async def test(network: Network, dialling: Dialling) -> None:
        dialling.want("a test", [HANGS, BAD, GOOD])
        await network.linked.wait()
        await turns()
        assert network.count(GOOD) == network.count(HANGS) == 1
        assert network.count(BAD) > 3

    run(test)


def test_a_link_that_is_lost_is_dialled_again() -> None:
    async def test(network: Network, dialling: Dialling) -> None:
        dialling.want("a test", [GOOD])
        for times in (1, 2, 3):
            await network.linked.wait()
            network.linked.clear()
            await turns()
            assert network.count(GOOD) == times
            network.lost.set()

    run(test)


def test_a_vnet_that_is_linked_already_is_left_alone_until_that_is_lost() -> None:
    async def test(network: Network, dialling: Dialling) -> None:
        network.refuses = LinkRefusal("duplicate", "", remote=True)
        network.refuses.peer = network.vnet
        dialling.want("a test", [GOOD])
        await turns()
        assert network.count(GOOD) == 1
        network.lost.set()
        await turns()
        assert network.count(GOOD) == 2

    run(test)


def test_nobody_dials_itself_again() -> None:
    async def test(network: Network, dialling: Dialling) -> None:
        dialling.want("a test", [OURSELVES])
        await turns()
        assert network.count(OURSELVES) == 1

    run(test)


def test_what_nobody_wants_any_more_is_not_dialled() -> None:
    async def test(network: Network, dialling: Dialling) -> None:
        dialling.want("one", [BAD])
        dialling.want("two", [BAD])
        dialling.want("one", [])
        assert dialling.addresses == {BAD}
        dialling.want("two", [GOOD])
        assert dialling.addresses == {GOOD}
        await turns()
        before = network.count(BAD)
        await turns()
        assert network.count(BAD) == before

    run(test)


def test_a_hint_is_dropped_after_a_few_failures() -> None:
    async def test(network: Network, dialling: Dialling) -> None:
        dialling.hint(BAD)
        dialling.hint(BAD)
        await turns(200)
        assert network.count(BAD) == HINT_FAILURES
        assert dialling.addresses == frozenset()

    run(test)
