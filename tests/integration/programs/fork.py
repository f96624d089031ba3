"""fork ALIAS: a multiprocessing child by fork uses its parent's Vnic; then the parent dies and the child lives on."""

import multiprocessing
import os
import sys
import time

from layer8 import Closed, Vnic


def say(line: str) -> None:
    """In one piece: two processes have the same stdout."""
    os.write(1, f"{line}\n".encode())


def child(vnic: Vnic, alias: str) -> None:
    try:
        vnic.send(alias, b"from the child")
    except Closed:
        say(f"child closed {os.getpid()}")
    time.sleep(3600)


if __name__ == "__main__":
    with Vnic("forking", attach_timeout=30.0) as vnic:
        vnic.send(sys.argv[1], b"before")
        vnic.subscribe("something", print)
        process = multiprocessing.get_context("fork").Process(target=child, args=(vnic, sys.argv[1]))
        process.start()
        say(f"ready {vnic.uuid}")
        sys.stdin.readline()
        vnic.send(sys.argv[1], b"after")
        say("sent")
        time.sleep(3600)
