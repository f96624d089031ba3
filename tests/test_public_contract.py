"""The contract of the public names: their signatures, the same ones awaited, their texts and their types."""

from __future__ import annotations

import inspect
import os
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import layer8
from layer8 import AsyncVnic, Message, Request, Vnic
from layer8.vnic import AsyncStream, AsyncSubscription, Stream, Subscription

ROOT = Path(__file__).parents[1]
PATIENCE = 110.0

NAMES = {
    "uuid": None,
    "alias": None,
    "state": None,
    "on_undeliverable": None,
    "send": "(self, to, payload, *, headers=None, timeout=..., ttl=None)",
    "try_send": "(self, to, payload, *, headers=None)",
    "publish": "(self, topic, payload, *, reliable=False, headers=None, timeout=...)",
    "request": "(self, to, payload, *, headers=None, timeout=...)",
    "receive": "(self, timeout=None)",
    "try_receive": "(self)",
    "receive_many": "(self, max=256, timeout=None)",
    "subscribe": "(self, topic, handler=None)",
    "stream": "(self, topic, keep=None)",
    "serve": "(self, handler, *, workers=1)",
    "find": "(self, to, *, timeout=0.0)",
    "health": "(self, **filters)",
    "watch": "(self, **filters)",
    "elect": "(self, group)",
    "stats": "(self)",
    "drain": "(self)",
    "close": "(self, timeout=5.0)",
    "allow_reports": "(self, allowed=True, *, trace_memory=False)",
}
CONSTRUCTOR = (
    "(self, alias=None, *, vnet='default', security=None, timeout=5.0, attach_timeout=1.0, "
    "ring_bytes=None, spin_us=None)"
)


