"""Requests and services with an AsyncVnic."""

from __future__ import annotations

import asyncio
import math

import pytest

from layer8 import AsyncRequest, Backpressure, Request, RequestFailed, RequestTimeout

from .conftest import PATIENCE, Make, Run


async def _square(request: AsyncRequest) -> bytes:
    return b"%d" % int(request.payload) ** 2


def test_service_answers_and_failures_come_with_their_reason(run: Run, make: Make) -> None:
    async def handler(request: AsyncRequest) -> object:
        if request.payload == b"raise":
            raise LookupError("no such thing")
        if request.payload == b"fail":
            await request.fail("busy", b"later")
        elif request.payload == b"str":
            return "text"
        elif request.payload == b"nothing":
            return None
        else:
            await request.reply(request.payload * 2)
        return None

    async def scenario() -> None:
        async with make("service") as worker, make() as client, worker.serve(handler):
            assert (await client.request("service", b"ab")).payload == b"abab"
            assert (await client.request("service", b"nothing")).payload == b""
            for payload, reason in ((b"raise", "LookupError: no such thing"), (b"fail", "busy"), (b"str", "str")):
                with pytest.raises(RequestFailed, match=reason):
                    await client.request("service", payload)
            assert (await client.request("service", b"still there")).payload == b"still there" * 2
            assert (await worker.stats()).handler_failures == 2

    run(scenario())


def test_handler_that_raises_the_cancellation_of_another_task_ends_no_worker(run: Run, make: Make) -> None:
    async def handler(request: AsyncRequest) -> object:
        if request.payload == b"cancel":
            other = asyncio.ensure_future(asyncio.sleep(60.0))
            other.cancel()
            await other
        return b"alive"

    async def scenario() -> None:
        async with make("hardy") as worker, make() as client:
            for workers in (1, 2):
                async with worker.serve(handler, workers=workers) as service:
                    assert repr(service) == f"<AsyncService of 'hardy', {workers} at a time>"
                    for _ in range(3):
                        with pytest.raises(RequestFailed, match="CancelledError"):
                            await client.request("hardy", b"cancel")
                    assert (await client.request("hardy", b"")).payload == b"alive"
                assert repr(service).endswith("closed>")

    run(scenario())


def test_plain_function_serves_too(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("plain") as worker, make() as client:
            service = await worker.serve(lambda request: request.payload[::-1])
            with pytest.raises(ValueError):
                await worker.serve(_square)
            assert (await client.request("plain", b"abc")).payload == b"cba"
            await service.close()
            assert await service.wait()

    run(scenario())


def test_ten_thousand_tasks_ask_at_once(run: Run, make: Make) -> None:
    """More than the Vnet lets one Vnic have outstanding: the others wait for their turn."""

    async def scenario() -> None:
        async with make("squares") as worker, make() as client, worker.serve(_square):
            count = 10_000
            asking = (client.request("squares", b"%d" % number, timeout=None) for number in range(count))
            replies = await asyncio.gather(*asking)
            assert [int(reply.payload) for reply in replies] == [number**2 for number in range(count)]
            stats = await client.stats()
            assert (stats.outstanding, stats.queued) == (0, 0)

    run(scenario())


def test_requests_wait_for_their_turn_no_longer_than_their_timeout(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("silent") as callee, make() as client:
            blocked = [asyncio.create_task(client.request("silent", b"", timeout=None)) for _ in range(1024)]
            kept = await callee.receive()  # let go it would be answered
            with pytest.raises(Backpressure):
                await client.request("silent", b"", timeout=0.05)
            assert kept.is_request
            for task in blocked:
                task.cancel()
            await asyncio.gather(*blocked, return_exceptions=True)

    run(scenario())


def test_workers_run_side_by_side_and_no_more_than_asked(run: Run, make: Make) -> None:
    async def scenario() -> None:
        running = most = 0
        all_in = asyncio.Event()

        async def handler(request: AsyncRequest) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 4:
                all_in.set()
            await all_in.wait()
            await asyncio.sleep(0)
            running -= 1
            return b""

        async with make("pool") as worker, make() as client, worker.serve(handler, workers=4):
            await asyncio.gather(*(client.request("pool", b"") for _ in range(20)))
            assert most == 4

    run(scenario())


def test_handlers_run_beside_the_workers_of_a_service(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("both") as vnic, vnic.serve(_square, workers=2):
            heard = asyncio.Event()
            await vnic.subscribe("both", lambda message: heard.set())
            await vnic.publish("both", b"", reliable=True)
            await heard.wait()
            assert (await vnic.request("both", b"3")).payload == b"9"

    run(scenario())


def test_request_can_be_answered_later_from_another_task(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("later") as callee, make() as client:
            asked = asyncio.create_task(client.request("later", b"q", timeout=PATIENCE))
            request = await callee.receive()
            assert isinstance(request, AsyncRequest)
            assert isinstance(request, Request)
            assert request.is_request
            assert 0 < request.remaining <= PATIENCE
            answering = asyncio.create_task(_answer(request))
            assert (await asked).payload == b"a" * (1 << 20)
            await answering
            assert request.answered
            with pytest.raises(ValueError):
                await request.reply(b"again")
            for_ever = asyncio.create_task(client.request("later", b"q", timeout=None))
            request = await callee.receive()
            assert isinstance(request, AsyncRequest)
            assert request.remaining == math.inf
            with pytest.raises(TypeError):
                request.reply("text")  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                request.fail(5)  # type: ignore[arg-type]
            request.reply(b"not awaited, sent all the same")
            assert (await for_ever).payload == b"not awaited, sent all the same"

    async def _answer(request: AsyncRequest) -> None:
        await request.reply(b"a" * (1 << 20))

    run(scenario())


def test_request_that_is_forgotten_fails_at_once(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("forgets") as callee, make() as client:
            asked = asyncio.create_task(client.request("forgets", b"q", timeout=None))
            await callee.receive()
            with pytest.raises(RequestFailed, match="unanswered"):
                await asked

    run(scenario())


def test_request_times_out(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("mute") as callee, make() as client:
            with pytest.raises(RequestTimeout):
                await client.request("mute", b"q", timeout=0.05)
            assert callee.state == "attached"

    run(scenario())


def test_messages_that_nobody_reads_do_not_stop_requests(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("busy") as worker, make() as client, worker.serve(_square):
            for _ in range(200):
                await client.send(worker.uuid, bytes(1000))
            for number in range(50):
                reply = await client.request("busy", b"%d" % number, timeout=PATIENCE)
                assert int(reply.payload) == number**2
                await client.send(client.uuid, b"unread", timeout=PATIENCE)
            assert (await worker.receive()).payload == bytes(1000)

    run(scenario())


def test_handler_may_ask_others_and_close_its_own_vnic(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("inner") as inner, make() as client, inner.serve(_square):
            outer = await make("outer")
            closed = asyncio.Event()

            async def handler(request: AsyncRequest) -> bytes | None:
                if request.payload == b"close":
                    await request.reply(b"closing")
                    await outer.close()
                    closed.set()
                    return None
                return (await outer.request("inner", request.payload)).payload

            await outer.serve(handler)
            assert (await client.request("outer", b"7")).payload == b"49"
            assert (await client.request("outer", b"close")).payload == b"closing"
            await closed.wait()
            assert outer.state == "closed"

    run(scenario())
