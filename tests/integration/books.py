"""Programs under load that keep books, others that come and are killed meanwhile, and what the books say in the end."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

RELIABLE = ("reader", "tried", "pool", "reliable", "sleeper", "slow")
SUBSCRIBERS = ("topics", "stream")
PATIENCE = 30.0  # seconds until everything has come
Book = dict[str, Any]


class Books:
    """The programs of one storm. `laggard`: one of the receivers, which may be made to stand still.

    `start`: runs a program. `when_ready`: what is to be waited for when all receive, before anything is sent.
    """

    def __init__(
        self, start: Callable[..., Any], directory: Path, seed: int, when_ready: Callable[[], object] = bool
    ) -> None:
        self._start = start
        self._directory = directory
        self._pages: dict[Any, Path] = {}
        one = self._run("ledger_receiver", "reader", "pool", "pool", "topics", "slow", "brief")
        two = self._run("ledger_receiver", "pool", "pool", "topics", "topics", "stream", "server", "sleeper")
        three = self._run("ledger_receiver_async", "pool", "topics", "stream", "server")
        self._receivers = [one, two, three]
        for receiver in self._receivers:
            receiver.wait_for("ready")
        when_ready()
        self.laggard = two
        self._doomed: Any = None
        self._senders = [self._run("ledger_sender", seed), self._run("ledger_sender_async", seed + 1)]
        self.uuids = [sender.wait_for("ready") for sender in self._senders]

    def _run(self, name: str, *arguments: object) -> Any:
        page = self._directory / str(len(self._pages))
        program = self._start(name, str(page), *arguments)
        self._pages[program] = page
        return program

    def doom(self) -> Any:
        """Somebody who has the alias "doomed": he is written to, and no book says what he got."""
        if self._doomed is None or self._doomed.process.poll() is not None:
            self._doomed = self._run("ledger_receiver", "doomed")
            self._doomed.wait_for("ready")
        return self._doomed

    def _read(self, programs: list[Any]) -> list[Any]:
        for program in programs:
            program.tell("report")
        for program in programs:
            program.wait_for("done")
        return [json.loads(self._pages[program].read_text()) for program in programs]

    def close(self) -> None:
        """All its programs end."""
        for program in self._pages:
            program.close()

    def check(self, *, fleeting: bool = True) -> Counter[str]:
        """Ends the load, waits until everything has come, and compares the books. Figures of the storm.

        `fleeting`: every publication that was dropped must have been counted.
        """
        senders: list[Book] = self._read(self._senders)  # and no more is sent
        deadline = time.monotonic() + PATIENCE
        while True:
            received: list[Book] = [book for books in self._read(self._receivers) for book in books]
            senders = self._read(self._senders)
            problems = compare(senders, received)
            problems += uncounted(senders, received) if fleeting else []
            problems += woken_late(senders + received)
            if not problems or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert not problems, problems[:10]
        outcomes = Counter(outcome for book in senders for _, outcome in book["requests"])
        assert set(outcomes) <= {"", "unknown", "Unreachable", "Backpressure"}, outcomes
        reasons = Counter(reason for book in senders for _, reason in book["reported"])
        return Counter(
            {
                "accepted": sum(len(book["accepted"]) for book in senders),
                "refused": sum(len(book["refused"]) for book in senders),
                "reported": reasons.total(),
                "expired": reasons["expired"],
                "requests": outcomes.total(),
                "unknown": outcomes["unknown"],
                "missed": sum(book["missed"] for book in received),
                "aborted": sum(book["aborted"] for book in received),
                "doubles dropped": sum(book["doubles"] for book in received),
                "attachments": max(book["attachments"] for book in senders),
            }
        )


def compare(senders: list[Book], received: list[Book]) -> list[str]:
    """What is lost, doubled, altered, out of order or left over."""
    problems = left_over(senders, "sender") + [
        problem for book in received for problem in left_over([book], book["role"])
    ]
    for receiver in received:
        if receiver["role"] != "server":  # there it is a number of the payload
            times = Counter((source, sequence) for source, sequence, *_ in receiver["came"])
            problems += [f"{what} came {n} times to {receiver['role']}" for what, n in times.items() if n > 1]
    served = Counter(
        (source, number) for book in received if book["role"] == "server" for source, number, *_ in book["came"]
    )
    for sender in senders:
        twice = [number for number, _ in sender["requests"] if served[sender["uuid"], number] > 1]
        problems += [f"request {number} was carried out twice" for number in twice]
        came: dict[str, list[int]] = {}
        for receiver in received:
            if receiver["role"] != "server":
                problems += compare_two(sender, receiver, came)
        expected = Counter(name for name, *_ in sender["accepted"])
        expected["reliable"] *= sum(book["role"] in SUBSCRIBERS for book in received)
        for name in RELIABLE:
            if len(came.get(name, ())) != expected[name]:
                problems.append(f"{name}: {len(came.get(name, ()))} of {expected[name]}")
        problems += unlike_reported(sender, set(came.get("brief", ())))
    return problems


def left_over(books: list[Book], who: str) -> list[str]:
    return [f"{who} has left over {book['left']}" for book in books if book["left"]]


def woken_late(books: list[Book]) -> list[str]:
    return [f"{book.get('role', 'sender')} was woken late {book['late']} times" for book in books if book["late"]]


def uncounted(senders: list[Book], received: list[Book]) -> list[str]:
    """Unreliable publications come or are counted as missed. Of those that were counted just before a kill some come,
    or are counted, again."""
    published = sum(name == "fleeting" for book in senders for name, *_ in book["accepted"])
    problems = []
    for book in received:
        came = sum(topic == "fleeting" for _, _, topic, *_ in book["came"])
        if book["role"] in SUBSCRIBERS and came + book["missed"] < published:
            problems.append(f"{book['role']}: {came} fleeting ones and {book['missed']} missed, of {published}")
    return problems


def compare_two(sender: Book, receiver: Book, came: dict[str, list[int]]) -> list[str]:
    """What came from this sender to this receiver: is it what was sent, and in order? Adds it to `came`, by name."""
    problems: list[str] = []
    role = receiver["role"]
    known = {sequence: (name, size, seal) for name, sequence, size, seal in sender["accepted"] if sequence}
    tried = Counter((size, seal) for _, sequence, size, seal in sender["accepted"] if not sequence)
    last: dict[str, int] = {}
    for source, sequence, topic, size, seal in receiver["came"]:
        if source != sender["uuid"]:
            continue
        if sequence in known:
            name, *content = known[sequence]
            if content != [size, seal]:
                problems.append(f"{name} {sequence} is not what was sent")
        elif tried[size, seal] > 0 and role == "reader":
            tried[size, seal] -= 1
            name = "tried"
        else:
            problems.append(f"{role} got {sequence} ({topic!r}, {size} bytes), never accepted")
            continue
        order = "reader" if name == "tried" else name  # the same name, as the sender used it
        if order != "pool" and sequence < last.get(order, 0):
            problems.append(f"{name} {sequence} after {last[order]} at {role}")
        last[order] = sequence
        came.setdefault(name, []).append(sequence)
    return problems


def unlike_reported(sender: Book, came: set[int]) -> list[str]:
    """`came`: what the brief one got. It and nothing else of what was accepted for him is not reported as expired."""
    reported: dict[int, str] = dict(sender["reported"])
    doomed = {sequence for name, sequence, *_ in sender["accepted"] if name == "doomed"}
    brief = {sequence for name, sequence, *_ in sender["accepted"] if name == "brief"}
    others = {sequence for name, sequence, *_ in sender["accepted"]} - doomed - brief
    problems = [f"{sequence} was reported as {reported[sequence]}" for sequence in reported.keys() & others]
    if len(reported) != len(sender["reported"]):
        problems.append("one was reported twice")
    for sequence in brief:
        reason = reported.get(sequence)
        if reason not in (None, "expired", "unknown"):
            problems.append(f"brief {sequence} was reported as {reason}")
        elif reason != "unknown" and (sequence in came) == (reason is not None):  # unknown: nobody can tell
            problems.append(f"brief {sequence} {'came' if sequence in came else 'did not come'}, reported: {reason}")
    if any(sender["hanging"]):
        problems.append(f"hanging: {sender['hanging']}")
    return problems


class Mortals:
    """Programs that come, stand still and are killed, until `end`, while others keep books. Some mean harm: they write
    all over their segments, or present the uuid of another."""

    def __init__(self, start: Callable[..., Any], seed: int, uuids: list[str]) -> None:
        self._start = start
        self._chance = random.Random(seed)
        self._alive = [start("mortal", seed)]
        self._impostor = start("impostor", *uuids)
        self._ended = threading.Event()
        self.figures: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(self._chance.choice([0.2, 0.5, 1.0])):
            number += 1
            one = self._chance.choice(self._alive)
            match self._chance.randrange(4):
                case 0 if len(self._alive) < 3:
                    self._alive.append(self._start("mortal", number))
                case 1 if len(self._alive) > 1:
                    self._alive.remove(one)
                    one.kill()
                    self.figures["killed"] += 1
                case 2:
                    with one.stopped():
                        self._ended.wait(self._chance.choice([0.01, 0.3]))
                    self.figures["stopped"] += 1
                case 3 if number % 2:
                    self._start("hostile", "mortal", number)  # ends when it has been noticed
                    self.figures["hostile"] += 1

    def end(self) -> None:
        """All are killed: what they had begun is nobody's any more."""
        self._ended.set()
        self._thread.join()
        for one in self._alive:
            one.kill()
        self._impostor.tell("end")
        self.figures["impostor refused"] = int(self._impostor.wait_for("refused"))