def _signature(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return text.replace("Ellipsis", "...")


def _public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


@pytest.mark.parametrize("kind", [Vnic, AsyncVnic])
def test_names_and_arguments_are_these(kind: type) -> None:
    assert set(NAMES) == set(_public(kind))
    assert _signature(kind.__init__) == CONSTRUCTOR  # type: ignore[misc]
    for name, signature in NAMES.items():
        if signature is None:
            assert isinstance(inspect.getattr_static(kind, name), property)
        else:
            assert _signature(getattr(kind, name)) == signature, name


@pytest.mark.parametrize(("kind", "names"), [
    (Message, {"source", "principal", "payload", "view", "topic", "sequence", "missed", "headers", "is_request"}),
    (Request, {"reply", "fail", "remaining", "answered"}),
    (Subscription, {"topic", "missed", "close"}),
    (AsyncSubscription, {"topic", "missed", "close"}),
    (Stream, {"receive", "try_receive"}),
    (AsyncStream, {"receive", "try_receive"}),
])  # fmt: skip
def test_what_is_given_back_has_these_names(kind: type, names: set[str]) -> None:
    assert names <= set(_public(kind))


@pytest.mark.parametrize("name", layer8.__all__)
def test_public_name_says_what_it_is(name: str) -> None:
    thing = getattr(layer8, name)
    assert inspect.getdoc(thing), name
    for member in _public(thing):
        found = inspect.getattr_static(thing, member)
        # An alias needs no words, a field of a record is described by the record; methods and properties speak.
        if callable(found) or isinstance(found, property):
            own = found.__qualname__.startswith(thing.__name__) if hasattr(found, "__qualname__") else True
            described = inspect.getdoc(getattr(thing, member)) or member in ("alias", "topic", "is_request")
            assert described or not own, f"{name}.{member}"


def test_help_reads_well() -> None:
    text = pydoc.plain(pydoc.render_doc(Vnic))
    assert "A place on the network of processes" in text
    for name in NAMES:
        assert name in text
    for word in ("alias           a name that several Vnics may share", "Raises Backpressure (surely not sent)"):
        assert word in text


SAMPLE = """
import asyncio
from collections.abc import Mapping
from uuid import UUID

from layer8 import (
    AsyncRequest, AsyncVnic, Backpressure, HealthRecord, Layer8Error, Message, NotFound, Request, RequestFailed,
    RequestTimeout, Undeliverable, Vnic,
)
from layer8.testing import RunningVnet, running_vnet


def handle(message: Message) -> None:
    headers: Mapping[str, str | bytes] = message.headers
    print(message.source, message.topic, headers, len(message.view))


def answer(request: Request) -> bytes:
    return request.payload if request.remaining > 1 else b""


def undelivered(report: Undeliverable) -> None:
    print(report.to, report.sequence, report.reason)


def threads() -> None:
    with Vnic("a", timeout=None) as vnic:
        sequence: int = vnic.send("b", bytearray(b"x"), headers={"k": "v", "b": b"v"}, ttl=1.5)
        accepted: bool = vnic.try_send(vnic.uuid, memoryview(b"x"))
        vnic.on_undeliverable = undelivered
        with vnic.subscribe("t", handle) as subscription, vnic.stream("t", keep=1) as stream:
            print(subscription.missed, stream.receive(timeout=0).payload)
        service = vnic.serve(answer, workers=2)
        try:
            reply: Message = vnic.request("b", b"", timeout=...)
        except (RequestTimeout, RequestFailed, NotFound, Backpressure) as error:
            print(error, sequence, accepted)
        else:
            print(reply)
        record: HealthRecord = vnic.find("b", timeout=1)
        vnic.send(record, b"")
        for message in vnic:
            if isinstance(message, Request):
                message.reply(b"")
        maybe: Message | None = vnic.try_receive()
        many: list[Message] = vnic.receive_many(5, timeout=1.0)
        print(maybe, many, service.wait(0))
        for event in vnic.watch(alias="b"):
            print(event.kind, event.record.uuid)


async def coroutine(request: AsyncRequest) -> bytes:
    await request.reply(b"")
    return b""


async def loop() -> None:
    async with AsyncVnic() as vnic:
        uuid: UUID = vnic.uuid
        sequence: int = await vnic.send(uuid, b"")
        message: Message = await vnic.receive(timeout=1.0)
        async with vnic.stream("t") as stream:
            async for publication in stream:
                print(publication.payload, sequence, message)
        await vnic.subscribe("t", handle)
        service = await vnic.serve(coroutine)
        await service.close()
        replies: list[Message] = await asyncio.gather(*(vnic.request("b", b"") for _ in range(3)))
        print(replies)
        async for other in vnic:
            if isinstance(other, AsyncRequest):
                await other.fail("no")
        await vnic.drain()


def test(vnet: RunningVnet) -> None:
    environ: dict[str, str] = vnet.environ
    with running_vnet(config={"ports_per_uid": 3}) as own:
        own.kill()
        own.restart()
        print(environ)


try:
    threads()
except Layer8Error as error:
    raise SystemExit(str(error)) from error
"""

WRONG = """
from layer8 import AsyncVnic, Vnic

with Vnic() as vnic:
    vnic.send("b", "text")
    vnic.send(5, b"")
    vnic.receive(timeout="1")
    vnic.serve(lambda: b"")

async def loop(vnic: AsyncVnic) -> int:
    return vnic.send("b", b"")
"""


def _check(program: Path) -> subprocess.CompletedProcess[str]:
    arguments = [
        "--strict",
        "--python-version",
        "3.11",
        "--cache-dir",
        str(program.parent / "cache"),
        "--no-error-summary",
    ]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *arguments, str(program)],
        cwd=program.parent,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_program_of_a_user_passes_mypy_strict_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    assert (ROOT / "layer8" / "py.typed").exists()
    program = tmp_path / "program.py"
    program.write_text(SAMPLE)
    done = _check(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    program.write_text(WRONG)
    complaints = _check(program).stdout
    for line in (5, 6, 7, 8, 11):
        assert f"program.py:{line}: error" in complaints, complaints
