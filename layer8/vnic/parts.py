"""The parts of a Vnic that wait. These are for a program of threads; `layer8.vnic.loop` has those for an event loop."""

from __future__ import annotations

from layer8.message import Message, Request
from layer8.vnic.calls import Calls
from layer8.vnic.dispatcher import Dispatcher, Job
from layer8.vnic.inbox import Inbox
from layer8.vnic.presence import Presence
from layer8.vnic.questions import Questions
from layer8.vnic.queues import Queue
from layer8.vnic.records import Records
from layer8.vnic.room import Room
from layer8.vnic.waiting import Turn


class Parts:
    """Makes each part; a Core asks once for each. `chime`: whether the Vnet shall wake it by a descriptor."""

    chime = False
    request: type[Request] = Request

    def turn(self) -> Turn:
        return Turn()

    def presence(self, what: str) -> Presence:
        return Presence(what)

    def questions(self, presence: Presence) -> Questions:
        return Questions(presence)

    def room(self) -> Room:
        return Room()

    def calls(self) -> Calls:
        return Calls()

    def dispatcher(self, name: str) -> Dispatcher:
        return Dispatcher(name)

    def inbox(self, presence: Presence, messages: Queue[Message], jobs: Queue[Job], records: Records) -> Inbox:
        return Inbox(presence, messages, jobs, records)
