"""work ALIAS: a worker of a pool; says how many it did when its stdin ends."""

import sys
import threading

from layer8 import Request, Vnic

with Vnic(sys.argv[1], attach_timeout=30.0) as vnic:

    def end() -> None:
        sys.stdin.read()
        vnic.drain()

    threading.Thread(target=end, daemon=True).start()
    print("ready")
    count = 0
    for message in vnic:
        count += 1
        if isinstance(message, Request):
            message.reply(message.payload[::-1])
    print("done", count)
