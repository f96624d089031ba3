"""OpenTelemetry's trace context goes with a message in its headers, as W3C spells it, and costs nothing when unused."""

from __future__ import annotations

from collections.abc import Callable

from layer8 import Message, Request, Vnic

MakeVnic = Callable[..., Vnic]
TRACE = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "congo=t61rcWkgMzE",
}


def test_trace_context_reaches_whoever_gets_the_message(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("traced")
    receiver.subscribe("traced-topic")
    sender.send("traced", b"x", headers=TRACE)
    sender.publish("traced-topic", b"x", headers=TRACE)
    sender.send("traced", bytes(200_000), headers=TRACE)  # in fragments
    for _ in range(3):
        assert dict(receiver.receive(30).headers) == TRACE


def test_trace_context_reaches_a_service_and_goes_on_from_there(make_vnic: MakeVnic) -> None:
    caller, front, back = make_vnic(), make_vnic("front"), make_vnic("back")
    seen: list[Message] = []

    def answer(request: Request) -> bytes:
        seen.append(request)
        return b"done"

    def pass_on(request: Request) -> bytes:
        seen.append(request)
        headers = {name: request.headers[name] for name in TRACE}
        return front.request("back", request.payload, headers=headers).payload

    back.serve(answer)
    front.serve(pass_on, workers=2)
    assert caller.request("front", b"x", headers=TRACE).payload == b"done"
    assert [message.headers["traceparent"] for message in seen] == [TRACE["traceparent"]] * 2


def test_a_message_without_headers_carries_none(make_vnic: MakeVnic) -> None:
    sender, receiver = make_vnic(), make_vnic("plain")
    sender.send("plain", b"x", headers=TRACE)
    sender.send("plain", b"x")
    with_headers, without = receiver.receive(30), receiver.receive(30)
    assert (dict(with_headers.headers), dict(without.headers)) == (TRACE, {})
