"""wait HOW: waits as told, until SIGINT."""

import sys
from collections.abc import Callable

from layer8 import Vnic

with Vnic("waiter", attach_timeout=30.0) as vnic:
    waits: dict[str, Callable[[], object]] = {
        "receive": vnic.receive,
        "iterate": lambda: list(vnic),
        "request": lambda: vnic.request("nobody-answers", b"", timeout=None),
        "find": lambda: vnic.find("nobody", timeout=None),
        "send": lambda: [vnic.send("nobody-answers", bytes(60000), timeout=None) for _ in range(100)],
    }
    print("ready")
    try:
        waits[sys.argv[1]]()
    except KeyboardInterrupt:
        print("interrupted")
