"""Requests: replies, failures, and callees and callers that go away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from layer8 import Closed, Message, Request, RequestFailed, RequestTimeout, Unreachable, Vnic

MakeVnic = Callable[..., Vnic]


def serving(vnic: Vnic, answer: Callable[[Request], None], count: int = 1) -> threading.Thread:
    """A thread that receives `count` requests and gives each to `answer`."""

    def serve() -> None:
        for _ in range(count):
            message = vnic.receive(30)
            assert isinstance(message, Request)
            answer(message)
            del message

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_request_gets_its_reply(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("upper")
    seen: list[Request] = []

    def answer(request: Request) -> None:
        seen.append(request)
        request.reply(request.payload.upper())

    thread = serving(callee, answer)
    reply = caller.request("upper", b"abc", headers={"a": "b"}, timeout=7)
    thread.join()
    assert reply.payload == b"ABC"
    assert reply.source == callee.uuid
    assert seen[0].is_request
    assert seen[0].source == caller.uuid
    assert dict(seen[0].headers) == {"a": "b"}
    assert 0 < seen[0].remaining <= 7
    with pytest.raises(ValueError):
        seen[0].reply(b"again")


def test_requests_and_replies_may_be_large(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("large")
    thread = serving(callee, lambda request: request.reply(request.payload[::-1]), 3)
    for size in (65536, 65537, 3 << 20):
        payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert caller.request("large", payload, timeout=30).payload == payload[::-1]
    thread.join()


def test_a_failed_reply_raises_with_reason_and_payload(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("failing")
    thread = serving(callee, lambda request: request.fail("no such thing: é", b"details"))
    with pytest.raises(RequestFailed) as caught:
        caller.request("failing", b"")
    thread.join()
    assert (caught.value.reason, caught.value.payload) == ("no such thing: é", b"details")


def test_a_request_that_is_let_go_fails_at_once(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("forgetful")
    thread = serving(callee, lambda request: None)
    with pytest.raises(RequestFailed) as caught:
        caller.request("forgetful", b"", timeout=60)
    thread.join()
    assert caught.value.reason == "unanswered"


def test_a_request_without_a_reply_times_out_and_a_late_reply_goes_nowhere(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("late")
    with pytest.raises(RequestTimeout) as caught:
        caller.request("late", b"", timeout=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.to == "late"
    request = callee.receive(10)
    assert isinstance(request, Request)
    assert request.remaining <= 0.3
    request.reply(b"too late")
    assert caller.try_receive() is None
    assert caller.stats().outstanding == 0


def test_a_cancelled_request_leaves_nothing_to_answer(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("cancelled")
    kept: list[Message] = []

    def keep(request: Request) -> None:
        kept.append(request)

    thread = serving(callee, keep)
    with pytest.raises(RequestTimeout):
        caller.request("cancelled", b"", timeout=0.3)
    thread.join()
    assert callee.stats().unanswered == 1
    deadline = time.monotonic() + 30
    while callee.stats().unanswered:  # the cancel is read like a message
        assert callee.try_receive() is None
        assert time.monotonic() < deadline


def test_the_callee_closes_and_its_callers_learn_at_once(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic()
    kept: list[Message] = []

    def keep_and_close(request: Request) -> None:
        kept.append(request)
        callee.close()

    thread = serving(callee, keep_and_close)
    with pytest.raises(Unreachable) as caught:
        caller.request(callee.uuid, b"", timeout=None)
    thread.join()
    assert caught.value.reason == "gone"
    with pytest.raises(Closed):
        kept[0].reply(b"")  # type: ignore[attr-defined]


def test_many_threads_ask_at_once(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("pool")
    callee.serve(lambda request: request.payload * 2)
    wrong: list[int] = []

    def ask(number: int) -> None:
        for index in range(100):
            payload = bytes([number, index])
            if caller.request("pool", payload, timeout=30).payload != payload * 2:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert caller.stats().outstanding == 0


def test_messages_wait_while_a_request_reads_the_ring(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic("mixed"), make_vnic("mixer")

    def answer(request: Request) -> None:
        for number in range(20):
            callee.send("mixed", bytes([number]))
        request.reply(b"reply")

    thread = serving(callee, answer)
    assert caller.request("mixer", b"").payload == b"reply"
    thread.join()
    assert [caller.receive(10).payload for _ in range(20)] == [bytes([number]) for number in range(20)]


def test_serve_replies_with_what_the_handler_returns(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("served")

    def handler(request: Request) -> object:
        match request.payload:
            case b"none":
                return None
            case b"raise":
                raise KeyError("missing")
            case b"self":
                request.reply(b"by hand")
                return b"ignored"
            case b"wrong":
                return 5
        return bytearray(request.payload + b"!")

    service = callee.serve(handler)
    assert caller.request("served", b"x").payload == b"x!"
    assert caller.request("served", b"none").payload == b""
    assert caller.request("served", b"self").payload == b"by hand"
    with pytest.raises(RequestFailed, match="KeyError: 'missing'"):
        caller.request("served", b"raise")
    with pytest.raises(RequestFailed, match="cannot be sent"):
        caller.request("served", b"wrong")
    deadline = time.monotonic() + 30
    while callee.stats().handler_failures < 2:  # counted after the answer
        assert time.monotonic() < deadline
    caller.send("served", b"plain")
    assert callee.receive(10).payload == b"plain"
    with pytest.raises(ValueError):
        callee.serve(handler)
    assert service.wait(0) is False
    service.close()
    assert service.wait(30) is True
    thread = serving(callee, lambda request: request.reply(b"by the loop"))
    assert caller.request("served", b"x").payload == b"by the loop"
    thread.join()


def test_several_workers_serve_at_once(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("workers")
    together = threading.Barrier(3)

    def handler(request: Request) -> bytes:
        together.wait(30)  # passes only when three are at work
        return request.payload

    with callee.serve(handler, workers=3):
        threads = [threading.Thread(target=caller.request, args=("workers", b"x")) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not together.broken
    deadline = time.monotonic() + 30
    while any(thread.name.startswith("layer8-worker-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "workers outlive their service"
        time.sleep(0.005)
    with pytest.raises(ValueError):
        callee.serve(handler, workers=0)


def test_a_handler_may_ask_others(make_vnic: MakeVnic) -> None:
    front, middle, back = make_vnic(), make_vnic("middle"), make_vnic("back")
    back.serve(lambda request: request.payload + b" back")
    middle.serve(lambda request: middle.request("back", request.payload + b" middle").payload)
    assert front.request("middle", b"front").payload == b"front middle back"


def test_an_alias_shares_the_work(make_vnic: MakeVnic) -> None:
    caller = make_vnic()
    workers = [make_vnic("shared-work") for _ in range(3)]
    for worker in workers:
        worker.serve(lambda request, uuid=worker.uuid: uuid.bytes)  # type: ignore[misc]
    answers = {caller.request("shared-work", b"").payload for _ in range(60)}
    assert answers == {worker.uuid.bytes for worker in workers}


def test_a_vnic_may_ask_itself_through_its_handler(make_vnic: MakeVnic) -> None:
    vnic = make_vnic("self")
    vnic.serve(lambda request: request.payload)
    assert vnic.request("self", b"me").payload == b"me"


def test_close_from_a_handler_ends_the_vnic(make_vnic: MakeVnic) -> None:
    caller, callee = make_vnic(), make_vnic("suicidal")

    def handler(request: Request) -> bytes:
        request.reply(b"goodbye")
        callee.close()
        return b""

    service = callee.serve(handler)
    assert caller.request("suicidal", b"").payload == b"goodbye"
    assert service.wait(30)
    assert callee.state == "closed"


def test_request_that_came_before_serve_is_served(make_vnic: MakeVnic) -> None:
    worker, client = make_vnic("early"), make_vnic()
    worker.subscribe("anything", lambda message: None)  # from now on somebody reads
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(client.request, "early", b"%d" % number) for number in range(5)]
        while worker.stats().unanswered < 5:
            time.sleep(0.001)
        worker.send(worker.uuid, b"a message")
        worker.serve(lambda request: request.payload)
        assert [future.result(60).payload for future in asked] == [b"%d" % number for number in range(5)]
    assert worker.receive(60).payload == b"a message"


def test_no_request_is_lost_to_the_moment_in_which_serving_begins(make_vnic: MakeVnic) -> None:
    client = make_vnic()
    for number in range(20):
        worker = make_vnic(f"begins.{number}")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.request, worker.uuid, b"x")
            service = worker.serve(lambda request: request.payload, workers=1 + number % 2)
            assert asked.result(60).payload == b"x"
            service.close()
