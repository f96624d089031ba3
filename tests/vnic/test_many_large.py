"""More large messages at once than a Vnic assembles: who waits for one is told, the others arrive."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from layer8 import Request, RequestFailed, Vnic
from layer8.vnic import attachment

MakeVnic = Callable[..., Vnic]

_LARGE = bytes(range(256)) * (14 << 10)  # 3.5 MiB of the 4 that a message may have


def test_a_request_that_finds_no_room_among_the_large_ones_fails_at_once(
    make_vnic: MakeVnic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attachment, "ASSEMBLED", 1)
    callee = make_vnic("small-memory")
    callers = [make_vnic(timeout=60.0) for _ in range(3)]

    def ask(caller: Vnic) -> str:
        try:
            assert caller.request("small-memory", _LARGE).payload == b"done"
        except RequestFailed as error:
            return error.reason
        return "answered"

    answered = 0
    with caplog.at_level(logging.WARNING, "layer8.vnic"), ThreadPoolExecutor(3) as pool:
        outcomes = [pool.submit(ask, caller) for caller in callers]
        while not all(outcome.done() for outcome in outcomes):
            request = callee.try_receive()
            if isinstance(request, Request):
                assert request.payload == _LARGE
                request.reply(b"done")
                answered += 1
    reasons = [outcome.result() for outcome in outcomes]
    assert reasons.count("answered") == answered >= 1
    assert all(reason == "answered" or "no room" in reason for reason in reasons)
    assert caplog.text.count("discarded a message") == 3 - answered
