"""The life of an AsyncVnic: cancelled, drained, closed, forgotten, forked, in another loop, without its Vnet."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from layer8 import AsyncRequest, AsyncVnic, Closed, RequestFailed, VnetNotFound
from layer8.testing import RunningVnet

from .conftest import PATIENCE, Make, Run


def test_cancelled_receive_takes_nothing(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("cancel") as vnic:
            for number in range(300):
                receiving = asyncio.create_task(vnic.receive())
                if number % 3:
                    await asyncio.sleep(0)
                await vnic.send("cancel", b"%d" % number)
                if number % 2:
                    await asyncio.sleep(0)
                receiving.cancel()
                try:
                    message = await receiving
                except asyncio.CancelledError:
                    message = await vnic.receive()
                assert message.payload == b"%d" % number
            assert await vnic.try_receive() is None

    run(scenario())


def test_receive_that_times_out_from_outside_takes_nothing(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("waits") as vnic:
            for number in range(100):
                sending = asyncio.create_task(vnic.send("waits", b"%d" % number))
                message = None
                while message is None:
                    try:
                        async with asyncio.timeout(0.0001 * (number % 7)):
                            message = await vnic.receive()
                    except TimeoutError:
                        pass
                assert message.payload == b"%d" % number
                await sending

    run(scenario())


def test_cancelled_large_send_is_whole_or_absent(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("whole") as receiver, make() as sender:
            accepted = 0
            for number in range(30):
                sending = asyncio.create_task(sender.send("whole", bytes([number]) * (2 << 20), timeout=None))
                for _ in range(number % 10):
                    await asyncio.sleep(0.0005)
                sending.cancel()
                try:
                    await sending
                    accepted += 1
                except asyncio.CancelledError:
                    pass
                while (message := await receiver.try_receive()) is not None:
                    assert message.payload == message.payload[:1] * (2 << 20)
                    accepted -= 1
            await sender.send("whole", b"end", timeout=None)
            while (message := await receiver.receive(PATIENCE)).payload != b"end":
                assert message.payload == message.payload[:1] * (2 << 20)
                accepted -= 1
            assert accepted == 0

    run(scenario())


def test_cancelled_request_tells_its_callee(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("callee") as callee, make() as client:
            asking = asyncio.create_task(client.request("callee", b"q", timeout=None))
            request = await callee.receive()
            assert isinstance(request, AsyncRequest)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await request.reply(b"too late")  # goes nowhere
            assert (await client.stats()).outstanding == 0

    run(scenario())


def test_cancelled_attach_leaves_nothing(run: Run, make: Make) -> None:
    async def scenario() -> None:
        for turn in range(10):
            attaching = asyncio.create_task(_attached(make))
            await asyncio.sleep(0.001 * turn)
            attaching.cancel()
            try:
                await (await attaching).close()
            except asyncio.CancelledError:
                pass
        async with make() as watcher:
            while len(await watcher.health(kind="vnic", state="UP")) > 1:
                await asyncio.sleep(0.01)

    async def _attached(make: Make) -> AsyncVnic:
        return await make()

    run(scenario())


def test_cancellation_that_comes_together_with_the_attach_leaves_nothing(run: Run, make: Make) -> None:
    """Offered by its thread and taken by nobody: the task is woken, and cancelled before it runs."""

    async def scenario() -> None:
        async with make() as watcher:
            attaching = asyncio.create_task(_entered(make))
            await asyncio.sleep(0)
            for thread in threading.enumerate():
                if thread.name == "layer8-attach":
                    thread.join()
            await asyncio.sleep(0)
            attaching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attaching
            while len(await watcher.health(kind="vnic", state="UP")) > 1:
                await asyncio.sleep(0.01)

    run(scenario())


def test_waits_end_when_it_is_closed(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("mute"), make() as other:
            vnic = await make()
            stream = await vnic.stream("t")
            service = await vnic.serve(lambda request: None)
            waits = [
                asyncio.create_task(coroutine)
                for coroutine in (
                    vnic.receive(),
                    vnic.receive_many(),
                    stream.receive(),
                    vnic.request("mute", b"", timeout=None),
                    vnic.find("nobody", timeout=None),
                )
            ]
            ended = asyncio.create_task(service.wait())
            loop = asyncio.create_task(_count(vnic))
            await other.send(vnic.uuid, b"x")
            await asyncio.sleep(0.05)
            await vnic.close()
            outcomes = await asyncio.gather(*waits, return_exceptions=True)
            assert sum(isinstance(outcome, Closed) for outcome in outcomes) >= 4  # one of them may have the message
            assert await ended
            assert await loop in (0, 1)
            for use in (vnic.send("mute", b""), vnic.receive(), vnic.health()):
                with pytest.raises(Closed):
                    await use
            with pytest.raises(Closed):
                await vnic.subscribe("t")
            with pytest.raises(Closed):
                vnic.drain()

    async def _count(vnic: AsyncVnic) -> int:
        count = 0
        async for _ in vnic:
            count += 1
        return count

    run(scenario())


def test_drained_loop_ends_after_the_last_message(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make("drained") as vnic, make() as sender:
            for number in range(1000):
                await sender.send("drained", b"%d" % number)
            while (port := (await sender.stats()).port) is None or port.transmit_fill:
                await asyncio.sleep(0.001)  # until all of it is offered
            got = []
            async for message in vnic:
                got.append(int(message.payload))
                if len(got) == 10:
                    await vnic.drain()
                    assert vnic.state == "draining"
            assert got == list(range(1000))

    run(scenario())


def test_signal_handler_drains(run: Run, make: Make) -> None:
    heard = asyncio.Event()

    async def scenario() -> None:
        async with make("sigterm") as vnic:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, vnic.drain)
            waiting = asyncio.create_task(_last(vnic))
            await vnic.send("sigterm", b"before")
            await heard.wait()  # a drain refuses what is still on its way
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await waiting == b"before"
            asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    async def _last(vnic: AsyncVnic) -> bytes:
        payload = b""
        async for message in vnic:
            payload = message.payload
            heard.set()
        return payload

    if threading.current_thread() is threading.main_thread():
        run(scenario())


def test_handler_that_runs_too_long_is_cancelled_by_close(run: Run, make: Make) -> None:
    async def scenario() -> None:
        cancelled = asyncio.Event()
        begun = asyncio.Event()

        async def handler(message: object) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        vnic = await make()
        await vnic.subscribe("t", handler)
        await vnic.publish("t", b"", reliable=True)
        await begun.wait()
        await vnic.close(timeout=0.1)
        assert cancelled.is_set()

    run(scenario())


def test_use_before_it_is_attached_is_a_value_error(run_asyncio: Run, make: Make) -> None:
    async def scenario() -> None:
        vnic = make("unattached")
        assert (vnic.alias, vnic.state) == ("unattached", "away")
        with pytest.raises(ValueError, match="await"):
            await vnic.send("x", b"")
        with pytest.raises(ValueError, match="await"):
            _ = vnic.uuid
        await vnic.close()
        async with vnic:
            assert await vnic is vnic

    run_asyncio(scenario())


def test_use_from_another_loop_is_a_value_error(make: Make) -> None:
    with asyncio.Runner() as runner, asyncio.Runner() as other:
        vnic = runner.run(_entered(make))
        for use in (vnic.send("x", b""), vnic.receive(), vnic.request("x", b""), vnic.health(), vnic.close()):
            with pytest.raises(ValueError, match="another event loop"):
                other.run(use)
        runner.run(vnic.close())


async def _entered(make: Make) -> AsyncVnic:
    return await make()


def test_no_vnet_is_vnet_not_found(run_asyncio: Run, tmp_path: object) -> None:
    async def scenario() -> None:
        with pytest.raises(VnetNotFound):
            await AsyncVnic(vnet=f"{tmp_path}/none.sock", attach_timeout=0)

    run_asyncio(scenario())


def test_forgotten_vnic_is_collected_and_leaves(run: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make() as watcher:
            vnic = await make("forgotten")
            await vnic.subscribe("t", lambda message: None)
            with pytest.warns(ResourceWarning, match="unclosed"):
                del vnic
            while await watcher.health(alias="forgotten", state="UP"):
                await asyncio.sleep(0.01)

    run(scenario())


def test_it_cannot_be_pickled(run_asyncio: Run, make: Make) -> None:
    async def scenario() -> None:
        async with make() as vnic:
            with pytest.raises(TypeError, match="process"):
                pickle.dumps(vnic)

    run_asyncio(scenario())


def test_interpreter_exits_with_everything_open(vnet: RunningVnet) -> None:
    program = """
