"""The other end of a measurement, a process of its own: `python -m layer8.bench.peer MODE ALIAS`.

MODE: echo sends every message back, serve answers requests, sink counts to the first empty message and says how many
there were. It prints `ready` when it is attached, and what it has counted at its end.
"""

from __future__ import annotations

import json
import sys
import time

from layer8.vnic import Vnic


def main() -> None:
    mode, alias = sys.argv[1:]
    with Vnic(alias, attach_timeout=30.0, timeout=None) as vnic:
        if mode == "serve":
            service = vnic.serve(lambda request: request.payload)
            print("ready", flush=True)
            sys.stdin.read()  # until the measuring process has enough, or is gone
            service.close()
            return
        print("ready", flush=True)
        if mode == "echo":
            for message in vnic:
                if not message.payload:
                    return
                vnic.send(message.source, message.payload)
        else:
            print(json.dumps(_count(vnic, batched=mode == "sink-batched")), flush=True)


def _count(vnic: Vnic, batched: bool) -> dict[str, float]:
    """From the first message to the empty one."""
    count = size = 0
    begun = 0.0
    while True:
        for message in vnic.receive_many() if batched else [vnic.receive()]:
            if not begun:
                begun = time.monotonic()
            if not message.payload:
                seconds = max(time.monotonic() - begun, 1e-9)
                return {"messages_per_s": count / seconds, "bytes_per_s": size / seconds, "count": count}
            count += 1
            size += len(message.payload)


if __name__ == "__main__":
    main()
