"""Health over hosts: deaths are told of with their reasons, and the commands show the whole overlay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from layer8 import Layer8Error, Vnic
from layer8.health_record import State

Until = Callable[[Callable[[], object], str], None]
ENGINE = Path(__file__).parents[2] / "health" / "shared_engine.py"
PATIENCE = 60.0


def layer8(hosts: Any, host: str, *arguments: str) -> str:
    """What this command prints for somebody on this host."""
    environ = hosts.vnets[host].environ | {"LAYER8_IDENTITY": hosts.overlay.vnic(), "COLUMNS": "400"}
    command = [sys.executable, "-m", "layer8.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=PATIENCE, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def lines_of(text: str, word: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if word in line.split()]


@contextmanager
def traffic(sender: Vnic, receiver: Vnic) -> Iterator[None]:
    """Messages to it until the end, and all of them read."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.005):
            sender.send(receiver.uuid, bytes(1000), timeout=PATIENCE)

    def read() -> None:
        while not ended.is_set():
            try:
                receiver.receive(timeout=0.2)
            except TimeoutError:
                continue

    threads = [threading.Thread(target=work, daemon=True) for work in (send, read)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)


def test_a_vnic_killed_on_one_host_is_down_on_the_others_with_its_reason(hosts: Any, spawn: Any, until: Until) -> None:
    hosts.mesh("a", "b", "c")
    lookers = [hosts.vnic(host) for host in "ac"]
    victim = spawn(hosts, "b", "keep", "victim")
    uuid = UUID(victim.uuid)
    watches = [vnic.watch(alias="victim") for vnic in lookers]
    for watch in watches:
        joined = watch.receive(PATIENCE)
        assert (joined.kind, joined.record.uuid, joined.record.host) == ("joined", uuid, "b")
    victim.kill()
    for watch, looker in zip(watches, lookers, strict=True):
        left = watch.receive(PATIENCE)
        while left.kind == "changed":
            left = watch.receive(PATIENCE)
        assert (left.kind, left.record.uuid, left.record.state) == ("left", uuid, State.DOWN)
        assert left.reason == "killed by signal 9 (SIGKILL)"
        (record,) = looker.health(uuid=uuid)
        assert (record.state, record.host, record.reason) == (State.DOWN, "b", "killed by signal 9 (SIGKILL)")
        assert uuid not in {record.uuid for record in looker.health(alias="victim", state=State.UP)}
        watch.close()


def test_a_vnic_stopped_on_one_host_is_stopped_on_another_until_it_goes_on(hosts: Any, spawn: Any) -> None:
    hosts.mesh("a", "b")
    looker = hosts.vnic("a")
    sleeper = spawn(hosts, "b", "keep", "sleeper")
    with looker.watch(alias="sleeper") as watch:
        for how, state in (
            (None, State.UP),
            (signal.SIGSTOP, State.STOPPED),
            (signal.SIGCONT, State.UP),
        ):
            if how is not None:
                os.kill(sleeper.process.pid, how)
            while watch.receive(PATIENCE).record.state is not state:
                pass


def test_watches_see_the_vnics_of_a_stopped_host_gone_and_back(hosts: Any, spawn: Any, until: Until) -> None:
    hosts.mesh("a", "b", keep_alive=0.2, give_up=1.0)
    looker, there = hosts.vnic("a"), spawn(hosts, "b", "keep", "there")
    pid = hosts.vnets["b"].pid

    def links_of_b() -> tuple[object, ...]:
        (vnet,) = looker.health(kind="vnet", host="b")
        return tuple((link.host, link.state) for link in vnet.links)

    until(lambda: links_of_b() == (("a", State.UP),), "its link")
    with looker.watch(host="b", alias="there") as watch:
        assert watch.receive(PATIENCE).record.uuid == UUID(there.uuid)
        os.kill(pid, signal.SIGSTOP)
        states = [watch.receive(PATIENCE).record.state for _ in range(2)]
        assert states == [State.SUSPECT, State.UNREACHABLE]
        until(lambda: links_of_b() == (), "what it last said of its links is shown no more")
        os.kill(pid, signal.SIGCONT)
        while watch.receive(PATIENCE).record.state is not State.UP:
            pass
    until(lambda: links_of_b() == (("a", State.UP),), "its link again")


