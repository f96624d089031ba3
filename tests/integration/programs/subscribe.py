"""subscribe TOPIC: counts publications; "end" as payload makes it say what it got and missed."""

import sys

from layer8 import Vnic

with Vnic(attach_timeout=30.0) as vnic, vnic.subscribe(sys.argv[1]) as subscription:
    print("ready", vnic.uuid)
    got = missed = 0
    numbers: list[int] = []
    for message in vnic:
        missed += message.missed
        if message.payload == b"end":
            ordered = numbers == sorted(set(numbers))
            print("result", got, missed, subscription.missed, ordered)
            got, missed, numbers = 0, 0, []
            continue
        got += 1
        numbers.append(int.from_bytes(message.payload[:4], "little"))
