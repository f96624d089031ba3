"""count_receive ALIAS [TOPIC]: receives numbers in order from one sender, or on a topic; says the first that is out of
order, and at a line on stdin "have N": how many have come."""

import sys
import threading

from layer8 import Vnic

count = 0
wrong = ""
lock = threading.Lock()

with Vnic(sys.argv[1], attach_timeout=60, timeout=120) as vnic:
    for topic in sys.argv[2:]:
        vnic.subscribe(topic)
    print(f"up {vnic.uuid}", flush=True)

    def read() -> None:
        global count, wrong
        while True:
            for message in vnic.receive_many():
                number = int.from_bytes(message.payload[:8], "little")
                with lock:
                    if number != count and not wrong:
                        wrong = f"{number} in place of {count}"
                    count += 1

    threading.Thread(target=read, daemon=True).start()
    for _ in sys.stdin:
        with lock:
            print(f"have {count} {wrong}".strip(), flush=True)
