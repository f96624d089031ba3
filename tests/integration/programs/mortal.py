"""mortal.py SEED: takes part in everything until it is killed, and keeps no book.

It shares the alias "mortal", subscribes to both topics, and sends to everybody that the books are kept of.
"""

import random
import sys
import threading

from layer8 import Layer8Error, Vnic

chance = random.Random(int(sys.argv[1]))
vnic = Vnic("mortal", timeout=60.0, attach_timeout=60.0)
vnic.subscribe("reliable")
vnic.subscribe("fleeting")


def read() -> None:
    for _ in vnic:
        pass


threading.Thread(target=read, daemon=True).start()
print("ready", flush=True)
while True:
    payload = bytes(chance.choice([10, 1000, 30_000, 100_000]))
    try:
        match chance.randrange(5):
            case 0:
                vnic.send("reader", payload)
            case 1:
                vnic.send("pool", payload)
            case 2:
                vnic.send("mortal", payload)
            case 3:
                vnic.publish("reliable", payload, reliable=True)
            case 4:
                vnic.request("server", payload[:10_000])
    except Layer8Error:
        pass
