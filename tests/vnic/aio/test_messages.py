"""Sending, receiving and publishing with an AsyncVnic."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from layer8 import AsyncVnic, Backpressure, Closed, MessageTooLarge, NotFound, Undeliverable, Vnic
from layer8.testing import RunningVnet

from .conftest import PATIENCE, Make, Run


def test_message_arrives_by_alias_and_by_uuid(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("store") as store, make() as sender:
            first = await sender.send("store", b"by alias", headers={"k": "v"})
            second = await sender.send(store.uuid, bytearray(b"by uuid"))
            one, other = await store.receive(), await store.receive(timeout=PATIENCE)
            assert (one.payload, one.sequence, one.source) == (b"by alias", first, sender.uuid)
            assert dict(one.headers) == {"k": "v"}
            assert (other.payload, other.sequence) == (b"by uuid", second)
            assert bytes(other.view) == b"by uuid"

    run(scenario())


def test_it_is_attached_by_awaiting_too(run: Run, make: Make) -> None:
    async def scenario() -> None:
        vnic = await make("awaited")
        assert (vnic.state, vnic.alias) == ("attached", "awaited")
        await vnic.send("awaited", b"x")
        assert (await vnic.receive()).payload == b"x"
        await vnic.close()
        await vnic.close()
        assert vnic.state == "closed"

    run(scenario())


def test_async_and_threaded_vnics_talk(run: Run, make: Make, vnet: RunningVnet) -> None:
    def echo(other: Vnic) -> None:
        for message in other:
            other.send(message.source, message.payload)

    async def scenario() -> None:
        async with make() as vnic:
            with Vnic("threaded", vnet=str(vnet.socket), attach_timeout=30.0) as other:
                thread = threading.Thread(target=echo, args=(other,))
                thread.start()
                for number in range(200):
                    await vnic.send("threaded", b"%d" % number)
                    assert (await vnic.receive()).payload == b"%d" % number
                stats = await vnic.stats()
                assert stats.port is not None
                assert stats.port.late_wakeups == 0
            await asyncio.to_thread(thread.join)

    run(scenario())


def test_receive_waits_no_longer_than_asked(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make() as vnic:
            with pytest.raises(TimeoutError):
                await vnic.receive(timeout=0.05)
            with pytest.raises(TimeoutError):
                await vnic.receive_many(timeout=0)
            assert await vnic.try_receive() is None

    run(scenario())


def test_many_are_received_in_order(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("many") as receiver, make() as sender:
            count = 20_000

            async def send() -> None:
                for number in range(count):
                    await sender.send("many", number.to_bytes(4, "little"))

            sending = asyncio.create_task(send())
            got: list[int] = []
            while len(got) < count:
                batch = await receiver.receive_many(500, timeout=PATIENCE)
                assert 1 <= len(batch) <= 500
                got += [int.from_bytes(message.payload, "little") for message in batch]
            await sending
            assert got == list(range(count))

    run(scenario())


def test_large_messages_arrive_whole_while_others_wait(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("large") as receiver, make() as sender:
            payloads = [bytes([number]) * (3 << 20) for number in range(8)]
            sending = asyncio.gather(*(sender.send("large", payload) for payload in payloads))
            got = [(await receiver.receive(timeout=PATIENCE)).payload for _ in payloads]
            assert sorted(got) == payloads
            await sending
            with pytest.raises(MessageTooLarge):
                await sender.send("large", bytes(9 << 20))

    run(scenario())


def test_slow_receiver_is_backpressure_and_goes_on(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("slow") as receiver, make() as sender:
            sent = 0
            try:
                while sent < 10_000:
                    await sender.send("slow", bytes(32 << 10), timeout=0.2)
                    sent += 1
                raise AssertionError("it took everything")
            except Backpressure:
                pass
            assert not await sender.try_send("slow", bytes(32 << 10))
            more = asyncio.create_task(sender.send("slow", b"last", timeout=None))
            for _ in range(sent):
                assert len((await receiver.receive(timeout=PATIENCE)).payload) == 32 << 10
            await more
            assert (await receiver.receive(timeout=PATIENCE)).payload == b"last"

    run(scenario())


def test_ten_thousand_tasks_send_through_a_full_ring(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("sink") as receiver, make() as sender:
            count = 10_000
            sending = asyncio.gather(*(sender.send("sink", bytes(500), timeout=None) for _ in range(count)))
            got = 0
            while got < count:
                got += len(await receiver.receive_many(timeout=PATIENCE))
            sequences = await sending
            assert len(set(sequences)) == count

    run(scenario())


def test_ten_thousand_tasks_receive_one_each(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("taken") as receiver, make() as sender:
            count = 10_000
            receiving = [asyncio.create_task(receiver.receive()) for _ in range(count)]
            await asyncio.sleep(0)
            for number in range(count):
                await sender.send("taken", number.to_bytes(4, "little"))
            got = [int.from_bytes(message.payload, "little") for message in await asyncio.gather(*receiving)]
            assert got == list(range(count))  # first come, first served

    run(scenario())


def test_publications_reach_subscribers_streams_and_handlers(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make() as reader, make() as writer:
            heard: asyncio.Queue[bytes] = asyncio.Queue()

            async def handler(message: object) -> None:
                await heard.put(b"handled")

            subscription = await reader.subscribe("t")
            async with reader.subscribe("t", handler), reader.stream("t") as stream:
                await writer.publish("t", b"1", reliable=True)
                assert (await reader.receive(PATIENCE)).topic == "t"
                assert (await stream.receive(PATIENCE)).payload == b"1"
                assert await heard.get() == b"handled"
            assert subscription.missed == 0
            await subscription.close()
            await writer.publish("t", b"2", reliable=True)
            assert await reader.try_receive() is None
            with pytest.raises(Closed):
                await stream.receive()

    run(scenario())


def test_stream_keeps_the_latest(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make() as reader, make() as writer, reader.stream("latest", keep=1) as stream:
            for number in range(50):
                await writer.publish("latest", b"%d" % number, reliable=True)
            await writer.send(reader.uuid, b"behind them")
            await reader.receive(PATIENCE)
            message = await stream.try_receive()
            assert message is not None
            assert message.payload == b"49"
            assert stream.missed == 49

    run(scenario())


def test_handlers_run_one_at_a_time_in_order_and_survive_an_exception(
    run: Run, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with make() as vnic:
            running = 0
            seen: list[bytes] = []
            last = asyncio.Event()

            async def handler(message: object) -> None:
                nonlocal running
                running += 1
                assert running == 1
                await asyncio.sleep(0)
                payload = message.payload  # type: ignore[attr-defined]
                seen.append(payload)
                running -= 1
                if payload == b"3":
                    raise LookupError("on purpose")
                if payload == b"9":
                    last.set()

            await vnic.subscribe("o", handler)
            for number in range(10):
                await vnic.publish("o", b"%d" % number, reliable=True)
            await last.wait()
            assert seen == [b"%d" % number for number in range(10)]
            assert (await vnic.stats()).handler_failures == 1
        assert "on purpose" in caplog.text

    run(scenario())


def test_nobody_there_is_not_found(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make() as vnic:
            with pytest.raises(NotFound):
                await vnic.send("nobody", b"x")
            with pytest.raises(NotFound):
                await vnic.find("nobody")
            late = asyncio.create_task(vnic.find("late", timeout=PATIENCE))
            async with make("late") as other:
                assert (await late).uuid == other.uuid
                assert [record.uuid for record in await vnic.health(alias="late", state="UP")] == [other.uuid]

    run(scenario())


def test_undeliverable_messages_are_reported(run: Run, make_own: Make, own_vnet: RunningVnet) -> None:
    async def scenario() -> None:
        async with make_own() as vnic:
            other = await make_own(ring_bytes=512 << 10)
            reports: asyncio.Queue[object] = asyncio.Queue()
            vnic.on_undeliverable = reports.put
            await vnic.send(other.uuid, b"first")
            sequence = await _overfill(own_vnet, vnic, other)
            await other.close()
            assert await reports.get() == Undeliverable(other.uuid, sequence, "gone", 60 << 10)
            vnic.on_undeliverable = None

    run(scenario())


async def _overfill(vnet: RunningVnet, sender: AsyncVnic, to: AsyncVnic) -> int:
    """While the Vnet stands still, more is accepted than the receiver's ring has room for: the last sequence."""
    assert vnet.pid is not None
    os.kill(vnet.pid, signal.SIGSTOP)
    try:
        while any(_state(task) != "T" for task in Path(f"/proc/{vnet.pid}/task").iterdir()):
            await asyncio.sleep(0.001)
        sequence = 0
        for _ in range(8):
            sequence = await sender.send(to.uuid, bytes(60 << 10))
    finally:
        os.kill(vnet.pid, signal.SIGCONT)
    while (port := (await sender.stats()).port) is None or port.transmit_fill:
        await asyncio.sleep(0.001)
    return sequence


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def test_hot_loops_of_awaits_let_others_run(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("hot") as vnic, vnic.stream("hot topic") as stream:
            turns = 0

            async def other() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            beside = asyncio.create_task(other())

            async def hot(step: object) -> None:
                before = turns
                for _ in range(3000):
                    await step()  # type: ignore[operator]
                assert turns - before >= 5

            async def send_and_receive() -> None:
                await vnic.send("hot", b"x")
                while await vnic.try_receive() is None:
                    pass

            await hot(lambda: vnic.try_receive())
            await hot(lambda: stream.try_receive())
            await hot(send_and_receive)
            await hot(lambda: vnic.publish("nobody hears", b"x"))
            beside.cancel()

    run(scenario())


def test_wrong_arguments_are_refused(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("args") as vnic:
            for wrong in ("text", 5, None, memoryview(bytes(16))[::2]):
                with pytest.raises(TypeError):
                    await vnic.send("args", wrong)  # type: ignore[arg-type]
                with pytest.raises(TypeError):
                    await vnic.publish("t", wrong)  # type: ignore[arg-type]
                with pytest.raises(TypeError):
                    await vnic.request("args", wrong)  # type: ignore[arg-type]
            for timeout in (-1, float("nan")):
                with pytest.raises(ValueError):
                    await vnic.receive(timeout)
                with pytest.raises(ValueError):
                    await vnic.send("args", b"", timeout=timeout)
            with pytest.raises(ValueError):
                await vnic.receive_many(0)
            with pytest.raises(ValueError):
                await vnic.stream("t", keep=0)
            with pytest.raises(ValueError):
                await vnic.subscribe("")
            with pytest.raises(ValueError):
                await vnic.send("args", b"", ttl=0)
            with pytest.raises(TypeError):
                await vnic.subscribe("t", 5)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                vnic.on_undeliverable = 5  # type: ignore[assignment]
            with pytest.raises(ValueError):
                await vnic.serve(lambda request: None, workers=0)
        with pytest.raises(ValueError):
            AsyncVnic(spin_us=-1)
        with pytest.raises(ValueError):
            AsyncVnic("")

    run(scenario())


def test_a_wake_up_that_is_lost_costs_a_moment_and_no_message(
    run_asyncio: Run, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layer8.vnic.loop.LOOK_AGAIN", 0.05)

    async def scenario() -> None:
        async with make("deaf") as receiver, make() as sender:
            await sender.send("deaf", b"x")  # has the handle
            assert (await receiver.receive()).payload == b"x"
            for vnic in (receiver, sender):  # nobody hears the chime any more
                assert vnic._inbox._watch is not None
                asyncio.get_running_loop().remove_reader(vnic._inbox._watch.fileno())
            waiting = asyncio.create_task(receiver.receive())
            await asyncio.sleep(0)
            await sender.send("deaf", b"heard")
            assert (await waiting).payload == b"heard"
            payload, sent = bytes(60_000), 0
            with contextlib.suppress(Backpressure):
                while True:
                    await sender.send("deaf", payload, timeout=0.2)
                    sent += 1
            for_room = asyncio.create_task(sender.send("deaf", b"last", timeout=None))
            await asyncio.sleep(0)
            assert not for_room.done()
            for _ in range(sent):
                assert len((await receiver.receive()).payload) == 60_000
            await for_room
            assert (await receiver.receive()).payload == b"last"

    run_asyncio(scenario())
