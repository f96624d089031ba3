"""ledger_sender FILE SEED: sends all kinds of messages without pause and keeps the book of what was accepted.

Says "ready UUID", then sends until a line comes on stdin; writes the book to FILE and says "done N".
"""

import contextlib
import json
import random
import sys
import threading
import time
import zlib

from layer8 import Backpressure, Layer8Error, RequestFailed, RequestTimeout, Undeliverable, Unreachable, Vnic

path, chance = sys.argv[1], random.Random(int(sys.argv[2]))
vnic = Vnic(timeout=60.0)
noise = chance.randbytes(1 << 21)
accepted: list[tuple[str, int, int, int]] = []  # name, sequence, size, checksum
refused: list[str] = []
requests: list[tuple[int, str]] = []  # number, outcome
reported: list[tuple[int, str]] = []
ended = threading.Event()


def undeliverable(report: Undeliverable) -> None:
    reported.append((report.sequence, report.reason))


vnic.on_undeliverable = undeliverable


def some_bytes() -> bytes:
    size = chance.choice([1, 1, 8, 64, 64, 300, 1000, 5000, 30_000, 70_000, 200_000, 1 << 20])
    if size > 60_000 and chance.random() < 0.9:
        size = chance.randrange(1, 2000)
    at = chance.randrange(1 << 20)
    return noise[at : at + size]


def ask() -> None:
    number = 0
    asking = random.Random(int(sys.argv[2]) + 1000)
    while not ended.is_set():
        number += 1
        payload = number.to_bytes(8, "little") + bytes(asking.choice([0, 100, 10_000]))
        try:
            outcome = "" if vnic.request("server", payload, timeout=60).payload == payload else "wrong reply"
        except RequestFailed as error:
            outcome = error.reason
        except (RequestTimeout, Unreachable, Backpressure) as error:
            outcome = type(error).__name__
        requests.append((number, outcome))
        time.sleep(0.001)


def send_to_the_doomed() -> None:
    while not ended.wait(0.003):
        with contextlib.suppress(Layer8Error):  # nobody there
            accepted.append(("doomed", vnic.send("doomed", b"morituri"), 8, 0))


def send_to_the_sleeper() -> None:
    """Some are held for as long as it is stopped."""
    while not ended.wait(0.002):
        send_by_alias("sleeper", noise[:30_000], timeout=0.2)


def send_to_the_slow() -> None:
    """More than it takes: what is held for it comes and goes, past what is held for the sleeper."""
    sizes = random.Random(int(sys.argv[2]) + 2000)
    while not ended.is_set():
        send_by_alias("slow", noise[: sizes.choice([500, 20_000, 40_000])], timeout=60)


def send_by_alias(alias: str, payload: bytes, timeout: float) -> None:
    try:
        sequence = vnic.send(alias, payload, timeout=timeout)
    except Layer8Error as error:
        refused.append(f"{alias}: {error!r}")
    else:
        accepted.append((alias, sequence, len(payload), zlib.crc32(payload)))


def send() -> None:
    reader = vnic.find("reader", timeout=60).uuid
    while not ended.is_set():
        name = chance.choice(["reader", "reader", "tried", "pool", "pool", "reliable", "fleeting"])
        payload = some_bytes()
        try:
            if name == "reader":
                sequence = vnic.send(reader, payload)
            elif name == "tried":
                before = time.monotonic()
                if not vnic.try_send(reader, payload):
                    refused.append(name)
                    if time.monotonic() - before < 0.001:
                        time.sleep(0.001)
                    continue
                sequence = 0  # which one it was is known from its neighbours only
            elif name == "pool":
                sequence = vnic.send("pool", payload)
            else:
                sequence = vnic.publish(name, payload, reliable=name == "reliable")
        except Layer8Error as error:
            refused.append(f"{name}: {error!r}")
            continue
        accepted.append((name, sequence, len(payload), zlib.crc32(payload)))
        if chance.random() < 0.02:
            time.sleep(0.002)


print("ready", vnic.uuid)
targets = (send, ask, send_to_the_doomed, send_to_the_sleeper, send_to_the_slow)
threads = [threading.Thread(target=target, daemon=True) for target in targets]
for thread in threads:
    thread.start()
sys.stdin.readline()
ended.set()
for thread in threads:
    thread.join(90)
alive = [thread.is_alive() for thread in threads]


def write() -> None:
    with open(path, "w") as file:
        json.dump(
            {
                "uuid": str(vnic.uuid),
                "accepted": accepted,
                "refused": refused,
                "requests": requests,
                "reported": reported,
                "hanging": alive,
                "attachments": vnic.stats().attachments,
                "state": vnic.state,
            },
            file,
        )


while True:
    write()
    print("done", len(accepted))
    if not sys.stdin.readline():
        break
