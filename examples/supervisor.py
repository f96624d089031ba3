"""A supervisor: keeps one worker running, and starts another when the Vnet says that it is gone. A Vnet must run."""

import multiprocessing
import sys
from multiprocessing.process import BaseProcess

from layer8 import VnetNotFound, Vnic

ALIAS = "example.supervised"
processes = multiprocessing.get_context("spawn")


def worker() -> None:
    with Vnic(ALIAS) as vnic:
        vnic.serve(lambda request: request.payload).wait()


def start() -> BaseProcess:
    process = processes.Process(target=worker, daemon=True)
    process.start()
    return process


def main(restarts: int = 2) -> None:
    with Vnic() as vnic, vnic.watch(alias=ALIAS) as watch:
        process = start()
        for event in watch:
            if event.kind == "joined":
                print("up:", vnic.request(ALIAS, b"it answers", timeout=30.0).payload.decode(), flush=True)
                if restarts == 0:
                    break
                restarts -= 1
                process.kill()  # it crashes
            elif event.kind == "left" and event.record.pid == process.pid:
                print("gone: another one is started", flush=True)
                process.join()
                process = start()
        process.terminate()
        process.join()


if __name__ == "__main__":
    try:
        main()
    except VnetNotFound as error:
        sys.exit(str(error))
