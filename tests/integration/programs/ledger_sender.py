"""ledger_sender FILE SEED: sends all kinds of messages without pause and keeps the book of what was accepted.

Says "ready UUID", then sends until a line comes on stdin; at every line it writes the book to FILE and says "done N".
"""

import contextlib
import random
import sys
import threading
import time

from ledger import Sent, write

from layer8 import Backpressure, Layer8Error, RequestFailed, RequestTimeout, Unreachable, Vnic

path, seed = sys.argv[1], int(sys.argv[2])
book = Sent(seed)
vnic = Vnic(timeout=60.0, attach_timeout=60.0)
vnic.on_undeliverable = book.report
ended = threading.Event()


def ask() -> None:
    number = 0
    asking = random.Random(seed + 1000)
    while not ended.is_set():
        number += 1
        payload = number.to_bytes(8, "little") + bytes(asking.choice([0, 100, 10_000, 100_000]))
        try:
            outcome = "" if vnic.request("server", payload, timeout=60).payload == payload else "wrong reply"
        except RequestFailed as error:
            outcome = error.reason
        except (RequestTimeout, Unreachable, Backpressure) as error:
            outcome = type(error).__name__
        book.requests.append((number, outcome))
        time.sleep(0.001)


def send_to_the_doomed() -> None:
    while not ended.wait(0.003):
        with contextlib.suppress(Layer8Error):  # nobody there
            book.accept("doomed", vnic.send("doomed", b"morituri"), b"morituri")


def send_to_the_sleeper() -> None:
    """Some are held for as long as it is stopped."""
    while not ended.wait(0.002):
        send_by_alias("sleeper", book.noise[:30_000], timeout=0.2)


def send_to_the_slow() -> None:
    """More than it takes: what is held for it comes and goes, past what is held for the sleeper."""
    sizes = random.Random(seed + 2000)
    while not ended.is_set():
        send_by_alias("slow", book.noise[: sizes.choice([500, 20_000, 40_000])], timeout=60)


def send_to_the_brief() -> None:
    """What waits longer than it may expires; some are so large that they are given up half-way."""
    chance = random.Random(seed + 3000)
    large = book.noise + book.noise[: 1 << 20]
    while not ended.wait(0.002):
        if chance.random() < 0.05:
            send_by_alias("brief", large, timeout=0.05)
        else:
            payload = book.noise[: chance.choice([100, 30_000, 600_000])]
            send_by_alias("brief", payload, timeout=0.5, ttl=chance.choice([0.01, 0.1, 60.0]))


def send_by_alias(alias: str, payload: bytes, timeout: float, ttl: float | None = None) -> None:
    try:
        sequence = vnic.send(alias, payload, timeout=timeout, ttl=ttl)
    except Layer8Error as error:
        book.refuse(alias, error)
    else:
        book.accept(alias, sequence, payload)


def send() -> None:
    reader = vnic.find("reader", timeout=60).uuid
    while not ended.is_set():
        name = book.chance.choice(["reader", "reader", "tried", "pool", "pool", "reliable", "fleeting"])
        payload, headers = book.some_bytes(), book.some_headers()
        try:
            if name == "reader":
                sequence = vnic.send(reader, payload, headers=headers)
            elif name == "tried":
                before = time.monotonic()
                if not vnic.try_send(reader, payload, headers=headers):
                    if time.monotonic() - before < 0.001:
                        time.sleep(0.001)
                    continue
                sequence = 0
            elif name == "pool":
                sequence = vnic.send("pool", payload, headers=headers)
            else:
                sequence = vnic.publish(name, payload, reliable=name == "reliable", headers=headers)
        except Layer8Error as error:
            book.refuse(name, error)
            continue
        book.accept(name, sequence, payload, headers)
        if book.chance.random() < 0.02:
            time.sleep(0.002)


print("ready", vnic.uuid)
targets = (send, ask, send_to_the_doomed, send_to_the_sleeper, send_to_the_slow, send_to_the_brief)
threads = [threading.Thread(target=target, daemon=True) for target in targets]
for thread in threads:
    thread.start()
sys.stdin.readline()
ended.set()
for thread in threads:
    thread.join(90)
hanging = [thread.is_alive() for thread in threads]
while True:
    write(path, book.page(vnic.uuid, hanging, vnic.stats()))
    print("done", len(book))
    if not sys.stdin.readline():
        break
