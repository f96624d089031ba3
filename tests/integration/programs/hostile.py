"""hostile ALIAS SEED: writes random values all over its own segment while it sends, until that has been noticed."""

import mmap
import os
import random
import sys
import threading
import time
from uuid import UUID

from layer8 import Layer8Error, Vnic
from layer8.dataplane import Segment

kept: list[int] = []
create = Segment.create


def keep(ring_bytes: int, uuid: UUID) -> Segment:
    segment = create(ring_bytes, uuid)
    kept.append(os.dup(segment.fd))
    return segment


setattr(Segment, "create", keep)  # noqa: B010 (mypy would not let us)
alias = sys.argv[1]
chance = random.Random(int(sys.argv[2]))
vnic = Vnic(attach_timeout=30.0)
memory = mmap.mmap(kept[0], 0)
print("ready", vnic.uuid)


def send() -> None:
    while True:
        try:
            vnic.send(alias, b"hostile" * chance.randrange(1, 20000), timeout=0.05)
            vnic.publish("hostile", b"x", reliable=True, timeout=0.05)
            vnic.request(alias, b"hostile", timeout=0.05)
        except Layer8Error:
            pass


threading.Thread(target=send, daemon=True).start()
time.sleep(0.05)
while vnic.stats().attachments == 1:
    # Mostly where it hurts: positions, wake-ups, flags, and the records of the transmit ring.
    place = chance.choice([(0x1000, 0x1600), (0x0, 0x8000), (0x8000, len(memory)), (0x8000, 0x8000 + 65536)])
    at = chance.randrange(place[0], place[1] - 8) & ~7
    value = chance.choice([chance.randbytes(8), bytes(8), b"\xff" * 8, chance.randrange(1 << 20).to_bytes(8, "little")])
    memory[at : at + 8] = value
    time.sleep(0.0005)
print("noticed")
os._exit(0)
