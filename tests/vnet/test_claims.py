"""A Vnic that writes into its ring what it is not: the switch believes its own tables and nothing that stands there."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from layer8 import Message, Vnic
from layer8.dataplane import Segment
from layer8.protocol.control import Grant, Release
from layer8.testing import RunningVnet

PATIENCE = 30.0
_RECORD = struct.Struct("<IBBHHHHH16sQQHHIII")
_RING, _TAIL = 0x8000, 0x1000


class Forger:
    """A correct attach, and then records written by hand."""

    def __init__(self, vnet: RunningVnet, connect: Callable[..., Any]) -> None:
        self.raw = connect(vnet)
        self.segment = Segment.create(512 << 10, self.raw.uuid)
        self.memory = mmap.mmap(self.segment.fd, 0)
        self.raw.attach(segment=self.segment.fd)
        self.sequence = 0

    def write(
        self,
        payload: bytes,
        *,
        slot: int,
        generation: int,
        source: bytes = bytes(16),
        principal: int = 0,
        sequence: int | None = None,
    ) -> None:
        self.sequence += 1
        number = self.sequence if sequence is None else sequence
        record = _RECORD.pack(len(payload), 1, 3, 0, slot, generation, 0, 0, source, number, 0, 0, 1, principal, 0, 0)
        (tail,) = struct.unpack_from("<Q", self.memory, _TAIL)
        whole = record + payload + bytes(-len(payload) % 64)
        self.memory[_RING + tail : _RING + tail + len(whole)] = whole
        struct.pack_into("<Q", self.memory, _TAIL, tail + len(whole))
        os.eventfd_write(self.raw.doorbells[0], 1)

    def close(self) -> None:
        self.memory.close()
        self.segment.close()


@pytest.fixture
def forger(vnet: RunningVnet, connect: Callable[..., Any]) -> Iterator[Forger]:
    with closing(Forger(vnet, connect)) as forger:
        yield forger


@pytest.fixture
def store(vnet: RunningVnet) -> Iterator[Vnic]:
    with Vnic("store", vnet=str(vnet.socket)) as store:
        yield store


def _next(store: Vnic) -> Message:
    return store.receive(timeout=PATIENCE)


def test_a_record_that_claims_another_source_comes_with_the_true_one(forger: Forger, store: Vnic) -> None:
    forger.raw.ask(Grant, slot=0, generation=1, kind="alias", name="store")
    for claimed in (store.uuid, uuid4()):
        forger.write(b"forged", slot=0, generation=1, source=claimed.bytes, principal=77)
        message = _next(store)
        assert (message.source, message.payload) == (forger.raw.uuid, b"forged")
        assert message.principal == f"layer8://local/uid/{os.geteuid()}"


def test_a_handle_of_somebody_else_or_of_nobody_reaches_nobody(
    forger: Forger, store: Vnic, vnet: RunningVnet, connect: Callable[..., Any]
) -> None:
    other = connect(vnet)
    other.attach()
    other.ask(Grant, slot=5, generation=9, kind="alias", name="store")
    forger.raw.ask(Grant, slot=0, generation=1, kind="alias", name="store")
    forger.write(b"by another's handle", slot=5, generation=9)
    forger.write(b"by no handle", slot=4095, generation=0)
    forger.write(b"by its own", slot=0, generation=1)
    assert _next(store).payload == b"by its own"


def test_a_handle_given_back_or_granted_again_is_not_the_old_one(forger: Forger, store: Vnic) -> None:
    forger.raw.ask(Grant, slot=0, generation=1, kind="alias", name="store")
    forger.raw.ask(Release, slot=0, generation=1)
    forger.write(b"given back", slot=0, generation=1)
    forger.raw.ask(Grant, slot=0, generation=2, kind="alias", name="store")
    forger.write(b"of the one before", slot=0, generation=1)
    forger.write(b"granted again", slot=0, generation=2)
    assert _next(store).payload == b"granted again"
    answer = forger.raw.ask(Grant, slot=1, generation=1, kind="alias", name="store")
    assert type(answer).__name__ == "Done"
    answer = forger.raw.ask(Grant, slot=0, generation=1, kind="alias", name="store")
    assert answer.code == "stale"
