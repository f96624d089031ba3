"""A Vnet is killed under load, again and again, and the books of senders and receivers must agree.

The bookkeeping is the programs' own (books.py): what each sender was told, and what each receiver got.
LAYER8_ADOPTION_KILLS: how often the Vnet is killed at random times. LAYER8_KILL_POINT_ROUNDS: how often at each point.
scripts/adoption-soak sets both.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from layer8 import NotAuthorized, Undeliverable, Vnic
from layer8.testing import RunningVnet, running_vnet
from layer8.vnet import status

from .books import Books, Mortals
from .conftest import standing_still

KILLS = int(os.environ.get("LAYER8_ADOPTION_KILLS", "5"))
ROUNDS = int(os.environ.get("LAYER8_KILL_POINT_ROUNDS", "1"))
POINTS = (*range(1, 12), *range(13, 17))  # KILL_POINT(n) in the C core
HELD, REFUSED, ONCE = 13, 11, 14  # reached when something is held; when it is refused; once in a Vnet's life
MOVED = 8  # reached when what is held for one is in the way of what is held for others
PARTS = 2 if ROUNDS == 1 else len(POINTS)
STORM = 25  # deaths at a point before the books are compared
WATCHDOG = pytest.mark.timeout(max(400, 30 * max(KILLS, ROUNDS)))  # several processes, on a busy machine too


@pytest.fixture(scope="module")
def total() -> Iterator[Counter[str]]:
    """What all storms had together; said at the end."""
    total: Counter[str] = Counter()
    yield total
    if total:
        print(f"\nin all: {dict(total)}; none lost, none doubled, none out of order where no test failed")


@pytest.fixture
def denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file from which a Vnet with ChangingPolicy reads what is not allowed, when it starts."""
    policy = tmp_path / "policy"
    policy.write_text("")
    monkeypatch.setenv("DENIED", str(policy))
    monkeypatch.syspath_prepend(Path(__file__).parent / "programs")
    return policy


@WATCHDOG
@pytest.mark.parametrize("vnet", [{"security": "changing_policy:ChangingPolicy"}], indirect=True, ids=["policy"])
def test_a_vnet_killed_under_load_loses_and_doubles_nothing(
    denied: Path, vnet: RunningVnet, run: Callable[..., Any], tmp_path: Path, total: Counter[str]
) -> None:
    """While others come, stand still, are killed, do harm or present another's uuid, and the policy changes."""
    chance = random.Random(KILLS)
    books = Books(run, tmp_path, 1)
    mortals = Mortals(run, KILLS, books.uuids)
    try:
        for number in range(KILLS):
            doomed = books.doom() if number % 5 == 2 else None
            time.sleep(chance.choice([0.0, 0.05, 0.2, 0.4, 0.8]))
            vnet.kill()
            if doomed is not None:
                doomed.kill()  # and never comes back
            if number % 3 == 2:
                denied.write_text("" if denied.read_text() else "send doomed\n")
            vnet.restart()
            if number % 20 == 19:
                print(f"{number + 1} kills at random times", flush=True)
        time.sleep(0.5)
    finally:
        mortals.end()
    figures = books.check()
    total.update(figures, **{"kills at random times": KILLS})
    print(figures, mortals.figures)
    assert figures["attachments"] > 1
    assert mortals.figures["impostor refused"] > 0


@WATCHDOG
def test_a_vnet_killed_while_it_adopts_is_followed_by_one_that_adopts(
    vnet: RunningVnet, run: Callable[..., Any], tmp_path: Path
) -> None:
    books = Books(run, tmp_path, 7)
    time.sleep(0.3)
    for n in range(10):
        vnet.kill()
        vnet.restart()
        time.sleep(n * 0.004)  # its Vnics are on their way back
    time.sleep(0.5)
    print(books.check())


