"""crowd.py COUNT: so many Vnics, each of which sends numbers to the next one; at the end each has got all, in order.

A line on stdin is a round: it sends, says "sent", and when all has come "came" with how many Vnics are attached anew.
"""

from __future__ import annotations

import sys

from layer8 import Vnic

ROUND = 5


def main(count: int) -> None:
    vnics = [Vnic(ring_bytes=512 << 10, timeout=120, attach_timeout=120) for _ in range(count)]
    print("ready", flush=True)
    for rounds, _ in enumerate(sys.stdin):
        for number in range(ROUND):
            for place, vnic in enumerate(vnics):
                vnic.send(vnics[(place + 1) % count].uuid, f"{place} {rounds * ROUND + number}".encode())
        print("sent", flush=True)
        for place, vnic in enumerate(vnics):
            got = [vnic.receive(120).payload.decode() for _ in range(ROUND)]
            expected = [f"{(place - 1) % count} {rounds * ROUND + number}" for number in range(ROUND)]
            assert got == expected, (got, expected)
            assert vnic.try_receive() is None
        print("came", sum(vnic.stats().attachments > 1 for vnic in vnics), flush=True)


main(int(sys.argv[1]))
