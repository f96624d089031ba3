"""Whatever a client writes to its control socket, others go on and the daemon has nothing to log but that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layer8.protocol.control import Attached, Ping
from layer8.testing import RunningVnet, running_vnet

Connect = Callable[..., Any]

TAGS = [
    "hello", "attach", "grant", "release", "subscribe", "unsubscribe", "find", "health", "topics", "whois", "draining",
    "detach", "ping", "done", "failed", "stopping", "port-closed", "nonsense",
]  # fmt: skip

numbers = st.one_of(
    st.integers(-2, 5), st.sampled_from([1023, 1024, 4095, 4096, 65535, 65536, -(2**63), 2**63, 2**64 - 1])
)
values = st.one_of(
    numbers,
    st.none(),
    st.booleans(),
    st.floats(),
    st.sampled_from(["uuid", "alias", "topic", "send", "publish", "request", "me", "t"]),
    st.text(max_size=300),
    st.binary(max_size=40),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.lists(numbers, max_size=3),
)
NAMES = ["id", "slot", "generation", "kind", "name", "action", "topic", "number", "to", "is_uuid", "timeout", "after",
         "filters", "limit", "principal", "uuid", "proof", "alias", "observer", "version", "nonce"]  # fmt: skip
messages = st.builds(
    lambda tag, fields: {**fields, "t": tag},
    st.sampled_from(TAGS),
    st.dictionaries(st.sampled_from(NAMES), values, max_size=len(NAMES)),
)

sensible = st.one_of(  # what the daemon has to think about
    st.fixed_dictionaries(
        {
            "t": st.just("grant"),
            "id": st.integers(0, 3),
            "slot": st.integers(0, 3),
            "generation": st.integers(0, 3),
            "kind": st.sampled_from(["alias", "topic", "uuid"]),
            "name": st.sampled_from(["me", "t", "u", "e3a1c0de-0000-4000-8000-000000000001"]),
            "action": st.sampled_from(["send", "publish", "request"]),
        }
    ),
    st.fixed_dictionaries(
        {"t": st.just("release"), "id": st.just(1), "slot": st.integers(0, 3), "generation": st.integers(0, 3)}
    ),
    st.fixed_dictionaries(
        {"t": st.just("subscribe"), "id": st.just(1), "topic": st.sampled_from("tuv"), "number": st.integers(0, 3)}
    ),
    st.fixed_dictionaries({"t": st.just("unsubscribe"), "id": st.just(1), "number": st.integers(0, 3)}),
    st.fixed_dictionaries(
        {
            "t": st.just("find"),
            "id": st.integers(0, 3),
            "to": st.sampled_from(["me", "nobody"]),
            "is_uuid": st.just(False),
            "timeout": st.sampled_from([0.0, 0.001, 1e9, -1.0]),
        }
    ),
    st.fixed_dictionaries({"t": st.sampled_from(["draining", "detach", "health", "topics", "ping"]), "id": st.just(2)}),
)


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningVnet]:
    """One Vnet for everything below: what it survives, it survives together."""
    with running_vnet() as vnet:
        yield vnet
        assert "Traceback" not in vnet.log
        assert " ERROR " not in vnet.log


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    attached=st.booleans(),
    frames=st.lists(st.one_of(messages, sensible, sensible, st.binary(max_size=60)), min_size=1, max_size=30),
    cut=st.integers(0, 40),
)
def test_no_words_harm_anybody(
    shared: RunningVnet, connect: Connect, attached: bool, frames: list[dict[str, Any] | bytes], cut: int
) -> None:
    raw = connect(shared)
    if attached:
        assert isinstance(raw.attach(alias="me"), Attached)
    data = b""
    for frame in frames:
        body = frame if isinstance(frame, bytes) else msgspec.msgpack.encode(frame)
        data += len(body).to_bytes(4, "little") + body
    raw.send_bytes(data[: len(data) - cut] or b"\0")
    raw.close()
    other = connect(shared)
    assert isinstance(other.attach(), Attached)
    assert other.ask(Ping)
    other.close()
    assert os.path.exists(f"/proc/{shared.pid}")
