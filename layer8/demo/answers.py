"""Third job of the demo: requests from a pool of callers, each answered with the SHA-256 of what it carried."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

from layer8 import Request
from layer8.demo.library import source_files
from layer8.demo.part import Part

ANSWERS = "demo-answers"
BLOCK_BYTES = (64, 4096)
"""Smallest and largest block that is asked for."""


def answer(part: Part) -> None:
    """Answers until it is stopped."""
    count = 0
    part.say("ready")
    for message in part.vnic:
        if isinstance(message, Request):
            message.reply(hashlib.sha256(message.payload).digest())
            count += 1
    part.say("result", messages=count)


def call(part: Part) -> None:
    """Asks for the digests of blocks of real source text and checks every answer."""
    blocks = list(_blocks(Path(part.settings["source"]), part.settings["requests"], part.settings["seed"]))
    expected = [hashlib.sha256(block).digest() for block in blocks]
    answers = part.vnic.find(ANSWERS, timeout=10.0)
    part.say("ready")
    part.wait_for("go")
    wrong = 0
    round_trips = []
    begun = time.monotonic()
    for block, digest in zip(blocks, expected, strict=True):
        asked = time.perf_counter_ns()
        reply = part.vnic.request(answers, block)
        round_trips.append((time.perf_counter_ns() - asked) // 1000)
        wrong += reply.payload != digest
    seconds = time.monotonic() - begun
    part.say(
        "result",
        messages=len(blocks),
        bytes=sum(map(len, blocks)),
        wrong=wrong,
        seconds=seconds,
        round_trips_us=round_trips,
    )


def _blocks(source: Path, count: int, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    contents = [path.read_bytes() for _, path in chance.sample(list(source_files(source)), 16)]
    smallest, largest = BLOCK_BYTES
    blocks = []
    for _ in range(count):
        content = chance.choice(contents)
        begin = chance.randrange(max(1, len(content)))
        blocks.append(content[begin : begin + chance.randint(smallest, largest)])
    return blocks
