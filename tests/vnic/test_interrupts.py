"""A signal handler that raises, as Ctrl-C does, ends every wait, and loses nothing."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layer8 import Closed, Message, Vnic
from layer8.testing import RunningVnet

MakeVnic = Callable[..., Vnic]
Fill = Callable[..., int]

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals are for the main thread"
)


class Interrupted(Exception):
    """What the signal handler raises."""


@contextlib.contextmanager
def interrupting(
    first: float, every: float = 0.0, handler: Callable[[int, object], None] | None = None
) -> Iterator[None]:
    """Raises Interrupted in this thread after `first` seconds, and again every so many."""

    def raise_it(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler or raise_it)
    signal.setitimer(signal.ITIMER_REAL, first, every)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


WAITS: dict[str, Callable[[Vnic], object]] = {
    "receive": lambda vnic: vnic.receive(),
    "receive with timeout": lambda vnic: vnic.receive(3600),
    "receive_many": lambda vnic: vnic.receive_many(),
    "iteration": lambda vnic: next(iter(vnic)),
    "request": lambda vnic: vnic.request("silent", b"", timeout=None),
    "find": lambda vnic: vnic.find("never", timeout=None),
    "send": lambda vnic: vnic.send("full", bytes(32 << 10), timeout=None),
    "send with headers": lambda vnic: vnic.send("full", bytes(32 << 10), headers={"a": "b"}, timeout=None),
    "large send": lambda vnic: vnic.send("full", bytes(3 << 20), timeout=None),
    "large request": lambda vnic: vnic.request("full", bytes(3 << 20), timeout=None),
    "reliable publish": lambda vnic: [
        vnic.publish("t", bytes(32 << 10), reliable=True, timeout=None) for _ in range(99)
    ],
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("follows", [False, True], ids=["alone", "beside another reader"])
def test_an_interrupt_ends_the_wait_and_the_vnic_goes_on(
    make_vnic: MakeVnic, fill: Fill, wait: str, follows: bool
) -> None:
    vnic, full, silent = make_vnic("waiting"), make_vnic("full"), make_vnic("silent")
    full.subscribe("t")
    if "send" in wait or "large" in wait:
        fill(vnic, "full")
    if follows:
        vnic.subscribe("something", lambda message: None)  # from now on the dispatcher reads
    with pytest.raises(Interrupted), interrupting(0.15):
        WAITS[wait](vnic)
    # Nothing of it is left over, and everything still works.
    while True:
        try:
            messages = full.receive_many(timeout=0.2)
        except TimeoutError:
            break
        assert all(len(message.payload) == 32 << 10 for message in messages)
    vnic.send(vnic.uuid, b"on")
    assert vnic.receive(30).payload == b"on"
    vnic.send("full", b"on", timeout=30)
    assert full.receive(30).payload == b"on"
    assert vnic.stats().outstanding == 0
    silent.close()


def test_an_interrupt_ends_a_subscribe_without_a_vnet(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    vnic = make_own(timeout=None)
    own_vnet.kill()
    with pytest.raises(Interrupted), interrupting(0.15):
        vnic.subscribe("t")
    with pytest.raises(Interrupted), interrupting(0.15):
        vnic.send("somebody", b"")
    own_vnet.restart()
    vnic.subscribe("t")
    vnic.publish("t", b"x")
    assert vnic.receive(30).payload == b"x"


def test_a_signal_handler_may_send_and_close(make_vnic: MakeVnic) -> None:
    vnic, other = make_vnic(), make_vnic("told")

    def handler(number: int, frame: object) -> None:
        vnic.send("told", b"going")
        with pytest.raises(RuntimeError, match="signal handler"):
            vnic.receive()
        vnic.close()

    with interrupting(0.1, 0.0, handler), pytest.raises(Closed):
        vnic.receive()
    assert other.receive(30).payload == b"going"


def test_an_interrupt_ends_an_attach(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), interrupting(0.15):
        Vnic(vnet=str(tmp_path / "none.sock"), attach_timeout=None)


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "with headers"])
def test_a_storm_of_interrupts_loses_and_doubles_no_message(
    make_vnic: MakeVnic, request: pytest.FixtureRequest, mixed: bool
) -> None:
    sender, receiver = make_vnic(), make_vnic("stormy")
    count = 30_000

    def send() -> None:
        for number in range(count):
            headers = {"a": "b"} if mixed and number % 3 == 0 else None
            sender.send("stormy", number.to_bytes(4, "little"), headers=headers, timeout=60)

    thread = threading.Thread(target=send)
    thread.start()
    taken: list[list[Message]] = []
    armed = False
    interrupts = 0

    def raise_once(number: int, frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    gc.collect()
    gc.disable()  # what it calls swallows exceptions, and with them interrupts
    request.addfinalizer(gc.enable)
    with interrupting(0.001, 0.0007, raise_once):
        while sum(map(len, taken)) < count:
            try:
                armed = True
                for _ in range(100):
                    # extend and map: what receive_many returns is in `taken` before Python looks at signals again.
                    taken.extend(map(receiver.receive_many, (64,), (5.0,)))
                armed = False
            except (Interrupted, TimeoutError):
                interrupts += 1
    thread.join()
    got = [int.from_bytes(message.payload, "little") for batch in taken for message in batch]
    assert interrupts > 10
    assert got == list(range(count))