def test_a_clean_restart_loses_and_doubles_nothing(vnet: RunningVnet, run: Callable[..., Any], tmp_path: Path) -> None:
    books = Books(run, tmp_path, 11)
    for _ in range(2):
        time.sleep(0.3)
        vnet.restart()
    time.sleep(0.3)
    print(books.check())


@WATCHDOG
@pytest.mark.parametrize(
    "vnet", [{"max_ports": 2000, "ports_per_uid": 2000, "bytes_per_uid": 1 << 40}], indirect=True, ids=["large"]
)
def test_a_thousand_ports_come_back(vnet: RunningVnet, run: Callable[..., Any], make_vnic: Callable[..., Vnic]) -> None:
    crowds = [run("crowd", 250) for _ in range(4)]
    for crowd in crowds:
        crowd.wait_for("ready")
    for crowd in crowds:
        crowd.tell("round")
    for crowd in crowds:
        crowd.wait_for("sent")
    vnet.kill()
    vnet.restart()
    for crowd in crowds:
        crowd.wait_for("came")  # by now or before
        crowd.tell("round")  # through which nobody gets who has not come back
        crowd.wait_for("sent")
        assert crowd.wait_for("came") == "250"
    assert len(make_vnic(timeout=60).health(kind="vnic", state="UP")) == 1001


def test_a_policy_that_changed_during_the_outage_is_the_one_that_holds(
    denied: Path, stopped: Callable[[int | None], contextlib.AbstractContextManager[None]]
) -> None:
    reported: list[Undeliverable] = []
    with ExitStack() as stack:
        vnet = stack.enter_context(running_vnet(config={"security": "changing_policy:ChangingPolicy"}))
        place = str(vnet.socket)
        sender = stack.enter_context(Vnic(vnet=place, timeout=60, attach_timeout=60))
        receiver = stack.enter_context(Vnic("store", vnet=place, timeout=60, attach_timeout=60))
        sender.on_undeliverable = reported.append
        receiver.subscribe("open")
        receiver.subscribe("closed")
        sender.send("store", b"x")
        sender.send(receiver.uuid, b"x")
        sender.publish("open", b"x")
        for _ in range(3):
            receiver.receive(60)
        with stopped(vnet.pid):  # so that what is sent now stands in the ring
            refused = sender.send("store", b"not any more")
            sender.send(receiver.uuid, b"still allowed")
            sender.publish("open", b"still allowed")
            vnet.kill()
        denied.write_text("send store\nsubscribe closed\n")
        vnet.restart()
        got = [(message.topic, message.payload) for message in (receiver.receive(60), receiver.receive(60))]
        assert sorted(got, key=str) == [("open", b"still allowed"), (None, b"still allowed")]
        with pytest.raises(NotAuthorized):
            sender.send("store", b"new")
        deadline = time.monotonic() + 30
        while not reported and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [(report.to, report.sequence, report.reason) for report in reported] == [("store", refused, "unknown")]
        sender.publish("closed", b"whose subscription was not renewed")
        sender.publish("open", b"last")
        assert receiver.receive(60).payload == b"last"


@contextlib.contextmanager
def daemon(directory: Path, *names: str) -> Iterator[subprocess.Popen[str]]:
    """One process with several Vnets; killed at the end."""
    config = directory / "vnet.toml"
    config.write_text("".join(f"[vnet.{name}]\n" for name in names))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "layer8.cli", "vnet", "--config", str(config), "--parent", str(os.getpid())],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(directory)},
    )
    try:
        assert process.stdout is not None
        assert any(line.strip() == "ready" for line in process.stdout)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_each_vnet_of_a_daemon_gets_its_own_vnics_back() -> None:
    """Several Vnets die at once, and come back with what was on its way on each."""
    directory = Path(tempfile.mkdtemp(prefix="l8-"))
    vnics: dict[str, tuple[Vnic, Vnic]] = {}
    try:
        for round_ in range(3):
            with daemon(directory, "a", "b"):
                for name in ("a", "b"):
                    if round_ == 0:
                        place = str(directory / "layer8" / f"{name}.sock")
                        vnics[name] = Vnic(vnet=place, timeout=60), Vnic("same-alias", vnet=place, timeout=60)
                    else:
                        got = [vnics[name][1].receive(60).payload.decode() for _ in range(50)]
                        assert got == [f"{name} {number}" for number in range(50)]
                    for number in range(50):
                        vnics[name][0].send("same-alias", f"{name} {number}".encode())
        for name, (_, receiver) in vnics.items():
            while receiver.state != "away":
                time.sleep(0.01)
            came = [message.payload.decode() for message in iter(receiver.try_receive, None)]
            assert came == [f"{name} {number}" for number in range(len(came))]
    finally:
        for vnic in (vnic for pair in vnics.values() for vnic in pair):
            vnic.close(0)
        for name in ("a", "b"):
            status.remove(directory / "layer8" / f"{name}.sock")
        shutil.rmtree(directory)


