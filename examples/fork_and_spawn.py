"""multiprocessing with fork and with spawn: each process makes its own Vnic. A Vnet must run.

A Vnic does not pass into a child. After a fork the child's copy is closed and raises Closed; the parent's goes on.
"""

import multiprocessing
import sys

from layer8 import Closed, VnetNotFound, Vnic

parents: Vnic | None = None


def child(method: str) -> None:
    if parents is not None:  # only fork copies it
        try:
            parents.send("example.parent", b"")
        except Closed:
            print(f"{method}: the parent's Vnic is closed here", flush=True)
    with Vnic() as vnic:
        vnic.send("example.parent", f"{method}: a Vnic of its own".encode())


def main() -> None:
    global parents
    parents = Vnic("example.parent")
    with parents:
        for process in (
            multiprocessing.get_context("fork").Process(target=child, args=("fork",)),
            multiprocessing.get_context("spawn").Process(target=child, args=("spawn",)),
        ):
            process.start()
            print(parents.receive(timeout=30.0).payload.decode(), flush=True)
            process.join()
            assert process.exitcode == 0


if __name__ == "__main__":
    try:
        main()
    except VnetNotFound as error:
        sys.exit(str(error))
