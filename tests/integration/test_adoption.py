"""A Vnet is killed under load, again and again, and the books of senders and receivers must agree.

The bookkeeping is the programs' own: what each sender was told, and what each receiver got. LAYER8_ADOPTION_KILLS: how
often the Vnet is killed at random times (scripts/adoption-soak). LAYER8_KILL_POINT_ROUNDS: how often at each point.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
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

KILLS = int(os.environ.get("LAYER8_ADOPTION_KILLS", "5"))
ROUNDS = int(os.environ.get("LAYER8_KILL_POINT_ROUNDS", "1"))
POINTS = (*range(1, 12), *range(13, 17))  # KILL_POINT(n) in the C core
RARE = {8, 11, 13, 14}  # that a Vnet may not come to before the next round
PARTS = 2 if ROUNDS == 1 else len(POINTS)
WATCHDOG = pytest.mark.timeout(max(400, 20 * max(KILLS, ROUNDS)))  # several processes, on a busy machine too
RELIABLE = ("reader", "tried", "pool", "reliable")


class Books:
    """The programs of one storm, and what their books say in the end."""

    def __init__(self, start: Callable[..., Any], directory: Path, seed: int) -> None:
        self._directory = directory
        self._receivers = [
            start("ledger_receiver", str(directory / "r0"), "reader", "pool", "pool", "topics"),
            start("ledger_receiver", str(directory / "r1"), "pool", "pool", "topics", "topics", "server"),
        ]
        for receiver in self._receivers:
            receiver.wait_for("ready")
        self._senders = [start("ledger_sender", str(directory / f"s{n}"), str(seed + n)) for n in range(2)]
        for sender in self._senders:
            sender.wait_for("ready")

    def _read(self, program: Any, name: str) -> Any:
        program.tell("report")
        program.wait_for("done")
        return json.loads((self._directory / name).read_text())

    def check(self) -> dict[str, int]:
        """Ends the load, waits until everything has come, and compares the books. Figures of the storm."""
        senders = [self._read(sender, f"s{n}") for n, sender in enumerate(self._senders)]
        accepted = {(book["uuid"]): book for book in senders}
        deadline = time.monotonic() + 30
        while True:
            received = [book for n, one in enumerate(self._receivers) for book in self._read(one, f"r{n}")]
            problems = _compare(accepted, received)
            if not problems or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        senders = [self._read(sender, f"s{n}") for n, sender in enumerate(self._senders)]
        for book in senders:
            assert book["reported"] == [], book["reported"][:5]
            assert book["hanging"] == [False, False]
        assert not problems, problems[:10]
        outcomes = Counter(outcome for book in senders for _, outcome in book["requests"])
        assert set(outcomes) <= {"", "unknown", "Unreachable", "Backpressure"}, outcomes
        return {
            "accepted": sum(len(book["accepted"]) for book in senders),
            "refused": sum(len(book["refused"]) for book in senders),
            "requests": sum(outcomes.values()),
            "unknown": outcomes["unknown"],
            "doubles dropped": sum(book["doubles"] for book in received),
            "attachments": max(book["attachments"] for book in senders),
        }


def _compare(senders: dict[str, Any], received: list[Any]) -> list[str]:
    problems: list[str] = []
    for receiver in received:
        if receiver["role"] != "server":  # there it is a number of the payload
            times = Counter((source, sequence) for source, sequence, *_ in receiver["came"])
            problems += [f"{what} came {n} times to {receiver['role']}" for what, n in times.items() if n > 1]
    for uuid, book in senders.items():
        known = {sequence: (name, size, check) for name, sequence, size, check in book["accepted"] if sequence}
        tried = Counter((size, check) for name, sequence, size, check in book["accepted"] if not sequence)
        expected = Counter(name for name, _, _, _ in book["accepted"])
        got: Counter[str] = Counter()
        for receiver in received:
            last: dict[str, int] = {}
            seen: set[int] = set()
            for source, sequence, topic, size, check in receiver["came"]:
                if source != uuid:
                    continue
                if receiver["role"] == "server":
                    if sequence in seen:
                        problems.append(f"request {sequence} was carried out twice")
                    seen.add(sequence)
                    continue
                if sequence in known:
                    name, *content = known[sequence]
                    if content != [size, check]:
                        problems.append(f"{name} {sequence} is not what was sent")
                elif tried[size, check] > 0 and receiver["role"] == "reader":
                    tried[size, check] -= 1
                    name = "tried"
                else:
                    problems.append(f"{receiver['role']} got {sequence} ({topic!r}, {size} bytes), never accepted")
                    continue
                if sequence in seen:
                    problems.append(f"{name} {sequence} came twice to {receiver['role']}")
                seen.add(sequence)
                order = "reader" if name == "tried" else name  # the same name, as the sender used it
                if order != "pool" and sequence < last.get(order, 0):
                    problems.append(f"{name} {sequence} after {last[order]} at {receiver['role']}")
                last[order] = sequence
                got[name] += 1
        for name in RELIABLE:
            copies = 3 if name == "reliable" else 1
            if got[name] != expected[name] * copies:
                problems.append(f"{name}: {got[name]} of {expected[name] * copies}")
    return problems


class Mortals:
    """Programs that come, stand still and are killed, until `end`, while others keep books."""

    def __init__(self, start: Callable[..., Any], seed: int) -> None:
        self._start = start
        self._chance = random.Random(seed)
        self._alive = [start("mortal", seed)]
        self._ended = threading.Event()
        self.killed = self.stopped = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(self._chance.choice([0.2, 0.5, 1.0])):
            number += 1
            one = self._chance.choice(self._alive)
            match self._chance.randrange(3):
                case 0 if len(self._alive) < 3:
                    self._alive.append(self._start("mortal", number))
                case 1 if len(self._alive) > 1:
                    self._alive.remove(one)
                    one.kill()
                    self.killed += 1
                case 2:
                    with one.stopped():
                        self._ended.wait(self._chance.choice([0.01, 0.3]))
                    self.stopped += 1

    def end(self) -> None:
        """All are killed but one, which has a Vnet from now on."""
        self._ended.set()
        self._thread.join()
        for one in self._alive[1:]:
            one.kill()


@WATCHDOG
def test_a_vnet_killed_under_load_loses_and_doubles_nothing(
    vnet: RunningVnet, run: Callable[..., Any], tmp_path: Path, record_property: Callable[..., None]
) -> None:
    chance = random.Random(KILLS)
    books = Books(run, tmp_path, 1)
    mortals = Mortals(run, KILLS)
    try:
        for _ in range(KILLS):
            time.sleep(chance.choice([0.0, 0.05, 0.2, 0.4, 0.8]))
            vnet.kill()
            vnet.restart()
        time.sleep(0.5)
    finally:
        mortals.end()
    figures = books.check() | {"killed": mortals.killed, "stopped": mortals.stopped}
    print(figures)
    record_property("storm", str(figures))
    assert figures["attachments"] > 1


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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped: Callable[[int | None], contextlib.AbstractContextManager[None]],
) -> None:
    policy = tmp_path / "policy"
    policy.write_text("")
    monkeypatch.setenv("DENIED", str(policy))
    monkeypatch.syspath_prepend(Path(__file__).parent / "programs")
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
        policy.write_text("send store\nsubscribe closed\n")
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


def kill_at(vnet: RunningVnet, monkeypatch: pytest.MonkeyPatch, point: int, count: int) -> bool:
    """Kills the Vnet and starts one that dies at this point. Whether it has died there, soon enough."""
    vnet.kill()
    monkeypatch.setenv("LAYER8_KILL_AT", f"{point}:{count}")
    try:
        vnet.restart()
    except RuntimeError:  # it died before it was ready
        return True
    deadline = time.monotonic() + 1.5
    while vnet.pid is not None and time.monotonic() < deadline:
        time.sleep(0.005)
    return vnet.pid is None


@pytest.fixture(scope="session")
def kill_points() -> str:
    """A directory for the search path of a Vnet that shall die at a certain point."""
    root = Path(__file__).parents[2]
    directory = root / "build" / "kill-points"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:  # several workers may want it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        build = f'source "{root}/scripts/environment.sh" && layer8_kill_points "{directory}"'
        subprocess.run(["bash", "-euc", build], check=True)
    return str(directory)


@WATCHDOG
@pytest.mark.parametrize("part", range(PARTS))
def test_a_vnet_killed_at_each_point_loses_and_doubles_nothing(
    vnet: RunningVnet,
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_points: str,
    part: int,
) -> None:
    points = POINTS[part::PARTS]
    chance = random.Random(part)
    monkeypatch.setattr(sys, "path", [kill_points, *sys.path])  # the Vnet's alone: ours is loaded
    books = Books(run, tmp_path, 100 + part)
    died: Counter[int] = Counter()
    for _ in range(ROUNDS):
        for point in points:
            often = ROUNDS > 1 and point not in RARE
            died[point] += kill_at(vnet, monkeypatch, point, chance.choice([1, 3, 30, 300, 1000]) if often else 1)
    monkeypatch.delenv("LAYER8_KILL_AT")
    vnet.kill()
    vnet.restart()
    figures = books.check()
    print(f"died {dict(died)} times of {ROUNDS} at each point", figures)
    assert sum(died.values()) > 0 or RARE.issuperset(points)
