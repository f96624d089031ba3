"""Watching: first who is there, then every change, over the loss of a Vnet too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from layer8 import Closed, HealthEvent, Vnic
from layer8.testing import RunningVnet
from layer8.vnic.health_watch import HealthWatch

MakeVnic = Callable[..., Vnic]
PATIENCE = 60.0


def until(watch: HealthWatch, kind: str, vnic: Vnic) -> HealthEvent:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        event = watch.receive(PATIENCE)
        if event.kind == kind and event.record.uuid == vnic.uuid:
            return event
    raise AssertionError(f"never: {kind}")


def test_a_watch_begins_with_who_is_there_and_tells_who_comes_and_goes(make_vnic: MakeVnic) -> None:
    watcher, first = make_vnic(), make_vnic("seen")
    with watcher.watch(alias="seen") as watch:
        assert [record.uuid for record in watch.records] == [first.uuid]
        event = watch.receive(0)
        assert (event.kind, event.record.uuid, event.present) == ("joined", first.uuid, True)
        assert watch.try_receive() is None
        second = make_vnic("seen")
        event = watch.receive(PATIENCE)
        assert (event.kind, event.record.uuid, event.present) == ("joined", second.uuid, False)
        first.close()
        event = watch.receive(PATIENCE)
        assert (event.kind, event.record.uuid, event.reason) == ("left", first.uuid, "detached")
        assert [record.uuid for record in watch.records] == [second.uuid]


def test_filters_are_checked_and_services_and_topics_are_filters(make_vnic: MakeVnic) -> None:
    watcher, worker = make_vnic(), make_vnic("worker")
    with pytest.raises(TypeError):
        watcher.watch(allias="x")
    with watcher.watch(service="worker") as services, watcher.watch(topic="news") as topics:
        assert services.records == ()
        with worker.serve(lambda request: b""):
            assert until(services, "joined", worker).record.services == ("worker",)
            assert [record.uuid for record in watcher.health(service="worker")] == [worker.uuid]
        assert until(services, "left", worker).record.services == ()
        subscription = worker.subscribe("news")
        assert until(topics, "joined", worker).record.topics == ("news",)
        subscription.close()
        until(topics, "left", worker)


def test_nothing_is_missed_between_the_present_state_and_the_changes(make_vnic: MakeVnic) -> None:
    watcher = make_vnic()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            make_vnic("moth").close()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(20):
            with watcher.watch(alias="moth") as watch:
                known = set()
                for _ in range(4):
                    event = watch.receive(PATIENCE)
                    if event.kind == "joined":
                        known.add(event.record.uuid)
                    elif event.kind == "left":
                        known.remove(event.record.uuid)  # it had joined: KeyError else
    finally:
        ended.set()
        thread.join()


@pytest.mark.vnet_settings(return_patience=1.0)  # one leaves meanwhile
def test_a_watch_goes_on_with_the_next_vnet(own_vnet: RunningVnet, make_own: MakeVnic) -> None:
    watcher, other, leaver = make_own(), make_own("other"), make_own("leaver")
    with other.serve(lambda request: b""), watcher.watch() as watch:
        own_vnet.kill()
        threading.Thread(target=leaver.close, args=(0,)).start()
        own_vnet.restart()
        until(watch, "left", leaver)
        late = make_own("late")
        until(watch, "joined", late)
        assert {watcher.uuid, other.uuid, late.uuid} <= {record.uuid for record in watch.records}
        deadline = time.monotonic() + PATIENCE
        while [record.uuid for record in watcher.health(service="other")] != [other.uuid]:  # announced again
            assert time.monotonic() < deadline, "its service is forgotten"
            time.sleep(0.02)


def test_a_closed_watch_ends_its_readers(make_vnic: MakeVnic) -> None:
    watcher = make_vnic()
    watch = watcher.watch(alias="nobody")
    seen: list[HealthEvent] = []
    reader = threading.Thread(target=lambda: seen.extend(watch))
    reader.start()
    watch.close()
    watch.close()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    with pytest.raises(Closed):
        watch.receive()
    other = watcher.watch()
    watcher.close()
    assert all(event.present for event in other)  # it ends
    with pytest.raises(Closed):
        other.receive()


def test_a_reader_may_wait_for_a_time(make_vnic: MakeVnic) -> None:
    with make_vnic().watch(alias="nobody") as watch, pytest.raises(TimeoutError):
        watch.receive(0.01)