import asyncio
from layer8 import AsyncVnic

async def main():
    global vnic, kept
    vnic = await AsyncVnic("open", attach_timeout=30)
    kept = await vnic.stream("t")
    await vnic.serve(lambda request: None)
    asyncio.ensure_future(vnic.receive())
    asyncio.ensure_future(vnic.request("open", b"", timeout=None))
    await vnic.send("open", b"x")
    print("done")

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=vnet.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_child_made_by_fork_finds_it_closed(make: Make) -> None:
    with asyncio.Runner() as runner:
        vnic = runner.run(_entered(make))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.new_event_loop().run_until_complete(vnic.receive())
            except Closed:
                code = 0 if vnic.state == "closed" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        runner.run(_talks_to_itself(vnic))
        runner.run(vnic.close())


async def _talks_to_itself(vnic: AsyncVnic) -> None:
    await vnic.send(vnic.uuid, b"still here")
    assert (await vnic.receive(PATIENCE)).payload == b"still here"


def test_it_goes_on_with_the_next_vnet(run: Run, make_own: Make, own_vnet: RunningVnet) -> None:
    async def scenario() -> None:
        async with make_own("survivor", timeout=PATIENCE) as vnic, make_own(timeout=PATIENCE) as other:
            uuid = vnic.uuid
            stream = await vnic.stream("t")
            await vnic.serve(lambda request: request.payload)
            waiting = asyncio.create_task(vnic.receive())
            streaming = asyncio.create_task(stream.receive())
            for turn in range(3):
                await other.send("survivor", b"read before")
                assert (await waiting).payload == b"read before"
                waiting = asyncio.create_task(vnic.receive())
                await asyncio.to_thread(own_vnet.kill)
                while other.state != "away" or vnic.state != "away":
                    await asyncio.sleep(0.01)
                meanwhile = asyncio.create_task(other.send("survivor", b"%d" % turn))
                published = asyncio.create_task(other.publish("t", b"%d" % turn, reliable=True))
                await asyncio.to_thread(own_vnet.restart)
                assert (await waiting).payload == b"%d" % turn
                assert (await streaming).payload == b"%d" % turn
                await meanwhile, await published
                waiting = asyncio.create_task(vnic.receive())
                streaming = asyncio.create_task(stream.receive())
                assert (await other.request("survivor", b"q")).payload == b"q"
                assert vnic.uuid == uuid
            waiting.cancel(), streaming.cancel()
            assert (await vnic.stats()).attachments >= 4

    run(scenario())


