"""How the Vnics of one process take turns with handshakes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from layer8.vnic.turns import AT_A_TIME, look_around, turn

PLACE = [Path("/nowhere/a.sock")]


class Crowd:
    """Threads that want a turn, and keep it until they are told."""

    def __init__(self, count: int, places: list[Path]) -> None:
        self.had: list[bool] = []
        self.inside = 0
        self.most = 0
        self.stopped = False
        self.changed = threading.Condition()
        self.go_on = threading.Semaphore(0)
        self.threads = [threading.Thread(target=self._run, args=(places,)) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, places: list[Path]) -> None:
        with turn(places, lambda: self.stopped) as mine:
            with self.changed:
                self.had.append(mine)
                self.inside += mine
                self.most = max(self.most, self.inside)
                self.changed.notify_all()
            if mine:
                self.go_on.acquire()
            with self.changed:
                self.inside -= mine

    def wait_for(self, count: int) -> None:
        """Until so many have had a turn, or none."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.had) >= count, 30)

    def end(self) -> None:
        self.go_on.release(len(self.threads))
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def test_a_few_have_a_turn_at_a_time_and_all_get_one() -> None:
    crowd = Crowd(5 * AT_A_TIME, PLACE)
    crowd.wait_for(AT_A_TIME)
    elsewhere = Crowd(1, [Path("/nowhere/b.sock")])  # who looks for another Vnet does not wait for these
    elsewhere.wait_for(1)
    elsewhere.end()
    crowd.end()
    assert crowd.had == [True] * (5 * AT_A_TIME)
    assert crowd.most == AT_A_TIME


def test_who_is_stopped_waits_no_longer() -> None:
    crowd = Crowd(AT_A_TIME + 2, PLACE)
    crowd.wait_for(AT_A_TIME)
    crowd.stopped = True
    look_around()
    crowd.wait_for(AT_A_TIME + 2)
    assert sorted(crowd.had) == [False, False, *[True] * AT_A_TIME]
    crowd.stopped = False
    crowd.end()


def test_a_failed_handshake_gives_its_turn_back() -> None:
    for _ in range(3 * AT_A_TIME):
        try:
            with turn(PLACE, lambda: False) as mine:
                assert mine
                raise OSError
        except OSError:
            pass


def test_a_forked_child_has_turns_of_its_own() -> None:
    crowd = Crowd(AT_A_TIME, PLACE)
    crowd.wait_for(AT_A_TIME)
    child = os.fork()
    if child == 0:
        with turn(PLACE, lambda: True) as mine:
            os._exit(0 if mine else 1)
    assert os.waitpid(child, 0)[1] == 0
    crowd.end()
