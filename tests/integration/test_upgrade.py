"""A Vnet is replaced by one of another version, forwards and back, under programs of both; and by one that cannot go on
with them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layer8 import Backpressure, Layer8Error, Undeliverable, Unreachable, Vnic
from layer8.dataplane import LAYOUT_VERSION
from layer8.protocol.control import PROTOCOL_VERSION
from layer8.testing import RunningVnet
from layer8.version import VERSION
from layer8.vnet.status import STATUS_VERSION

from .books import Books
from .conftest import Program, standing_still
from .versions import Version, command, core_of_another_layout, replace

NEWER = Version("7.0.0", more=True)
WATCHDOG = pytest.mark.timeout(400)


@pytest.fixture
def run_of(vnet: RunningVnet) -> Iterator[Callable[..., Program]]:
    """`run_of(version, name, …)`: a program of that version on the test's Vnet; None: of the tests' own."""
    programs: list[Program] = []

    def start(version: Version | None, name: str, *arguments: object) -> Program:
        environ = {**vnet.environ, **(version.environ if version is not None else {})}
        programs.append(Program(name, *map(str, arguments), environ=environ))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@pytest.fixture(scope="module")
def another_layout() -> Version:
    return Version("8.0.0", core=core_of_another_layout())


@pytest.fixture
def incompatible(request: pytest.FixtureRequest) -> Version:
    """A version whose Vnet cannot be used by this one's programs, and the other way round. The parameter says why."""
    if request.param == "layout":
        layout: Version = request.getfixturevalue("another_layout")
        return layout
    return Version("8.0.0", protocol=PROTOCOL_VERSION + 1)


INCOMPATIBLE = pytest.mark.parametrize("incompatible", ["layout", "protocol"], indirect=True)
QUICK = pytest.mark.parametrize("vnet", [{"return_patience": 1.0}], indirect=True, ids=["quick"])


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def numbered(number: int) -> bytes:
    return number.to_bytes(4, "little") + bytes(30_000)


def refusal(vnic: Vnic) -> str:
    """What a send says that nobody takes."""
    with pytest.raises(Backpressure) as raised:
        vnic.send("reader", b"never accepted", timeout=0.05)
    return str(raised.value)


