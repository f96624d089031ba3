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


class Books:
    """The programs of one storm. `laggard`: one of the receivers, which may be made to stand still."""

    def __init__(self, start: Callable[..., Any], directory: Path, seed: int) -> None:
        self._start = start
        self._directory = directory
        self._receivers = [
            start("ledger_receiver", str(directory / "r0"), "reader", "pool", "pool", "topics", "slow"),
            start("ledger_receiver", str(directory / "r1"), "pool", "pool", "topics", "topics", "server", "sleeper"),
        ]
        for receiver in self._receivers:
            receiver.wait_for("ready")
        self.laggard = self._receivers[1]
        self._doomed: Any = None
        self._senders = [start("ledger_sender", str(directory / f"s{n}"), str(seed + n)) for n in range(2)]
        self.uuids = [sender.wait_for("ready") for sender in self._senders]

    def doom(self) -> Any:
        """Somebody who has the alias "doomed": he is written to, and no book says what he got."""
        if self._doomed is None or self._doomed.process.poll() is not None:
            self._doomed = self._start("ledger_receiver", str(self._directory / "doomed"), "doomed")
            self._doomed.wait_for("ready")
        return self._doomed

    def _read(self, program: Any, name: str) -> Any:
        program.tell("report")
        program.wait_for("done")
        return json.loads((self._directory / name).read_text())

    def close(self) -> None:
        """All its programs end."""
        for program in (*self._senders, *self._receivers, *filter(None, [self._doomed])):
            program.close()

    def check(self) -> Counter[str]:
        """Ends the load, waits until everything has come, and compares the books. Figures of the storm."""
        senders = [self._read(sender, f"s{n}") for n, sender in enumerate(self._senders)]
        accepted = {(book["uuid"]): book for book in senders}
        deadline = time.monotonic() + 30
        while True:
            received = [book for n, one in enumerate(self._receivers) for book in self._read(one, f"r{n}")]
            problems = compare(accepted, received)
            if not problems or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        senders = [self._read(sender, f"s{n}") for n, sender in enumerate(self._senders)]
        for book in senders:
            doomed = {sequence for name, sequence, *_ in book["accepted"] if name == "doomed"}
            reported = [tuple(report) for report in book["reported"]]
            assert doomed.issuperset(sequence for sequence, _ in reported), reported[:5]
            assert len(reported) == len({sequence for sequence, _ in reported}), "reported twice"
            assert not any(book["hanging"]), book["hanging"]
        assert not problems, problems[:10]
        outcomes = Counter(outcome for book in senders for _, outcome in book["requests"])
        assert set(outcomes) <= {"", "unknown", "Unreachable", "Backpressure"}, outcomes
        return Counter(
            {
                "accepted": sum(len(book["accepted"]) for book in senders),
                "refused": sum(len(book["refused"]) for book in senders),
                "reported": sum(len(book["reported"]) for book in senders),
                "requests": sum(outcomes.values()),
                "unknown": outcomes["unknown"],
                "missed": sum(book["missed"] for book in received),
                "doubles dropped": sum(book["doubles"] for book in received),
                "attachments": max(book["attachments"] for book in senders),
            }
        )


def compare(senders: dict[str, Any], received: list[Any]) -> list[str]:
    """What is lost, doubled, altered or out of order."""
    problems: list[str] = []
    published = sum(name == "fleeting" for book in senders.values() for name, *_ in book["accepted"])
    for receiver in received:
        if receiver["role"] != "server":  # there it is a number of the payload
            times = Counter((source, sequence) for source, sequence, *_ in receiver["came"])
            problems += [f"{what} came {n} times to {receiver['role']}" for what, n in times.items() if n > 1]
        if receiver["role"] == "topics":
            here = sum(topic == "fleeting" for _, _, topic, *_ in receiver["came"])
            if here + receiver["missed"] < published:  # more: one was counted just before a kill, and then repeated
                problems.append(f"fleeting: {here} came, {receiver['missed']} were counted as missed, of {published}")
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
        """All are killed but one, which has a Vnet from now on."""
        self._ended.set()
        self._thread.join()
        for one in self._alive[1:]:
            one.kill()
        self._impostor.tell("end")
        self.figures["impostor refused"] = int(self._impostor.wait_for("refused"))
