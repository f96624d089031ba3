"""patient ALIAS: a Vnic that falls ill as it is told to, in lines: exit N, busy, leak MIB, sane,
read, report."""

import os
import sys
import threading

from layer8 import Vnic

vnic = Vnic(sys.argv[1], attach_timeout=30.0)
print("ready", vnic.uuid)
leaked: list[bytes] = []
busy = threading.Event()


def turn() -> None:
    while busy.is_set():
        pass


for line in sys.stdin:
    word, _, value = line.strip().partition(" ")
    match word:
        case "exit":
            os._exit(int(value))
        case "busy":
            busy.set()
            threading.Thread(target=turn, daemon=True).start()
        case "sane":
            busy.clear()
            leaked.clear()
        case "leak":
            leaked.append(os.urandom(1 << 20) * int(value))
        case "report":
            vnic.allow_reports()
        case "read":
            while vnic.try_receive() is not None:
                pass
    print("did", word)