def kill_at(
    vnet: RunningVnet, monkeypatch: pytest.MonkeyPatch, books: Books, point: int, count: int, patience: float
) -> bool:
    """Kills the Vnet and starts one that dies at this point. Whether it has died there, soon enough (seconds)."""
    if vnet.pid is None and point in (REFUSED, HELD):
        monkeypatch.delenv("LAYER8_KILL_AT", raising=False)
        vnet.restart()
    if point == REFUSED:  # what is on its way to somebody who does not come back
        doomed = books.doom()
        time.sleep(patience / 5)
        with standing_still(vnet.pid):
            time.sleep(patience / 20)  # in the ring, and not chosen yet
            doomed.kill()
            vnet.kill()
    else:
        with books.laggard.stopped() if point == HELD else contextlib.nullcontext():
            time.sleep(patience / 5 if point == HELD else 0)
            vnet.kill()
    monkeypatch.setenv("LAYER8_KILL_AT", f"{point}:{count}")
    try:
        vnet.restart()
    except RuntimeError:  # it died before it was ready
        return True
    if point == MOVED:
        time.sleep(patience / 5)  # all are back
    with books.laggard.stopped() if point == MOVED else contextlib.nullcontext():
        deadline = time.monotonic() + (3 * patience if point == MOVED else patience)
        while vnet.pid is not None and time.monotonic() < deadline:
            time.sleep(0.005)
    return vnet.pid is None


@WATCHDOG
@pytest.mark.parametrize("part", range(PARTS))
def test_a_vnet_killed_at_each_point_loses_and_doubles_nothing(
    vnet: RunningVnet,
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_points: str,
    total: Counter[str],
    part: int,
) -> None:
    chance = random.Random(part)
    monkeypatch.setattr(sys, "path", [kill_points, *sys.path])  # the Vnet's alone: ours is loaded
    died: Counter[int] = Counter()
    tries: Counter[int] = Counter()
    for storm in range(0, ROUNDS, STORM):
        before = sum(died.values())
        books = Books(run, tmp_path, 100 + part + storm)
        for point in POINTS[part::PARTS]:
            most = 1 if ROUNDS == 1 or point in {HELD, REFUSED, ONCE, MOVED} else 1000  # times that it is passed before
            while died[point] < min(ROUNDS, storm + STORM):
                tries[point] += 1
                assert tries[point] <= 3 * (died[point] + 5), f"point {point} is not reached"
                count = min(most, chance.choice([1, 3, 30, 300, 1000]))
                if kill_at(vnet, monkeypatch, books, point, count, patience=1.5):
                    died[point] += 1
                else:
                    most = max(1, count // 3)
            monkeypatch.delenv("LAYER8_KILL_AT", raising=False)
        vnet.kill()
        vnet.restart()
        figures = books.check()
        total.update(figures, **{"deaths at points": sum(died.values()) - before})
        print(f"died {dict(died)} times at points, of {sum(tries.values())} tries", figures, flush=True)
        books.close()
