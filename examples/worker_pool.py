"""A pool of workers behind one alias. Told to stop, each finishes what it has, so nothing fails. A Vnet must run.

SIGTERM lets a worker drain: it leaves the alias, answers what it was given before, and ends. The pool replaces one
worker after the other while a client asks on.
"""

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess

from layer8 import Request, RequestFailed, Unreachable, VnetNotFound, Vnic

ALIAS = "example.pool"
processes = multiprocessing.get_context("spawn")


def worker() -> None:
    with Vnic(ALIAS) as vnic:
        signal.signal(signal.SIGTERM, lambda number, frame: vnic.drain())
        for message in vnic:  # ends after drain(), with the last message
            if isinstance(message, Request):
                time.sleep(0.002)  # work
                message.reply(b"%d" % os.getpid())


def start() -> BaseProcess:
    process = processes.Process(target=worker)
    process.start()
    return process


def ask(vnic: Vnic, number: int) -> int:
    """The pid of the worker that answered. What this asks for may be done twice, so it asks again when it must."""
    while True:
        try:
            return int(vnic.request(ALIAS, b"%d" % number, timeout=30.0).payload)
        except (Unreachable, RequestFailed):
            vnic.find(ALIAS, timeout=30.0)


def main() -> None:
    with Vnic() as vnic:
        pool = [start() for _ in range(2)]
        vnic.find(ALIAS, timeout=30.0)
        answered: set[int] = set()
        for number in range(100):
            if number in (30, 60):  # replace one: the new one first, then the old one is told to stop
                pool.append(start())
                deadline = time.monotonic() + 30.0
                while len(vnic.health(alias=ALIAS, state="UP")) < 3 and time.monotonic() < deadline:
                    time.sleep(0.01)
                old = pool.pop(0)
                old.terminate()
                old.join()
                print("a worker stopped with status", old.exitcode)
            answered.add(ask(vnic, number))
        print("100 requests answered by several workers:", len(answered) > 1)
        for process in pool:
            process.terminate()
            process.join()


if __name__ == "__main__":
    try:
        main()
    except VnetNotFound as error:
        sys.exit(str(error))
