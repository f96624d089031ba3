"""count_send ALIAS COUNT: sends the numbers from 0 on to who has this alias now; until COUNT, or a line on stdin. Then
"sent N". What comes back is said on stderr."""

import sys
import threading

from layer8 import Undeliverable, Vnic

stop = threading.Event()


def back(report: Undeliverable) -> None:
    print(f"back {report.sequence} {report.reason}", flush=True)


def wait() -> None:
    sys.stdin.readline()
    stop.set()


with Vnic(attach_timeout=60, timeout=120) as vnic:
    vnic.on_undeliverable = back
    to = vnic.find(sys.argv[1], timeout=120).uuid
    print(f"up {vnic.uuid}", flush=True)
    threading.Thread(target=wait, daemon=True).start()
    limit, count = int(sys.argv[2]), 0
    while count < limit and not stop.is_set():
        vnic.send(to, count.to_bytes(8, "little"), timeout=120)
        count += 1
    print(f"sent {count}", flush=True)
    sys.stdin.readline()
