"""One switch in its thread: commands become futures, what happens by itself becomes calls.

The thread stays inside one C call until STOP and shares nothing with the loop but the two rings of commands and events.
A command that finds its ring full waits here in order; the answer to an earlier one makes room.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
from collections.abc import Callable
from typing import TypeAlias
from uuid import UUID

from layer8.dataplane import Command, Event, Link, Question, RemotePort, Status, Switch, SwitchPort

_log = logging.getLogger("layer8.vnet")


Pointer: TypeAlias = SwitchPort | RemotePort | Link | UUID | bytes | None


class SwitchStopped(Exception):
    """The switch thread has returned; this command was not carried out."""


class SwitchThread:
    """Owns the Switch. `gone(port)` is called when a port is reaped, `violated(port, what)` when its Vnic wrote what
    cannot be, `question(port, question)` when a far Vnic sends what nobody was asked about, `link_violated(link)` when
    an adjacent Vnet sent what cannot be. All methods belong to the loop's thread."""

    def __init__(
        self,
        switch: Switch,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
        gone: Callable[[int], None],
        violated: Callable[[int, int], None],
        question: Callable[[int, Question], None] = lambda port, question: None,
        link_violated: Callable[[int], None] = lambda link: None,
    ) -> None:
        self.switch = switch
        self.ended: asyncio.Future[int] = loop.create_future()  # what the switch returned
        self._loop = loop
        self._gone = gone
        self._violated = violated
        self._question = question
        self._link_violated = link_violated
        self._tokens = 0
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._waiting: collections.deque[tuple[int, int, int, int, int, int, int, Pointer]] = collections.deque()
        self._thread = threading.Thread(target=self._run, name=f"layer8-switch-{name}", daemon=True)

    def start(self) -> None:
        self._loop.add_reader(self.switch.event_fd, self._take_events)
        self._thread.start()

    def _run(self) -> None:
        try:
            status = self.switch.run()
        except BaseException:
            _log.exception("the switch failed")
            status = int(Status.SYSTEM)
        self._loop.call_soon_threadsafe(self._returned, status)

    def _returned(self, status: int) -> None:
        self._take_events()
        self._loop.remove_reader(self.switch.event_fd)
        self._waiting.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(SwitchStopped())
                answer.exception()  # whoever still waits sees it; nobody else has to
        self._answers.clear()
        if not self.ended.done():
            self.ended.set_result(status)

    def command(
        self,
        kind: Command,
        port: int = 0,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        pointer: Pointer = None,
    ) -> asyncio.Future[int]:
        """Gives a command; its status when it was carried out. Commands are carried out in the order given."""
        answer: asyncio.Future[int] = self._loop.create_future()
        if self.ended.done():
            answer.set_exception(SwitchStopped())
            answer.exception()
            return answer
        self._tokens += 1
        self._answers[self._tokens] = answer
        self._waiting.append((int(kind), self._tokens, port, a, b, c, d, pointer))
        self._give()
        return answer

    def _give(self) -> None:
        while self._waiting and self.switch.command(*self._waiting[0]) == Status.OK:
            self._waiting.popleft()

    def _take_events(self) -> None:
        for kind, port, token, value, question in self.switch.events():
            if kind == Event.DONE:
                answer = self._answers.pop(token, None)
                if answer is not None and not answer.done():
                    answer.set_result(value)
            elif kind == Event.GONE:
                self._gone(port)
            elif kind == Event.VIOLATION:
                self._violated(port, value)
            elif kind == Event.RESOLVE and question is not None:
                self._question(port, question)
            elif kind == Event.LINK_VIOLATION:
                self._link_violated(value)
        self._give()

    async def stop(self) -> int:
        """Ends the thread at once; what the switch returned. Safe twice."""
        if not self.ended.done():
            self.command(Command.STOP)
        return await asyncio.shield(self.ended)

    def close(self) -> None:
        """After `stop`."""
        self._thread.join()
        self.switch.close()
