"""Two workers share an alias and answer requests; whoever asks does not care which. A Vnet must run: `layer8 vnet`."""

import multiprocessing
import os
import sys

from layer8 import Request, RequestFailed, VnetNotFound, Vnic

ALIAS = "example.squares"


def worker() -> None:
    with Vnic(ALIAS) as vnic:
        for message in vnic:
            if not isinstance(message, Request):
                continue
            try:
                square = int(message.payload) ** 2
            except ValueError:
                message.fail("not a number", message.payload)
            else:
                message.reply(f"{square} (from process {os.getpid()})".encode())


def main() -> None:
    processes = multiprocessing.get_context("spawn")
    with Vnic() as vnic:
        workers = [processes.Process(target=worker, daemon=True) for _ in range(2)]
        for process in workers:
            process.start()
        vnic.find(ALIAS, timeout=30.0)  # until the first of them is up
        for number in (b"3", b"4", b"5", b"twelve"):
            try:
                print(number.decode(), "->", vnic.request(ALIAS, number).payload.decode())
            except RequestFailed as error:
                print(number.decode(), "->", error)
        for process in workers:
            process.terminate()  # a Vnic needs no goodbye: the Vnet sees that its process has ended
            process.join()


if __name__ == "__main__":
    try:
        main()
    except VnetNotFound as error:
        sys.exit(str(error))