def test_requests_fail_as_unknown_when_the_vnet_dies(run: Run, make_own: Make, own_vnet: RunningVnet) -> None:
    async def scenario() -> None:
        async with make_own("mute", timeout=PATIENCE) as callee, make_own(timeout=PATIENCE) as client:
            asking = [asyncio.create_task(client.request("mute", b"", timeout=None)) for _ in range(100)]
            kept = [await callee.receive() for _ in asking]  # one that was not sent would wait for the next Vnet
            await asyncio.to_thread(own_vnet.kill)
            for outcome in await asyncio.gather(*asking, return_exceptions=True):
                assert isinstance(outcome, RequestFailed)
                assert outcome.reason == "unknown"
            assert len(kept) == 100

    run(scenario())


def test_traffic_survives_a_killed_vnet_in_order(run: Run, make_own: Make, own_vnet: RunningVnet) -> None:
    async def scenario() -> None:
        async with make_own("books", timeout=PATIENCE) as receiver, make_own(timeout=PATIENCE) as sender:
            got: list[int] = []
            sent = 0
            stop = False

            async def send() -> None:
                nonlocal sent
                while not stop:
                    await sender.send("books", sent.to_bytes(8, "little"))
                    sent += 1
                await sender.send("books", b"end")

            async def receive() -> None:
                while True:
                    for message in await receiver.receive_many():
                        if message.payload == b"end":
                            return
                        got.append(int.from_bytes(message.payload, "little"))

            sending, receiving = asyncio.create_task(send()), asyncio.create_task(receive())
            for _ in range(2):
                before = len(got)
                deadline = time.monotonic() + PATIENCE
                while len(got) < before + 2000 and time.monotonic() < deadline:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(own_vnet.kill)
                await asyncio.to_thread(own_vnet.restart)
            stop = True
            await asyncio.gather(sending, receiving)
            assert got == list(range(sent))

    run(scenario())