@WATCHDOG
def test_an_upgrade_and_a_downgrade_under_load_lose_and_double_nothing(
    vnet: RunningVnet,
    run_of: Callable[..., Program],
    make_vnic: Callable[..., Vnic],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Programs of both versions on Vnets of both, each way by a clean stop and by a kill."""
    started = 0

    def start(name: str, *arguments: object) -> Program:
        nonlocal started
        started += 1
        return run_of(NEWER if started % 2 else None, name, *arguments)

    older = make_vnic("noted by an older one")
    replace(vnet, NEWER)
    books = Books(start, tmp_path, 23)
    watcher = make_vnic("watcher", timeout=60)
    for version, kill in ((None, False), (NEWER, False), (None, True), (NEWER, True)):
        time.sleep(0.3)
        replace(vnet, version, kill=kill)
        watcher.send("watcher", b"")
        watcher.receive(60)  # all are back: messages move
    time.sleep(0.3)
    figures = books.check()
    print(figures)
    assert figures["attachments"] == 5
    assert older.stats().attachments == 6
    assert "begins anew" not in capfd.readouterr().err + caplog.text  # everybody was known again


@WATCHDOG
def test_everybody_can_see_which_version_a_vnet_and_each_vnic_is(
    vnet: RunningVnet, run_of: Callable[..., Program]
) -> None:
    with NEWER.starting():
        vnet.restart()
    for name, version in (("now", None), ("later", NEWER)):
        run_of(version, "receive", name).wait_for("ready")
    entries = [path.read_text() for path in vnet.socket.with_name("default.state").iterdir()]
    assert ["unheard of" in entry for entry in entries] == [True, True]  # it is another one indeed
    wanted = {"now": VERSION, "later": "7.0.0", None: "7.0.0"}
    for version in (None, NEWER):
        records = [json.loads(line) for line in command(vnet, version, "--json", "ps").stdout.splitlines()]
        assert {record["alias"]: record["version"] for record in records} == wanted
        assert "layer8 7.0.0" in command(vnet, version, "top", "-n", "1").stdout
    found = command(vnet, None, "doctor").stdout
    assert f"it runs layer8 7.0.0, and this command is of layer8 {VERSION}" in found
    with standing_still(vnet.pid):
        frame = json.loads(command(vnet, None, "--json", "top", "-n", "1").stdout)
    assert frame["source"] == "status segment"
    assert {record["alias"]: record["version"] for record in frame["records"]} == wanted


def test_a_status_segment_that_cannot_be_read_says_which_command_can(vnet: RunningVnet) -> None:
    replace(vnet, Version("8.0.0", status=STATUS_VERSION + 1))
    done = command(vnet, None, "events")
    assert done.returncode == 1
    assert "use the `layer8` command that is installed with the Vnet" in done.stderr


@WATCHDOG
@QUICK
@INCOMPATIBLE
def test_a_program_that_comes_to_a_vnet_it_cannot_use_is_told_what_to_do(
    vnet: RunningVnet, incompatible: Version, request: pytest.FixtureRequest
) -> None:
    """And one of the Vnet's own version is served."""
    older = command(vnet, incompatible, "send", "nobody", "x")
    assert older.returncode == 1
    assert f"the Vnet runs layer8 {VERSION}" in older.stderr
    assert "restart the Vnet with the newer layer8" in older.stderr
    replace(vnet, incompatible)
    with pytest.raises(Layer8Error) as raised:
        Vnic(vnet=str(vnet.socket), attach_timeout=30)
    what, number = ("segment layout", LAYOUT_VERSION + 1)
    if "protocol" in request.node.callspec.id:
        what, number = ("control protocol", PROTOCOL_VERSION + 1)
    assert f"the Vnet runs layer8 8.0.0 with {what} {number}" in str(raised.value)
    assert f"layer8 {VERSION}, has {number - 1}: restart this program with the newer library" in str(raised.value)
    assert command(vnet, incompatible, "ping").returncode == 0
    seen = command(vnet, None, "ps")  # a tool has no segment
    assert (seen.returncode == 0) == (what == "segment layout")


@WATCHDOG
@QUICK
@INCOMPATIBLE
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_who_was_attached_waits_for_a_vnet_it_can_use_and_goes_on(
    vnet: RunningVnet,
    incompatible: Version,
    kill: bool,
    caplog: pytest.LogCaptureFixture,
    run_of: Callable[..., Program],
    make_vnic: Callable[..., Vnic],
) -> None:
    caplog.set_level(logging.INFO, "layer8.vnic")
    reader, writer, asker = make_vnic("reader"), make_vnic("writer"), make_vnic("asker", timeout=0.2)
    reported: list[Undeliverable] = []
    writer.on_undeliverable = reported.append
    reader.subscribe("news")
    sent = [numbered(number) for number in range(16)]
    for payload in sent:
        writer.send("reader", payload)
    until(lambda: (port := writer.stats().port) is not None and not port.transmit_fill, "all of it is delivered")
    with standing_still(vnet.pid):
        while writer.try_send("reader", numbered(len(sent))):  # stands in the ring; not all of it fits into the other
            sent.append(numbered(len(sent)))
        if kill:
            vnet.kill()
    replace(vnet, incompatible, kill=kill)
    until(lambda: (writer.state, reader.state, asker.state) == ("away",) * 3, "they have lost their Vnet")
    until(lambda: "restart this program with the newer library" in refusal(writer), "it says why")
    assert f"layer8 {VERSION}" in refusal(writer)
    with pytest.raises(Backpressure, match=r"the Vnet runs layer8 8\.0\.0"):
        asker.subscribe("news")
    until(lambda: "restart this program with the newer library" in refusal(asker), "it says why")
    with pytest.raises(Unreachable, match=r"the Vnet runs layer8 8\.0\.0"):
        asker.health()
    came = [reader.receive(30).payload for _ in range(16)]  # what was delivered before
    run_of(incompatible, "receive", "stranger").wait_for("ready")  # of the Vnet's own version
    replace(vnet, None, kill=kill)
    while len(came) < len(sent):
        came.append(reader.receive(60).payload)
    writer.send("reader", b"last", timeout=60)
    came.append(reader.receive(60).payload)
    assert [payload[:4] for payload in came] == [*(payload[:4] for payload in sent), b"last"]
    assert reader.stats().attachments == writer.stats().attachments == 2
    writer.publish("news", b"adopted")
    assert reader.receive(30).payload == b"adopted"
    assert not reported
    refusals = [record.getMessage() for record in caplog.records if "trying on" in record.getMessage()]
    assert len(refusals) == 3, refusals  # each said it once
