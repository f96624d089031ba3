"""The books that the programs of a storm keep: senders of what they were told, receivers of what came.

A message is known by its sender's uuid and its sequence. What it says is noted as its size and its *seal*, a checksum
of payload and headers.
"""

import json
import random
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from layer8 import Message, Undeliverable
from layer8.vnic.statistics import VnicStats

Headers = Mapping[str, str | bytes]


def seal(payload: bytes, headers: Headers | None) -> int:
    return zlib.crc32(payload, zlib.crc32(repr(sorted(headers.items())).encode()) if headers else 0)


def figures(stats: VnicStats) -> dict[str, object]:
    """What the end of a storm is judged by. `left`: what is to be nothing when all is over."""
    port = stats.port
    if port is None:
        return {"attachments": stats.attachments, "late": 0, "doubles": 0, "aborted": 0, "left": {"away": 1}}
    left = {
        "begun": port.assembling_bytes,
        "unsent": port.transmit_fill,
        "held": port.hold_fill,
        "unread": port.receive_fill + stats.queued,
        "outstanding": stats.outstanding,
        "unanswered": stats.unanswered,
    }
    return {
        "attachments": stats.attachments,
        "late": port.late_wakeups,
        "doubles": port.duplicates_dropped,
        "aborted": port.messages_aborted,
        "left": {what: count for what, count in left.items() if count},
    }


class Received:
    """The book of one receiving Vnic. `missed`: what its subscription to "fleeting" has counted."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.missed: Callable[[], int] = int
        self._came: list[tuple[str, int, str, int, int]] = []  # source, sequence, topic, size, seal

    def __len__(self) -> int:
        return len(self._came)

    def note(self, message: Message) -> None:
        topic = message.topic or ""
        what = len(message.payload), seal(message.payload, message.headers)
        self._came.append((str(message.source), message.sequence, topic, *what))

    def note_request(self, request: Message) -> None:
        """By the number in its payload: its caller knows it by nothing else."""
        self._came.append((str(request.source), int.from_bytes(request.payload[:8], "little"), "", 0, 0))

    def page(self, stats: VnicStats) -> dict[str, object]:
        page = {"role": self.role, "came": self._came, "missed": self.missed()}
        return page | figures(stats)


class Sent:
    """The book of one sending Vnic, and what it sends."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.noise = self.chance.randbytes(1 << 21)
        self.requests: list[tuple[int, str]] = []  # number, outcome
        self._accepted: list[tuple[str, int, int, int]] = []  # name, sequence, size, seal
        self._refused: list[str] = []
        self._reported: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._accepted)

    def some_headers(self) -> Headers | None:
        number = self.chance.randrange(100)
        return {"content-type": "noise", "number": str(number), "bytes": bytes(number)} if number < 20 else None

    def some_bytes(self) -> bytes:
        chance = self.chance
        size = chance.choice([1, 1, 8, 64, 64, 300, 1000, 5000, 30_000, 70_000, 200_000, 1 << 20])
        if size > 60_000 and chance.random() < 0.9:
            size = chance.randrange(1, 2000)
        at = chance.randrange(1 << 20)
        return self.noise[at : at + size]

    def accept(self, name: str, sequence: int, payload: bytes, headers: Headers | None = None) -> None:
        """`sequence` 0: which one it was is known from its neighbours only."""
        self._accepted.append((name, sequence, len(payload), seal(payload, headers)))

    def refuse(self, name: str, error: Exception) -> None:
        self._refused.append(f"{name}: {error!r}")

    def report(self, report: Undeliverable) -> None:
        self._reported.append((report.sequence, report.reason))

    def page(self, uuid: object, hanging: list[bool], stats: VnicStats) -> dict[str, object]:
        return {
            "uuid": str(uuid),
            "accepted": self._accepted,
            "refused": self._refused,
            "requests": self.requests,
            "reported": self._reported,
            "hanging": hanging,
        } | figures(stats)


def write(path: str, pages: Any) -> None:
    with open(path, "w") as file:
        json.dump(pages, file)
