"""Commands become futures, in order, also when the ring of commands is full."""

from __future__ import annotations

import asyncio
import collections
import os
import threading
from typing import Self, cast

import pytest

from layer8.dataplane import Command, Event, Status, Switch, SwitchEvent
from layer8.vnet.switch_thread import SwitchStopped, SwitchThread


class FakeSwitch:
    """Takes two commands at a time and carries them out when `step` is called."""

    ROOM = 2

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.taken: list[tuple[int, ...]] = []
        self._commands: collections.deque[tuple[int, ...]] = collections.deque()
        self._happened: list[SwitchEvent] = []
        self._end = threading.Event()

    def run(self) -> int:
        self._end.wait()
        return 0

    def command(self, *command: int) -> int:
        if len(self._commands) == self.ROOM:
            return Status.FULL
        self._commands.append(command)
        if command[0] == Command.STOP:
            self._end.set()
        return Status.OK

    def events(self) -> list[SwitchEvent]:
        os.eventfd_read(self.event_fd) if self._happened else None
        happened, self._happened = self._happened, []
        return happened

    def happen(self, event: SwitchEvent) -> None:
        self._happened.append(event)
        os.eventfd_write(self.event_fd, 1)

    def step(self) -> None:
        command = self._commands.popleft()
        self.taken.append(command)
        self.happen(SwitchEvent(Event.DONE, command[2], command[1], Status.OK))

    def close(self) -> None:
        os.close(self.event_fd)


class World:
    """A thread over a fake switch, and what it called back."""

    def __init__(self) -> None:
        self.fake = FakeSwitch()
        self.gone: list[int] = []
        self.violated: list[tuple[int, int]] = []
        self.thread = SwitchThread(
            cast(Switch, self.fake),
            asyncio.get_running_loop(),
            name="test",
            gone=self.gone.append,
            violated=lambda port, what: self.violated.append((port, what)),
        )
        self.thread.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.thread.ended.done():
            self.fake._commands.clear()
            await self.thread.stop()
        self.thread.close()


def test_commands_that_find_no_room_wait_in_order() -> None:
    async def main() -> None:
        async with World() as world:
            answers = [world.thread.command(Command.GRANT, port) for port in range(10)]
            for port in range(10):
                world.fake.step()
                assert await answers[port] == Status.OK
            assert [command[2] for command in world.fake.taken] == list(range(10))

    asyncio.run(main())


def test_what_happens_by_itself_is_called_back() -> None:
    async def main() -> None:
        async with World() as world:
            answer = world.thread.command(Command.GRANT, 1)
            world.fake.happen(SwitchEvent(Event.VIOLATION, 7, 0, 3))
            world.fake.happen(SwitchEvent(Event.GONE, 7, 0, 0))
            world.fake.step()
            await answer
            assert (world.violated, world.gone) == ([(7, 3)], [7])

    asyncio.run(main())


def test_an_answer_that_nobody_waits_for_any_more_is_dropped() -> None:
    async def main() -> None:
        async with World() as world:
            world.thread.command(Command.QUIESCE).cancel()
            answer = world.thread.command(Command.GRANT)
            world.fake.step()
            world.fake.step()
            assert await answer == Status.OK

    asyncio.run(main())


def test_what_is_unanswered_when_the_switch_stops_ends_with_it() -> None:
    async def main() -> None:
        async with World() as world:
            unanswered = world.thread.command(Command.GRANT)
            assert await world.thread.stop() == 0
            assert await world.thread.stop() == 0
            with pytest.raises(SwitchStopped):
                await unanswered
            with pytest.raises(SwitchStopped):
                await world.thread.command(Command.GRANT)

    asyncio.run(main())
