"""Alarms of a Vnet: who is told when one is raised or cleared.

    records ──▶ layer8.health.alarms ──▶ log, status segment, topic `layer8.alarms`, the record's `alarms`,
                                         a command, a webhook, and a report of the Vnic if it has agreed to give one

Whoever is told may hang: a command is killed after `timeout`, a webhook has threads of its own, and of both only so
many wait at a time; what is more is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from uuid import UUID

import msgspec

from layer8.health.alarms import Alarm, Alarms
from layer8.health.directory import Changed, Event, Forgotten
from layer8.health_record import HealthRecord, State
from layer8.vnet.complaints import Complaints
from layer8.vnet.config_alarms import AlarmConfig
from layer8.vnet.health_desk import HealthDesk
from layer8.vnet.workers import Busy, Workers

TOPIC = "layer8.alarms"
_AT_ONCE = 4  # commands that run
_WAITING = 32
_HOOK_THREADS = 2

_log = logging.getLogger("layer8.alarms")


class AlarmDesk:
    """In the loop's thread. `is_own`: whether a uuid is one of this Vnet's, or the Vnet's. `told`: called with each
    alarm. `raised_total`: how often each alarm was raised, and the last time it was."""

    def __init__(
        self,
        config: AlarmConfig,
        desk: HealthDesk,
        loop: asyncio.AbstractEventLoop,
        *,
        publish: Callable[[str, bytes], None],
        event: Callable[[Alarm], None],
        is_own: Callable[[UUID], bool],
    ) -> None:
        self._config = config
        self._desk = desk
        self._loop = loop
        self._publish = publish
        self._event = event
        self._is_own = is_own
        self._complaints = Complaints(_log, loop)
        self.alarms = Alarms(config.rules)
        self.told: list[Callable[[Alarm], None]] = []
        self.raised_total: dict[str, tuple[int, Alarm]] = {}
        self.dropped = 0
        self._commands = asyncio.Semaphore(_AT_ONCE)
        self._hooks = Workers("hooks", _HOOK_THREADS, loop)
        self._tasks: set[asyncio.Task[None]] = set()
        if config.rules:
            desk.alarms_of = self.alarms.raised_about
            desk.watches_time = True
            desk.measured.append(self._measured)
            desk.listeners.append(self._happened)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._hooks.close()

    def _measured(self, before: HealthRecord, record: HealthRecord) -> None:
        if not self._is_own(record.uuid):
            return  # its own Vnet sees to it, and its record says what is raised
        self._tell(self.alarms.observe(record, self._loop.time(), time.time()))

    def _happened(self, events: list[Event]) -> None:
        for event in events:
            if (isinstance(event, Changed) and event.record.state is State.DOWN) or isinstance(event, Forgotten):
                self._tell(self.alarms.forget(event.record.uuid, time.time(), "gone"))

    def _tell(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            is_raised = alarm.state == "raised"
            _log.log(logging.WARNING if is_raised else logging.INFO, "%s", alarm.text)
            if is_raised:
                count, _ = self.raised_total.get(alarm.alarm, (0, alarm))
                self.raised_total[alarm.alarm] = count + 1, alarm
            self._event(alarm)
            payload = msgspec.json.encode(alarm)
            self._publish(TOPIC, payload)
            if self._config.command:
                self._start(self._command(alarm, payload))
            if self._config.webhook:
                self._start(self._webhook(payload))
            for tell in self.told:
                tell(alarm)
        for uuid in {alarm.uuid for alarm in alarms}:
            self._loop.call_soon(self._show, uuid)

    def _show(self, uuid: UUID) -> None:
        """The record says so too, here and on every other host."""
        record = self._desk.directory.get(uuid)
        if record is not None and record.alarms != (raised := self.alarms.raised_about(uuid)):
            record = msgspec.structs.replace(record, alarms=raised)
            self._desk.happened(self._desk.directory.put(record, self._loop.time()))

    def _start(self, work: asyncio.coroutines.Coroutine[object, object, None]) -> None:  # type: ignore[name-defined]
        if len(self._tasks) >= _WAITING:
            work.close()
            self.dropped += 1
            self._complaints.warn("dropped", "%d notices of alarms were dropped: nobody takes them", self.dropped)
            return
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _command(self, alarm: Alarm, payload: bytes) -> None:
        """The alarm as JSON on its stdin, and its main words in the environment."""
        words = {"ALARM": alarm.alarm, "STATE": alarm.state, "UUID": str(alarm.uuid), "TEXT": alarm.text}
        environ = os.environ | {f"LAYER8_{name}": word for name, word in words.items()}
        async with self._commands:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._config.command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=environ,
                    start_new_session=True,
                )
            except OSError as error:
                self._complaints.warn("command", "the command of alarms cannot be run: %s", error)
                return
            try:
                async with asyncio.timeout(self._config.timeout):
                    await process.communicate(payload)
                if process.returncode:
                    self._complaints.warn("status", "the command of alarms ended with %d", process.returncode)
            except TimeoutError:
                self._complaints.warn("hangs", "the command of alarms took over %g s", self._config.timeout)
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await asyncio.shield(process.wait())

    async def _webhook(self, payload: bytes) -> None:
        try:
            await self._hooks.call(
                _post, self._config.webhook, payload, self._config.timeout, timeout=self._config.timeout * 2
            )
        except (OSError, ValueError, Busy) as error:  # TimeoutError is an OSError
            self.dropped += 1
            what = "it does not answer" if isinstance(error, TimeoutError | Busy) else error
            self._complaints.warn("webhook", "the webhook of alarms was not told: %s", what)


def _post(url: str, payload: bytes, timeout: float) -> None:
    """In a thread. Raises OSError for what is no success."""
    import urllib.request  # where a webhook is told for the first time

    request = urllib.request.Request(url, payload, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=timeout):
        pass
