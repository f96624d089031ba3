"""Wrong arguments everywhere, handlers that misbehave, errors that cross processes: each is an error that says so."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from layer8 import AsyncVnic, Closed, Layer8Error, Message, NotFound, Request, RequestFailed, RequestTimeout, Vnic
from layer8.testing import RunningVnet

MakeVnic = Callable[..., Vnic]
Use = Callable[[Any], object]

WRONG: dict[str, tuple[Use, type[Exception]]] = {
    "send to a number": (lambda vnic: vnic.send(5, b""), TypeError),
    "send to nobody": (lambda vnic: vnic.send(None, b""), TypeError),
    "send to a list": (lambda vnic: vnic.send(["name"], b""), TypeError),
    "request of a list": (lambda vnic: vnic.request(["name"], b""), TypeError),
    "send to bytes": (lambda vnic: vnic.send(b"name", b""), TypeError),
    "send to an empty alias": (lambda vnic: vnic.send("", b""), ValueError),
    "send to a uuid as text": (lambda vnic: vnic.send("12345678-1234-5678-1234-567812345678", b""), ValueError),
    "send text": (lambda vnic: vnic.send("self", "text"), TypeError),
    "send nothing": (lambda vnic: vnic.send("self", None), TypeError),
    "send a list": (lambda vnic: vnic.send("self", [1, 2]), TypeError),
    "send every other byte": (lambda vnic: vnic.send("self", memoryview(bytes(8))[::2]), TypeError),
    "headers as a list": (lambda vnic: vnic.send("self", b"", headers=["a"]), TypeError),
    "a header of a number": (lambda vnic: vnic.send("self", b"", headers={"a": 5}), TypeError),
    "a header named by a number": (lambda vnic: vnic.send("self", b"", headers={5: "a"}), TypeError),
    "a header without a name": (lambda vnic: vnic.send("self", b"", headers={"": "a"}), ValueError),
    "headers over the limit": (lambda vnic: vnic.send("self", b"", headers={"a": "b" * 5000}), ValueError),
    "headers that are a 0": (lambda vnic: vnic.send("self", b"", headers=0), TypeError),
    "headers that are an empty text": (lambda vnic: vnic.send("self", b"", headers=""), TypeError),
    "a header that is no text": (lambda vnic: vnic.send("self", b"", headers={"a": "\udc80"}), ValueError),
    "a reserved header": (lambda vnic: vnic.send("self", b"", headers={"layer8.reason": "a"}), ValueError),
    "send with a text as timeout": (lambda vnic: vnic.send("self", b"", timeout="5"), TypeError),
    "send with a truth as timeout": (lambda vnic: vnic.send("self", b"", timeout=True), TypeError),
    "send with a negative timeout": (lambda vnic: vnic.send("self", b"", timeout=-0.1), ValueError),
    "send with no number as timeout": (lambda vnic: vnic.send("self", b"", timeout=float("nan")), ValueError),
    "send with a ttl of nothing": (lambda vnic: vnic.send("self", b"", ttl=0), ValueError),
    "send with a negative ttl": (lambda vnic: vnic.send("self", b"", ttl=-1), ValueError),
    "send with a text as ttl": (lambda vnic: vnic.send("self", b"", ttl="1"), TypeError),
    "try to send text": (lambda vnic: vnic.try_send("self", "text"), TypeError),
    "try to send to a number": (lambda vnic: vnic.try_send(5, b""), TypeError),
    "try to send to nobody's name": (lambda vnic: vnic.try_send("\udc80", b""), ValueError),
    "try to send with a list of headers": (lambda vnic: vnic.try_send("self", b"", headers=["a"]), TypeError),
    "publish on a number": (lambda vnic: vnic.publish(5, b""), TypeError),
    "publish on an empty topic": (lambda vnic: vnic.publish("", b""), ValueError),
    "publish on a topic that is too long": (lambda vnic: vnic.publish("t" * 256, b""), ValueError),
    "publish on a reserved topic": (lambda vnic: vnic.publish("layer8.mine", b""), ValueError),
    "publish reliably to a text": (lambda vnic: vnic.publish("t", b"", reliable="no"), TypeError),
    "publish with a list of headers": (lambda vnic: vnic.publish("t", b"", headers=["a"]), TypeError),
    "publish with a text as timeout": (lambda vnic: vnic.publish("t", b"", timeout="1"), TypeError),
    "publish text": (lambda vnic: vnic.publish("t", "text"), TypeError),
    "request of a number": (lambda vnic: vnic.request(5, b""), TypeError),
    "request with text": (lambda vnic: vnic.request("self", "text"), TypeError),
    "request with a list of headers": (lambda vnic: vnic.request("self", b"", headers=["a"]), TypeError),
    "request with a text as timeout": (lambda vnic: vnic.request("self", b"", timeout="1"), TypeError),
    "request with a negative timeout": (lambda vnic: vnic.request("self", b"", timeout=-1), ValueError),
    "receive with a negative timeout": (lambda vnic: vnic.receive(-1), ValueError),
    "receive with a text as timeout": (lambda vnic: vnic.receive("1"), TypeError),
    "receive no messages": (lambda vnic: vnic.receive_many(0), ValueError),
    "receive minus one message": (lambda vnic: vnic.receive_many(-1), ValueError),
    "receive a text of messages": (lambda vnic: vnic.receive_many("5"), TypeError),
    "receive one message and a half": (lambda vnic: vnic.receive_many(1.5), TypeError),
    "receive many for a text": (lambda vnic: vnic.receive_many(5, "1"), TypeError),
    "receive many for a negative time": (lambda vnic: vnic.receive_many(5, -1), ValueError),
    "subscribe to a number": (lambda vnic: vnic.subscribe(5), TypeError),
    "subscribe to a reserved topic": (lambda vnic: vnic.subscribe("layer8.mine"), ValueError),
    "subscribe with a text as handler": (lambda vnic: vnic.subscribe("t", "handler"), TypeError),
    "a stream of a number": (lambda vnic: vnic.stream(5), TypeError),
    "a stream that keeps nothing": (lambda vnic: vnic.stream("t", keep=0), ValueError),
    "a stream that keeps a text": (lambda vnic: vnic.stream("t", keep="1"), TypeError),
    "a stream that keeps one and a half": (lambda vnic: vnic.stream("t", keep=1.5), TypeError),
    "a stream of a reserved topic": (lambda vnic: vnic.stream("layer8.mine"), ValueError),
    "serve with a number": (lambda vnic: vnic.serve(5), TypeError),
    "serve with no workers": (lambda vnic: vnic.serve(print, workers=0), ValueError),
    "serve with a text of workers": (lambda vnic: vnic.serve(print, workers="2"), TypeError),
    "serve with one worker and a half": (lambda vnic: vnic.serve(print, workers=1.5), TypeError),
    "find with a text as timeout": (lambda vnic: vnic.find("self", timeout="1"), TypeError),
    "find a number": (lambda vnic: vnic.find(5), TypeError),
    "find with a negative timeout": (lambda vnic: vnic.find("self", timeout=-1), ValueError),
    "health of what is no field": (lambda vnic: vnic.health(colour="red"), TypeError),
    "health of a state that is none": (lambda vnic: vnic.health(state="up"), ValueError),
    "health of a uuid as text": (lambda vnic: vnic.health(uuid="x"), TypeError),
    "watch a state that is none": (lambda vnic: vnic.watch(state="up"), ValueError),
    "watch what is no field": (lambda vnic: vnic.watch(colour="red"), TypeError),
    "elect in a number": (lambda vnic: vnic.elect(5), TypeError),
    "elect in an empty group": (lambda vnic: vnic.elect(""), ValueError),
    "elect in a reserved group": (lambda vnic: vnic.elect("layer8.mine"), ValueError),
    "allow a text of reports": (lambda vnic: vnic.allow_reports("yes"), TypeError),
    "report undeliverables to a number": (lambda vnic: setattr(vnic, "on_undeliverable", 5), TypeError),
    "close with a negative timeout": (lambda vnic: vnic.close(-1), ValueError),
    "close with a text as timeout": (lambda vnic: vnic.close("1"), TypeError),
}

MADE_WRONG: dict[str, tuple[dict[str, object], type[Exception]]] = {
    "alias of a number": ({"alias": 5}, TypeError),
    "empty alias": ({"alias": ""}, ValueError),
    "reserved alias": ({"alias": "layer8.mine"}, ValueError),
    "alias that is a uuid": ({"alias": "12345678-1234-5678-1234-567812345678"}, ValueError),
    "alias that is too long": ({"alias": "a" * 256}, ValueError),
    "alias of bytes": ({"alias": b"name"}, TypeError),
    "vnet without a name": ({"vnet": ""}, ValueError),
    "vnet of a path object": ({"vnet": Path("/tmp/sock")}, TypeError),
    "vnet of a number": ({"vnet": 5}, TypeError),
    "timeout of text": ({"timeout": "5"}, TypeError),
    "negative timeout": ({"timeout": -1}, ValueError),
    "negative attach timeout": ({"attach_timeout": -1}, ValueError),
    "attach timeout of text": ({"attach_timeout": "1"}, TypeError),
    "spinning for a negative time": ({"spin_us": -1}, ValueError),
    "spinning for a text": ({"spin_us": "1"}, TypeError),
    "spinning for a fraction": ({"spin_us": 1.5}, TypeError),
    "ring of nothing": ({"ring_bytes": 0}, ValueError),
    "ring of a fraction": ({"ring_bytes": float(1 << 20)}, TypeError),
    "ring of a text": ({"ring_bytes": "1 MiB"}, TypeError),
    "ring that is no power of two": ({"ring_bytes": 1_000_000}, ValueError),
    "ring that is too small": ({"ring_bytes": 4096}, ValueError),
    "negative ring": ({"ring_bytes": -(1 << 20)}, ValueError),
    "security of a number": ({"security": 5}, TypeError),
    "security that names none": ({"security": "nobody"}, ValueError),
    "security that is not there": ({"security": "no.such.module:factory"}, ImportError),
}


@pytest.fixture(scope="module")
def itself(vnet: RunningVnet) -> Any:
    with Vnic("self", vnet=str(vnet.socket), attach_timeout=30.0, timeout=30.0) as vnic:
        yield vnic


@pytest.mark.parametrize("what", WRONG)
def test_wrong_argument_is_refused_and_the_vnic_goes_on(itself: Vnic, what: str) -> None:
    use, error = WRONG[what]
    with pytest.raises(error) as raised:
        use(itself)
    assert str(raised.value)
    assert itself.state == "attached"
    itself.send("self", what.encode())
    assert itself.receive(30.0).payload == what.encode()


@pytest.mark.parametrize("what", MADE_WRONG)
def test_vnic_is_not_made_with_a_wrong_argument(vnet: RunningVnet, what: str) -> None:
    arguments, error = MADE_WRONG[what]
    for kind in (Vnic, AsyncVnic):
        with pytest.raises(error):
            asyncio.run(_made(kind, {"vnet": str(vnet.socket), **arguments}))


async def _made(kind: Callable[..., Any], arguments: dict[str, object]) -> None:
    made = kind(**arguments)
    if isinstance(made, AsyncVnic):
        await made


async def _used(use: Use, vnic: AsyncVnic) -> None:
    made = use(vnic)
    if inspect.isawaitable(made):
        await made


def test_wrong_argument_is_refused_by_an_async_vnic_too_and_it_goes_on(vnet: RunningVnet) -> None:
    async def scenario() -> None:
        async with AsyncVnic("self", vnet=str(vnet.socket), attach_timeout=30.0, timeout=30.0) as vnic:
            for what, (use, error) in WRONG.items():
                with pytest.raises(error) as raised:
                    await asyncio.wait_for(_used(use, vnic), 30.0)
                assert str(raised.value), what
                assert vnic.state == "attached", what
                await vnic.send(vnic.uuid, what.encode())
                assert (await vnic.receive(30.0)).payload == what.encode()

    asyncio.run(scenario())


def test_what_a_vnic_gives_back_refuses_wrong_arguments(make_vnic: MakeVnic) -> None:
    vnic = make_vnic()
    with (
        vnic.stream("t") as stream,
        vnic.serve(print) as service,
        vnic.watch() as watch,
        vnic.elect(f"group-{vnic.uuid}") as election,
    ):
        for wait in (stream.receive, service.wait, watch.receive, election.wait, election.receive):
            for wrong, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
                with pytest.raises(error):
                    wait(wrong)  # type: ignore[arg-type]


class AwaitedWhenCalled:
    async def __call__(self, message: Message) -> None:
        """Never called here."""


def test_handler_of_threads_is_no_coroutine_function(make_vnic: MakeVnic) -> None:
    vnic, handler = make_vnic(), AwaitedWhenCalled()
    for wrong in (handler, handler.__call__):
        for use in (
            vnic.serve,
            functools.partial(vnic.subscribe, "t"),
            functools.partial(setattr, vnic, "on_undeliverable"),
        ):
            with pytest.raises(TypeError, match="AsyncVnic"):
                use(wrong)
    assert not vnic.health(uuid=vnic.uuid)[0].topics


def test_message_says_that_it_stays_in_its_process(make_vnic: MakeVnic) -> None:
    vnic = make_vnic()
    vnic.send(vnic.uuid, b"")
    with pytest.raises(TypeError, match="payload"):
        pickle.dumps(vnic.receive(30.0))


def test_request_refuses_wrong_answers_and_can_still_be_answered(make_vnic: MakeVnic) -> None:
    callee, client = make_vnic("answers"), make_vnic()
    replies: list[bytes] = []
    asking = threading.Thread(target=lambda: replies.append(client.request("answers", b"").payload))
    asking.start()
    request = callee.receive(30.0)
    assert isinstance(request, Request)
    for wrong in ("text", None, 5):
        with pytest.raises(TypeError):
            request.reply(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        request.fail(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(Layer8Error):
        request.reply(bytes(5 << 20))  # over the Vnet's limit
    assert not request.answered
    request.reply(b"right")
    asking.join()
    assert replies == [b"right"]
    with pytest.raises(ValueError, match="answered already"):
        request.fail("again")


def test_handler_that_blocks_keeps_neither_receive_nor_close(make_vnic: MakeVnic) -> None:
    vnic = make_vnic("blocked")
    blocked, go_on = threading.Event(), threading.Event()

    def handler(message: object) -> None:
        blocked.set()
        go_on.wait(60.0)

    vnic.subscribe("t", handler)
    vnic.publish("t", b"", reliable=True)
    assert blocked.wait(30.0)
    vnic.send("blocked", b"still read")
    assert vnic.receive(30.0).payload == b"still read"
    vnic.close(timeout=0.1)
    assert vnic.state == "closed"
    go_on.set()


def test_worker_survives_what_its_handler_does(make_vnic: MakeVnic, caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: Request) -> object:
        match request.payload:
            case b"raise":
                raise RuntimeError("on purpose")
            case b"exit":
                raise SystemExit(3)
            case b"interrupt":
                raise KeyboardInterrupt
            case b"answer and raise":
                request.reply(b"answered")
                raise RuntimeError("afterwards")
            case b"number":
                return 5
        return request.payload

    worker, client = make_vnic("survivor"), make_vnic()
    with worker.serve(handler):
        for payload, reason in (
            (b"raise", "RuntimeError: on purpose"),
            (b"exit", "SystemExit: 3"),
            (b"interrupt", "KeyboardInterrupt"),
            (b"number", "int"),
        ):
            with pytest.raises(RequestFailed, match=reason):
                client.request("survivor", payload)
        assert client.request("survivor", b"answer and raise").payload == b"answered"
        assert client.request("survivor", b"alive").payload == b"alive"
    assert worker.stats().handler_failures == 5


def test_signal_handler_drains_a_loop(make_vnic: MakeVnic) -> None:
    vnic = make_vnic("sigterm")
    before = signal.signal(signal.SIGUSR1, lambda number, frame: vnic.drain())
    try:
        got = []
        vnic.send("sigterm", b"0")
        for message in vnic:
            got.append(message.payload)
            if len(got) == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            elif len(got) < 3:
                vnic.send(vnic.uuid, b"%d" % len(got))
        assert got == [b"0", b"1", b"2"]
        assert vnic.state == "draining"
    finally:
        signal.signal(signal.SIGUSR1, before)


def _fails(socket: str, how: str) -> None:
    with Vnic(vnet=socket, attach_timeout=30.0) as vnic:
        if how == "not found":
            vnic.send("nobody there", b"")
        elif how == "failed":
            vnic.request("fails", b"", timeout=30.0)
        else:
            vnic.request("silent", b"", timeout=0.05)


def test_errors_cross_a_process_pool_with_their_fields(vnet: RunningVnet, make_vnic: MakeVnic) -> None:
    def fail(request: Request) -> None:
        request.fail("busy", b"later")

    make_vnic("fails").serve(fail)
    make_vnic("silent")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        error = pool.submit(_fails, str(vnet.socket), "not found").exception(60)
        assert isinstance(error, NotFound)
        assert error.to == "nobody there"
        error = pool.submit(_fails, str(vnet.socket), "failed").exception(60)
        assert isinstance(error, RequestFailed)
        assert (error.reason, error.payload) == ("busy", b"later")
        error = pool.submit(_fails, str(vnet.socket), "timeout").exception(60)
        assert isinstance(error, RequestTimeout)


def test_everything_after_close_is_closed(make_vnic: MakeVnic) -> None:
    vnic = make_vnic()
    stream, service, watch = vnic.stream("t"), vnic.serve(lambda request: None), vnic.watch()
    subscription = vnic.subscribe("t")
    vnic.close()
    uses: list[Callable[[], object]] = [
        lambda: vnic.send("x", b""),
        lambda: vnic.try_send("x", b""),
        lambda: vnic.publish("t", b""),
        lambda: vnic.request("x", b""),
        vnic.receive,
        vnic.try_receive,
        vnic.receive_many,
        lambda: vnic.subscribe("t"),
        lambda: vnic.stream("t"),
        lambda: vnic.serve(print),
        lambda: vnic.find("x"),
        vnic.health,
        vnic.watch,
        lambda: vnic.elect("g"),
        lambda: setattr(vnic, "on_undeliverable", print),
        vnic.drain,
        stream.receive,
        stream.try_receive,
        watch.receive,
    ]
    for use in uses:
        with pytest.raises(Closed):
            use()
    assert list(vnic) == [] == list(stream)
    for thing in (stream, service, watch, subscription, vnic):
        thing.close()
    assert vnic.stats().state == "closed"
    assert "closed" in repr(vnic)
    deadline = time.monotonic() + 30.0
    while any(thread.name.startswith(f"layer8-{vnic.uuid.hex[:8]}") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