def test_elect_is_refused_where_there_are_several_hosts(hosts: Any) -> None:
    hosts.mesh("a", "b")
    for host in "ab":
        with pytest.raises(Layer8Error, match="several hosts") as caught:
            hosts.vnic(host).elect("shop")
        assert "ElectionEngine" in str(caught.value)


def test_an_engine_of_one_s_own_decides_over_several_hosts(
    hosts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ENGINE.parent))
    monkeypatch.setenv("SHARED_ENGINE", str(tmp_path / "store"))
    hosts.mesh("a", "b", election_engine=f"{ENGINE.stem}:make", election_lease=0.5)
    first, second = hosts.vnic("a").elect("shop"), hosts.vnic("b").elect("shop")
    assert first.wait(PATIENCE)
    term = first.term
    while (event := second.receive(PATIENCE)).leader is None:
        pass
    assert (event.leader, event.term) == (first.leader, term)
    hosts.vnets["a"].kill()
    assert second.wait(PATIENCE)
    assert second.term > term
    assert not first.is_leader
    hosts.vnets["a"].restart()


def test_top_shows_vnics_and_links_of_all_hosts_with_rates(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b", "c")
    near, far = hosts.vnic("a", "near"), hosts.vnic("b", "far")
    near.find(far.uuid, timeout=PATIENCE)
    hosts.until_sees("c", kind="vnic", count=2)
    with traffic(near, far):
        frames = [json.loads(line) for line in layer8(hosts, "c", "--json", "top", "-d", "1.5", "-n", "4").splitlines()]
        text = layer8(hosts, "c", "top", "-n", "1")
    last = frames[-1]
    assert (last["source"], last["vnet"]) == ("directory", "running")
    assert {record["host"] for record in last["records"]} == set("abc")
    sent = max(frame["rates"].get(str(near.uuid), [0.0])[0] for frame in frames)
    got = max(frame["rates"].get(str(far.uuid), [0.0, 0.0])[1] for frame in frames)
    assert sent > 0
    assert got > 0
    vnets = {record["host"]: record for record in last["records"] if record["kind"] == "vnet"}
    for host, vnet in vnets.items():
        assert {link["host"] for link in vnet["links"]} == set("abc") - {host}
        assert {link.get("state", "UP") for link in vnet["links"]} == {"UP"}
        assert all(link["round_trip"] > 0 for link in vnet["links"])
    (link,) = (link for link in vnets["a"]["links"] if link["host"] == "b")
    assert link["bytes_out"] > 1000
    assert "2 Vnics on 3 hosts" in text
    assert {tuple(line[:2]) for line in lines_of(text, "UP") if line[2] == "UP"} >= {
        (one, other) for one in "abc" for other in "abc" if one != other
    }


def test_ps_and_health_show_all_hosts_from_any_of_them(hosts: Any, until: Until) -> None:
    hosts.mesh("a", "b")
    near, far = hosts.vnic("a", "near"), hosts.vnic("b", "far")
    near.find(far.uuid, timeout=PATIENCE)
    far.find(near.uuid, timeout=PATIENCE)
    for host in "ab":
        text = layer8(hosts, host, "ps")
        assert [line[2] for line in lines_of(text, "near")] == ["a"]
        assert [line[2] for line in lines_of(text, "far")] == ["b"]
        records = [json.loads(line) for line in layer8(hosts, host, "--json", "ps").splitlines()]
        assert {record["host"] for record in records if record["kind"] == "vnet"} == set("ab")
        links = {(line[0], line[1]): line[3] for line in lines_of(text, "UP") if line[0] in "ab"}
        assert links == {("a", "b"): "UP", ("b", "a"): "UP"}
    about = layer8(hosts, "a", "health", "far")
    assert str(far.uuid) in about
    assert ["host", "b"] in [line.split() for line in about.splitlines()]


def test_events_tell_of_what_happened_on_other_hosts(hosts: Any, spawn: Any, until: Until) -> None:
    hosts.mesh("a", "b")
    victim = spawn(hosts, "b", "keep", "victim")
    hosts.vnic("a").find("victim", timeout=PATIENCE)
    victim.kill()
    until(lambda: "killed by signal 9 (SIGKILL), on b" in layer8(hosts, "a", "events"), "the event")
    events = [json.loads(line) for line in layer8(hosts, "a", "--json", "events").splitlines()]
    kinds = [event["kind"] for event in events if event["uuid"] == victim.uuid]
    assert kinds == ["up", "down"]
