"""obey ALIAS [TOPIC]: does what it is told, in lines: send TO FIRST COUNT SIZE, large TO SIZE (it goes on with other
things meanwhile), read (until the number 0 comes), figure (of bytes in its transmit ring). What it sends
begins with a number of eight bytes."""

import sys
import threading

from layer8 import Vnic

vnic = Vnic(sys.argv[1], attach_timeout=30.0, timeout=30.0)
for topic in sys.argv[2:]:
    vnic.subscribe(topic)


def send_large(to: str, size: int) -> None:
    try:
        vnic.send(to, bytes(size), timeout=None)
    except Exception as error:
        print("large", type(error).__name__)
    else:
        print("large", "sent")


print("ready", vnic.uuid)
for line in sys.stdin:
    match line.split():
        case ["send", to, first, count, size]:
            for number in range(int(first), int(first) + int(count)):
                vnic.send(to, number.to_bytes(8, "little").ljust(int(size), b"."))
        case ["large", to, size]:
            threading.Thread(target=send_large, args=(to, int(size)), daemon=True).start()
        case ["read"]:
            numbers: list[int] = []
            while not numbers or numbers[-1]:
                numbers.append(int.from_bytes(vnic.receive().payload[:8], "little"))
            print("read", *numbers)
        case ["figure"]:
            port = vnic.stats().port
            print("figure", -1 if port is None else port.transmit_fill)
    print("did", line.split()[0])
